//! The body of a request, with an end to a client's patience: one that sends nothing for too long is given up.
//!
//! Only waiting counts. While nobody asks for more, because the store is slow, the client's time stands still.
//!
//! A request that is refused before its body was read is answered, and some of the body still taken: a connection that is closed on
//! bytes that nobody read is reset, and the client sees that instead of the answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

/// What is still taken of a body that nobody wants, and for how long.
const UNWANTED: usize = 8 * 1024 * 1024;
const UNWANTED_TIME: Duration = Duration::from_secs(5);

/// A body as it comes in.
pub(crate) struct Arriving {
    /// There until this is dropped.
    body: Option<Incoming>,
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
        Arriving { body: Some(body), silence, wait: None, waiting: false }
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

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        // Without a runtime nobody waits for an answer either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(UNWANTED_TIME, async move {
                let mut taken = 0;
                while taken < UNWANTED
                    && let Some(Ok(frame)) = body.frame().await
                {
                    taken += frame.data_ref().map_or(0, Bytes::len);
                }
            }));
        }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = ArrivalError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ArrivalError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.waiting = false;
                Poll::Ready(frame.map(|frame| frame.map_err(ArrivalError::Broken)))
            }
            Poll::Pending => self.poll_silent(context).map(|()| Some(Err(ArrivalError::Silent))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}
