//! Requests written by hand to an edge that forwards, and servers behind it that do with each connection what a test says.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::pierhead::{Pierhead, Setup};
use crate::process::{Output, run};
use crate::server::certificate;

/// Longer than anything that is waited for takes.
pub const LONG: Duration = Duration::from_secs(30);

/// An edge whose listener passes everything on to these servers.
pub fn front(servers: &[SocketAddr]) -> Setup {
    let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
    Setup::front().pool(json!({ "name": "web", "servers": servers })).set("/listeners/0/pool", "web")
}

/// The same with TLS.
pub fn secure(setup: Setup) -> Setup {
    let (cert, key, _) = certificate(setup.dir.path(), &["localhost"]);
    setup.set("/listeners/0/tls", json!({ "certificates": [{ "cert": cert, "key": key }] }))
}

/// A server that does with each connection what the test says.
pub async fn backend<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(serve(tcp));
        }
    });
    address
}

/// A server that gives this answer to whoever asks, whatever it is, and ends its side.
pub async fn says(answer: &'static str) -> SocketAddr {
    backend(move |mut tcp| async move {
        until(&mut tcp, "\r\n\r\n").await;
        tcp.write_all(answer.as_bytes()).await.unwrap();
        tcp.shutdown().await.unwrap();
        rest(&mut tcp).await;
    })
    .await
}

/// Reads until `end` has come.
pub async fn until(tcp: &mut TcpStream, end: &str) -> String {
    let mut received = Vec::new();
    let reading = async {
        while !received.ends_with(end.as_bytes()) {
            match tcp.read_u8().await {
                Ok(byte) => received.push(byte),
                Err(error) => panic!("{error} after {}", String::from_utf8_lossy(&received)),
            }
        }
    };
    if timeout(LONG, reading).await.is_err() {
        panic!("no {end:?}");
    }
    String::from_utf8(received).unwrap()
}

/// Everything that comes until the end.
pub async fn rest(tcp: &mut TcpStream) -> String {
    let mut received = Vec::new();
    // A reset is an end, too.
    let _ = timeout(LONG, tcp.read_to_end(&mut received)).await.expect("the connection stays open");
    String::from_utf8(received).unwrap()
}

/// Sends bytes to the edge and reads all that comes.
pub async fn exchange(edge: &Pierhead, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(edge.registry).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    rest(&mut tcp).await
}

/// Runs curl, which believes every certificate.
pub async fn curl(arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["-sk", "--noproxy", "*", "--max-time", "60"]).args(arguments);
    run(command, Duration::from_secs(90)).await
}
