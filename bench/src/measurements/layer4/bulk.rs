//! Large transfers: what a byte costs. Both ends are as lean as they can be: the source sends the same memory again and
//! again, the sink has the kernel throw away what comes.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use rustix::net::RecvFlags;
use tempfile::TempDir;

use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::procfs::Server;
use crate::report::{Figure, Findings, Series, Target};

/// What is measured.
pub(crate) const ABOUT: &str = "1 GiB through layer 4, one connection: throughput and server CPU against haproxy";

/// Bytes a turn.
const SIZE: u64 = 1 << 30;
/// Bytes that are written, and thrown away, at a time.
const STEP: usize = 256 << 10;

/// What one turn of one side gave.
struct Turn {
    /// Gigabytes a second.
    speed: f64,
    /// Seconds of the proxy's CPU for a gigabyte.
    cpu: f64,
}

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    let servers = [source()];
    let haproxy = Peer::haproxy_layer4(dir.path(), &servers).await;
    let edge = Plan::layer4(&servers).start().await;

    let sides = [(edge.registry, edge.server()), (haproxy.address("PROXY_PORT"), haproxy.server())];
    let mut turns = [const { Vec::new() }; 2];
    for (address, server) in &sides {
        turn(*address, *server).await;
    }
    for _ in 0..scale.runs {
        for (side, (address, server)) in sides.iter().enumerate() {
            turns[side].push(turn(*address, *server).await);
        }
    }
    let series = |side: usize, unit: &'static str, of: fn(&Turn) -> f64| {
        Series::new(["pierhead", "haproxy"][side], unit, turns[side].iter().map(of).collect())
    };
    let ratio = |name: &str, unit: &'static str, of: fn(&Turn) -> f64, target| {
        Figure::ratio(name, series(0, unit, of), series(1, unit, of), Some(target))
    };
    Findings {
        figures: vec![
            ratio("throughput", "GB/s", |turn| turn.speed, Target::AtLeast(1.0)),
            ratio("server CPU", "s/GB", |turn| turn.cpu, Target::AtMost(1.0)),
        ],
        notes: vec!["both may use splice(2): haproxy by `option splice-auto`, pierhead by itself".into()],
        settings: vec![("pierhead".into(), edge.settings()), ("haproxy".into(), haproxy.settings.clone())],
    }
}

/// A server that sends [`SIZE`] bytes to whoever connects and says so with one byte; whoever does not, as checks do, gets
/// nothing. It runs for as long as the program.
fn source() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            thread::spawn(move || {
                let asked = rustix::net::recv(&stream, &mut [0_u8; 1], RecvFlags::empty());
                if !matches!(asked, Ok((_, 1))) {
                    return;
                }
                let memory = vec![7; STEP];
                for _ in 0..SIZE / STEP as u64 {
                    if stream.write_all(&memory).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn turn(address: SocketAddr, server: Server) -> Turn {
    let before = server.cpu();
    let seconds = tokio::task::spawn_blocking(move || drain(address)).await.expect("a whole transfer");
    let gigabytes = SIZE as f64 / 1e9;
    Turn { speed: gigabytes / seconds, cpu: (server.cpu() - before) / gigabytes }
}

/// Seconds from the question to the last byte.
fn drain(address: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(address).expect("connection");
    let begun = Instant::now();
    stream.write_all(b"?").expect("question");
    let mut nowhere = vec![0_u8; STEP];
    let mut received = 0;
    while received < SIZE {
        let (_, count) = rustix::net::recv(&stream, &mut nowhere[..], RecvFlags::TRUNC).expect("bytes");
        assert_ne!(count, 0, "ended after {received} bytes");
        received += count as u64;
    }
    assert_eq!(received, SIZE);
    begun.elapsed().as_secs_f64()
}
