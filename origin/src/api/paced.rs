//! The body of a request that holds a place: what arrives is counted, and it ends when the room wants the place back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use pierhead_service::shares::Pace;
use tokio_util::sync::WaitForCancellationFutureOwned;

/// What a client that was too slow gets to read.
pub(super) const TOO_SLOW: &str = "others wait for this place, and the body came too slowly: send it again";

/// A body, and the pace of its client.
pub(super) struct Paced {
    body: Body,
    pace: Arc<Pace>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Paced {
    /// Of a request that holds a permit of this pace.
    pub(super) fn new(body: Body, pace: Arc<Pace>) -> Paced {
        let cut = Box::pin(pace.when_cut().cancelled_owned());
        Paced { body, pace, cut }
    }
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len));
            self.pace.moved(bytes.unwrap_or_default() as u64);
            return Poll::Ready(frame);
        }
        self.pace.waits();
        ready!(self.cut.as_mut().poll(context));
        self.pace.moved(0);
        Poll::Ready(Some(Err(axum::Error::new(io::Error::new(io::ErrorKind::TimedOut, TOO_SLOW)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
