//! Many hostile connections from one place: each sends what its attack begins with, and then as little as it can.
//!
//! A connection that the server ends is made again, so an attack lasts as long as its [`Attack`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::eventually;

/// What a connection does after its first bytes.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// It neither sends nor reads.
    Nothing,
    /// It sends a byte every so often.
    Drip(Duration),
    /// It reads a few bytes every so often.
    Sip(Duration),
}

/// Between the end of a connection and the next in its place.
const PAUSE: Duration = Duration::from_secs(1);

/// Connections at work, until it is dropped.
pub struct Attack {
    _tasks: JoinSet<()>,
    begun: Arc<AtomicUsize>,
}

impl Attack {
    /// So many connections from an address of the loopback. Comes back once all have sent their first bytes.
    pub async fn begin(
        count: usize,
        from: impl Into<IpAddr>,
        to: SocketAddr,
        first: impl Fn(usize) -> Vec<u8>,
        then: Then,
    ) -> Attack {
        raise_limit();
        let from = SocketAddr::new(from.into(), 0);
        let begun = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let (first, begun) = (first(number), Arc::clone(&begun));
            tasks.spawn(async move {
                let mut is_first = true;
                loop {
                    if let Ok(tcp) = connect(from, to).await {
                        hold(tcp, &first, then, || {
                            if std::mem::take(&mut is_first) {
                                begun.fetch_add(1, Ordering::Relaxed);
                            }
                        })
                        .await;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        let all = async || (begun.load(Ordering::Relaxed) == count).then_some(());
        eventually("all hostile connections", Duration::from_secs(60), all).await;
        Attack { _tasks: tasks, begun }
    }

    /// Connections that sent their first bytes, each counted once.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }
}

async fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that the kernel does not take the rest on behalf of a client that reads nothing.
    socket.set_recv_buffer_size(4096)?;
    socket.bind(from)?;
    socket.connect(to).await
}

async fn hold(mut tcp: TcpStream, first: &[u8], then: Then, mut begun: impl FnMut()) {
    if tcp.write_all(first).await.is_err() {
        return;
    }
    begun();
    let mut few = [0; 16];
    loop {
        match then {
            Then::Nothing => {
                // Bytes that come are left where they are; only an end is noticed.
                match tcp.peek(&mut few).await {
                    Ok(count) if count > 0 => tokio::time::sleep(PAUSE).await,
                    _ => return,
                }
            }
            Then::Drip(every) => {
                tokio::select! {
                    // An answer to what is not whole yet is a refusal.
                    _ = tcp.read(&mut few) => return,
                    () = tokio::time::sleep(every) => {}
                }
                if tcp.write_all(b"a").await.is_err() {
                    return;
                }
            }
            Then::Sip(every) => {
                if !matches!(tcp.read(&mut few).await, Ok(count) if count > 0) {
                    return;
                }
                tokio::time::sleep(every).await;
            }
        }
    }
}

/// As many descriptors as the system allows.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
