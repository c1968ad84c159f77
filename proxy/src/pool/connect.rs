//! A connection to a server: TCP, the PROXY header, TLS.
//!
//! Invariants: all of it together ends within the pool's `connect_timeout`; one TLS configuration serves all connections
//! of a pool, so that sessions are resumed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pierhead_config as config;
use pierhead_registry::tls;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::proxy_header;
use crate::front::prepare;

/// What a server is told of the client, by the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The client.
    pub(crate) source: SocketAddr,
    /// Where it connected.
    pub(crate) destination: SocketAddr,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// In TCP.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is a connection, and no agreement on TLS.
    #[error("TLS: {}", tls::fault(.0).unwrap_or_else(|| .0.to_string()))]
    Tls(io::Error),
    /// It took too long.
    #[error("no connection in time")]
    Timeout,
    /// The name that its certificate is to have is none.
    #[error("{0}: not a name that a certificate can have")]
    Name(String),
}

/// A connection to a server: as it is, or in TLS.
pub(crate) type ServerStream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The socket below.
pub(crate) fn socket(stream: &ServerStream) -> &TcpStream {
    match stream {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    }
}

/// Opens one, to a server at this address that was found by this host name.
pub(super) async fn connect(
    pool: &config::Pool,
    tls: Option<&Arc<ClientConfig>>,
    address: SocketAddr,
    host: Option<&str>,
    told: Option<&Told>,
) -> Result<ServerStream, ConnectError> {
    let connecting = async {
        let mut tcp = open(address).await?;
        if let Some(version) = pool.send_proxy {
            tcp.write_all(&proxy_header::encode(version, told)).await?;
        }
        match tls {
            None => Ok(Either::Left(tcp)),
            Some(settings) => {
                let name = certificate_name(pool, address, host)?;
                let stream =
                    TlsConnector::from(Arc::clone(settings)).connect(name, tcp).await.map_err(ConnectError::Tls)?;
                Ok(Either::Right(Box::new(stream)))
            }
        }
    };
    timeout(pool.connect_timeout, connecting).await.map_err(|_| ConnectError::Timeout)?
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&socket)?;
    socket.connect(address).await
}

/// Whose certificate a server must show: the pool's `sni`, else the host that led to its address, else the address.
fn certificate_name(
    pool: &config::Pool,
    address: SocketAddr,
    host: Option<&str>,
) -> Result<ServerName<'static>, ConnectError> {
    let named = pool.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    match named.or(host) {
        Some(name) => {
            ServerName::try_from(name.trim_end_matches('.').to_owned()).map_err(|_| ConnectError::Name(name.to_owned()))
        }
        None => Ok(ServerName::from(address.ip())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use pierhead_config::{ProxyVersion, ServerTls, TlsVersion};
    use rustls::ServerConfig;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::tests::settings;
    use super::super::tls::client_config;
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn pool() -> config::Pool {
        config::Pool { connect_timeout: LONG, ..settings(Vec::new()) }
    }

    fn trusting(ca: Option<PathBuf>, verify: bool) -> ServerTls {
        ServerTls { ca, sni: None, verify, client_certificate: None, min_version: TlsVersion::Tls12 }
    }

    /// A server with TLS, its certificate (for `localhost`) in a file.
    async fn https(folder: &Path) -> (TcpListener, TlsAcceptor, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let path = folder.join("ca.crt");
        std::fs::write(&path, made.cert.pem()).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener, TlsAcceptor::from(Arc::new(config)), path)
    }

    #[tokio::test]
    async fn certificates_are_verified_unless_told_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, acceptor, ca) = https(folder.path()).await;
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(tcp).await {
                        drop(stream.write_all(b"welcome").await);
                        drop(stream.read_u8().await);
                    }
                });
            }
        });
        let with = |tls| config::Pool { tls: Some(tls), ..pool() };
        let named = Some("localhost");
        let sni = |name: &str| ServerTls { sni: Some(name.to_owned()), ..trusting(Some(ca.clone()), true) };
        for (settings, host, works) in [
            (with(trusting(Some(ca.clone()), true)), named, true),
            (with(trusting(None, true)), named, false),
            (with(trusting(None, false)), named, true),
            (with(sni("localhost")), named, true),
            (with(sni("other.example")), named, false),
            (with(trusting(Some(ca.clone()), true)), None, false),
            (with(sni("localhost")), None, true),
        ] {
            let tls = client_config(settings.tls.as_ref().unwrap()).unwrap();
            let opened = connect(&settings, Some(&tls), address, host, None).await;
            assert_eq!(opened.is_ok(), works, "{settings:?}: {opened:?}");
            assert!(matches!(opened, Ok(_) | Err(ConnectError::Tls(_))), "{opened:?}");
            if let Ok(mut stream) = opened {
                let mut greeting = [0; 7];
                stream.read_exact(&mut greeting).await.unwrap();
                assert_eq!(&greeting, b"welcome");
            }
        }
    }

    #[tokio::test]
    async fn the_proxy_header_comes_before_everything() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = config::Pool { send_proxy: Some(ProxyVersion::V1), ..pool() };
        let told = Told { source: "192.0.2.1:1".parse().unwrap(), destination: "192.0.2.2:2".parse().unwrap() };
        let mut stream = connect(&settings, None, address, None, Some(&told)).await.unwrap();
        stream.write_all(b"GET").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = String::new();
        listener.accept().await.unwrap().0.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET");
    }

    #[tokio::test]
    async fn a_server_that_does_not_shake_hands_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings =
            config::Pool { tls: Some(trusting(None, false)), connect_timeout: Duration::from_millis(50), ..pool() };
        let tls = client_config(settings.tls.as_ref().unwrap()).unwrap();
        let opened = connect(&settings, Some(&tls), address, None, None).await;
        assert!(matches!(opened, Err(ConnectError::Timeout)), "{opened:?}");
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let error = client_config(&trusting(Some(empty.clone()), true)).unwrap_err();
        assert_eq!(error, format!("{}: holds no certificate", empty.display()));
    }
}
