//! Both directions of a session, until both have ended or one is broken.
//!
//! Invariants: the end of one direction leaves the other as it is; a session of which nothing moves for its time ends. Both
//! directions are one task: an answer then wakes no more than its question did.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::deadline::Deadline;
use super::splice::{Broken, End, Flow};
use crate::admin::sessions::Passed;

/// How long a session may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// As long as both directions are open.
    pub(super) idle: Duration,
    /// When one has ended.
    pub(super) half_close: Duration,
}

/// How often what was passed on is told.
const TELL: Duration = Duration::from_secs(1);

/// How a session came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Both directions ended, the client's first.
    Client,
    /// Both directions ended, the server's first.
    Server,
    /// The client broke off.
    ClientBroke,
    /// The server broke off.
    ServerBroke,
    /// Nothing moved.
    Idle,
    /// Nothing moved since one direction had ended.
    HalfClosed,
}

/// Passes bytes on, beginning with those that the client had sent already. Calls `tell` now and then, while something
/// moves.
pub(super) async fn relay<S: End>(
    client: &mut TcpStream,
    server: &mut S,
    received: BytesMut,
    silence: Silence,
    passed: &Passed,
    tell: impl Fn(),
) -> Over {
    let begun = Instant::now();
    let mut told = begun;
    let (mut up, mut down) = (Flow::new(received), Flow::new(BytesMut::new()));
    let mut deadline = Deadline::new(begun + silence.idle);
    let (mut progress, mut first) = (0, None);
    poll_fn(|context| {
        let upward = up.poll(context, client, server);
        passed.up.store(up.given(), Ordering::Relaxed);
        if let Poll::Ready(Err(broken)) = upward {
            return Poll::Ready(broken_off(&broken, Over::ClientBroke, Over::ServerBroke));
        }
        let downward = down.poll(context, server, client);
        passed.down.store(down.given(), Ordering::Relaxed);
        if let Poll::Ready(Err(broken)) = downward {
            return Poll::Ready(broken_off(&broken, Over::ServerBroke, Over::ClientBroke));
        }
        let open = first.is_none();
        first = first.or_else(|| match (up.ended(), down.ended()) {
            (false, false) => None,
            (true, _) => Some(Over::Client),
            (false, true) => Some(Over::Server),
        });
        if let (Some(first), true, true) = (first, upward.is_ready(), downward.is_ready()) {
            return Poll::Ready(first);
        }
        let seen = up.progress() + down.progress();
        // An end that comes alone, long after the last byte, is a beginning as well: that of the shorter wait.
        if seen != progress || open && first.is_some() {
            progress = seen;
            let limit = if first.is_some() { silence.half_close } else { silence.idle };
            let now = Instant::now();
            deadline.set(now + limit);
            if now.duration_since(told) > TELL {
                told = now;
                tell();
            }
        }
        deadline.poll_passed(context).map(|()| if first.is_some() { Over::HalfClosed } else { Over::Idle })
    })
    .await
}

/// Who broke off, of the two ends of a direction.
fn broken_off(broken: &Broken, source: Over, target: Over) -> Over {
    let (over, error) = match broken {
        Broken::Source(error) => (source, error),
        Broken::Target(error) => (target, error),
    };
    tracing::debug!(?over, %error, "session broken off");
    over
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
        (client.unwrap(), accepted.unwrap().0)
    }

    /// The two ends that a session lies between, and what it comes to.
    async fn session(silence: Silence) -> (TcpStream, TcpStream, tokio::task::JoinHandle<(Over, u64, u64)>) {
        let (client, mut client_side) = pair().await;
        let (mut server_side, server) = pair().await;
        let task = tokio::spawn(async move {
            let passed = Passed::default();
            let over =
                relay(&mut client_side, &mut server_side, BytesMut::from("hello "), silence, &passed, || {}).await;
            (over, passed.up.into_inner(), passed.down.into_inner())
        });
        (client, server, task)
    }

    #[tokio::test]
    async fn one_side_may_end_and_still_get_its_answer() {
        for server_first in [false, true] {
            let (client, server, task) = session(Silence { idle: LONG, half_close: LONG }).await;
            let (mut one, mut other) = if server_first { (server, client) } else { (client, server) };
            one.write_all(b"question").await.unwrap();
            one.shutdown().await.unwrap();
            let mut question = String::new();
            other.read_to_string(&mut question).await.unwrap();
            assert_eq!(question, if server_first { "question" } else { "hello question" });
            other.write_all(b"a long answer").await.unwrap();
            other.shutdown().await.unwrap();
            let mut answer = String::new();
            one.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, if server_first { "hello a long answer" } else { "a long answer" });
            let expected = if server_first { (Over::Server, 19, 8) } else { (Over::Client, 14, 13) };
            assert_eq!(task.await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn silence_ends_a_session() {
        let short = Duration::from_millis(100);
        let (_client, _server, task) = session(Silence { idle: short, half_close: LONG }).await;
        assert_eq!(task.await.unwrap(), (Over::Idle, 6, 0));
        let (mut client, mut server, task) = session(Silence { idle: LONG, half_close: short }).await;
        // All that was said has arrived: the end comes alone.
        server.read_exact(&mut [0; 6]).await.unwrap();
        client.shutdown().await.unwrap();
        let over = tokio::time::timeout(LONG / 4, task).await.expect("the shorter wait has not begun");
        assert_eq!(over.unwrap(), (Over::HalfClosed, 6, 0));
    }

    #[tokio::test]
    async fn a_session_that_talks_goes_on_past_its_time_of_silence() {
        let short = Duration::from_millis(200);
        let (mut client, mut server, task) = session(Silence { idle: short, half_close: short }).await;
        server.read_exact(&mut [0; 6]).await.unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < 3 * short {
            client.write_all(b"a").await.unwrap();
            server.read_exact(&mut [0; 1]).await.unwrap();
            tokio::time::sleep(short / 20).await;
        }
        drop(client);
        drop(server);
        assert!(matches!(task.await.unwrap().0, Over::Client | Over::Server));
    }

    #[tokio::test]
    async fn whoever_breaks_off_is_named() {
        for (server_breaks, expected) in [(false, Over::ClientBroke), (true, Over::ServerBroke)] {
            let (client, server, task) = session(Silence { idle: LONG, half_close: LONG }).await;
            let (breaks, _stays) = if server_breaks { (server, client) } else { (client, server) };
            rustix::net::sockopt::set_socket_linger(&breaks, Some(Duration::ZERO)).unwrap();
            drop(breaks);
            assert_eq!(task.await.unwrap().0, expected);
        }
    }
}
