//! The body of a request, with an end to a client's patience: one that sends nothing for too long is given up.
//!
//! Only waiting counts. While nobody asks for more, because the store is slow, the client's time stands still.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

/// A body as it comes in.
pub(crate) struct Arriving {
    body: Incoming,
    silence: Duration,
    /// While something is waited for.
    wait: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// Why there is no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArrivalError {
    /// The client sent nothing for too long.
    #[error("the client sends nothing")]
    Silent,
    /// It broke off, or sent what is no HTTP.
    #[error("the client broke off: {0}")]
    Broken(#[source] hyper::Error),
}

impl Arriving {
    /// `silence`: how long a client may send nothing.
    pub(super) fn new(body: Incoming, silence: Duration) -> Arriving {
        Arriving { body, silence, wait: None, waiting: false }
    }

    fn poll_silent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = Instant::now() + self.silence;
        let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.waiting {
            self.waiting = true;
            wait.as_mut().reset(until);
        }
        wait.as_mut().poll(context)
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = ArrivalError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ArrivalError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.waiting = false;
                Poll::Ready(frame.map(|frame| frame.map_err(ArrivalError::Broken)))
            }
            Poll::Pending => self.poll_silent(context).map(|()| Some(Err(ArrivalError::Silent))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
