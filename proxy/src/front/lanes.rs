//! Lanes: threads with an event loop each, which run what is only passed on: sessions of layer 4, and connections of
//! listeners that forward all their requests.
//!
//! Passing on is next to nothing but waiting for one of two sockets. Where all threads share all work, it is the waking
//! and the handing over from one thread to another that costs most of its time: what runs on a lane is woken by the
//! thread that runs it, and nobody takes it away. What computes, or is uneven, does not belong here.
//!
//! Invariant: what runs on a lane ends when whoever waits for it is gone.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::task::AbortOnDropHandle;

/// As many as there are cores. They are there from the first session on, and as long as the process.
static LANES: LazyLock<Vec<Handle>> = LazyLock::new(|| {
    let count = thread::available_parallelism().map_or(1, usize::from);
    (0..count)
        .filter_map(|number| open(number).inspect_err(|error| tracing::warn!(%error, "a lane cannot be opened")).ok())
        .collect()
});

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Which lane this is; `None` for the threads that share their work. A socket is best used where it was made.
pub(crate) fn current() -> Option<usize> {
    CURRENT.get()
}

/// On a lane: lets everything go first that can go on just now. Whoever has read something waits here before acting on it, so
/// that all is read and then all is written: those at the other ends are woken once for many messages, and not for each.
pub(crate) async fn after_others() {
    let mut waited = current().is_none();
    poll_fn(|context| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn open(number: usize) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name("lane".to_owned()).spawn(move || {
        CURRENT.set(Some(number));
        runtime.block_on(std::future::pending::<()>());
    })?;
    Ok(handle)
}

/// Runs a task on one of the lanes. Sockets that it uses must be made in it, for it is the lane that watches them. `None`
/// when it panicked.
pub(super) async fn run<F>(task: F) -> Option<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    match LANES.get(NEXT.fetch_add(1, Ordering::Relaxed) % LANES.len().max(1)) {
        Some(lane) => AbortOnDropHandle::new(lane.spawn(task)).await.ok(),
        None => Some(task.await),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn all_is_read_before_anything_is_written() {
        assert!(after_others().now_or_never().is_some(), "only lanes wait");
        let told = run(async {
            let told = Arc::new(Mutex::new(Vec::new()));
            let task = |name: char| {
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    told.lock().unwrap().push(format!("{name} reads"));
                    after_others().await;
                    told.lock().unwrap().push(format!("{name} writes"));
                })
            };
            let (one, other) = (task('a'), task('b'));
            one.await.unwrap();
            other.await.unwrap();
            Arc::into_inner(told).unwrap().into_inner().unwrap()
        });
        assert_eq!(told.await.unwrap(), ["a reads", "b reads", "a writes", "b writes"]);
    }

    #[tokio::test]
    async fn a_task_runs_on_a_thread_of_its_own_and_ends_with_who_waits() {
        let here = thread::current().id();
        assert_ne!(run(async { thread::current().id() }).await, Some(here));
        assert_eq!(current(), None);
        assert!(run(async { current() }).await.flatten().is_some());
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let endless = run(async move {
            std::future::pending::<()>().await;
            drop(alive);
        });
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), endless).await.is_err());
        assert!(gone.await.is_err(), "dropped");
    }
}
