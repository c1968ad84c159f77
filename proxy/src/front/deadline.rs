//! A timer that is cheap to move.
//!
//! A connection sets a new deadline for every request and hardly ever reaches one. Moving a tokio timer takes the
//! timer's lock; so a deadline that moves away leaves the timer where it is, and the timer, when it fires too early,
//! moves on by itself: one registration in a deadline's length instead of two a request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// A moment that may pass.
#[derive(Debug)]
pub(crate) struct Deadline {
    timer: Pin<Box<Sleep>>,
    at: Instant,
}

impl Deadline {
    /// Passes at `at`.
    pub(crate) fn new(at: Instant) -> Deadline {
        Deadline { timer: Box::pin(tokio::time::sleep_until(at)), at }
    }

    /// The one of a place that has none before the first wait: most never wait.
    pub(crate) fn at(place: &mut Option<Deadline>, at: Instant) -> &mut Deadline {
        let deadline = place.get_or_insert_with(|| Deadline::new(at));
        deadline.set(at);
        deadline
    }

    /// Passes at `at` instead.
    pub(crate) fn set(&mut self, at: Instant) {
        self.at = at;
        if at < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(at);
        }
    }

    /// Ready once it has passed; it may be set again then.
    pub(crate) fn poll_passed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            if self.timer.deadline() >= self.at {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at);
        }
    }

    /// Waits until it has passed.
    pub(crate) async fn passed(&mut self) {
        std::future::poll_fn(|context| self.poll_passed(context)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn passes_at_the_moment_that_was_set_last() {
        let start = Instant::now();
        for (moves, expected) in [(&[10][..], 10), (&[10, 30], 30), (&[30, 10], 10), (&[10, 30, 20], 20)] {
            let begin = Instant::now();
            let mut deadline = Deadline::new(begin + Duration::from_secs(moves[0]));
            for seconds in &moves[1..] {
                deadline.set(begin + Duration::from_secs(*seconds));
            }
            deadline.passed().await;
            assert_eq!(begin.elapsed().as_secs(), expected, "{moves:?}");
        }
        assert!(start.elapsed() >= Duration::from_secs(70));
    }

    #[tokio::test(start_paused = true)]
    async fn can_be_set_again_after_it_has_passed() {
        let begin = Instant::now();
        let mut deadline = Deadline::new(begin + Duration::from_secs(1));
        deadline.passed().await;
        deadline.set(begin + Duration::from_secs(5));
        deadline.passed().await;
        assert_eq!(begin.elapsed().as_secs(), 5);
    }
}
