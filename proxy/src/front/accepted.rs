//! One connection from its first byte to its last: the row of steps between the accept loop and the protocols.

use std::sync::Arc;

use pierhead_config::Mode;
use pingora_core::protocols::{ALPN, Stream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::encrypted::Encrypted;
use super::service::Service;
use super::socket::Socket;
use super::{Application, Connection, http1, http2};

/// Serves a connection to its end.
pub(crate) async fn serve<A: Application>(tcp: TcpStream, service: &Service<A>, mut connection: Connection) {
    let Mode::Http(_) = &service.mode else { return };
    let socket = Socket::new(tcp, service.limits.write_timeout);
    let stream: Stream = match &service.tls {
        None => Box::new(socket),
        Some(config) => {
            match timeout(service.limits.header_timeout, Encrypted::accept(Arc::clone(config), socket)).await {
                Ok(Ok(stream)) => {
                    connection.secure = true;
                    Box::new(stream)
                }
                Ok(Err(error)) => return service.refused(&connection, "tls", Some(&error)),
                Err(_) => return service.refused(&connection, "tls", Some(&"timed out")),
            }
        }
    };
    if stream.selected_alpn_proto() == Some(ALPN::H2) {
        http2::serve(stream, service, &connection).await;
    } else {
        http1::serve(stream, service, &connection).await;
    }
}
