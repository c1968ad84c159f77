//! One connection from its first byte to its last: the row of steps between the accept loop and the protocols.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use pingora_core::protocols::{ALPN, Stream};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::either::Either;

use super::chunks::Chunks;
use super::encrypted::Encrypted;
use super::service::Service;
use super::socket::Socket;
use super::stream::ClientStream;
use super::{Application, Connection, http1, http2, plain, proxy_protocol, tcp as layer4};
use crate::admin::sessions::Protocol;

/// How much is read at a time of what precedes the protocol.
const READ_SIZE: usize = 2 * 1024;

/// A connection of which the first bytes may have been read already.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The connection.
    pub(crate) tcp: TcpStream,
    /// What was read of it and belongs to whoever takes it over.
    pub(crate) received: BytesMut,
}

impl Accepted {
    /// Fresh.
    pub(crate) fn new(tcp: TcpStream) -> Accepted {
        Accepted { tcp, received: BytesMut::new() }
    }

    /// Reads more into `received`; 0 at the end. May be given up at any time without losing a byte.
    pub(crate) async fn read_more(&mut self) -> io::Result<usize> {
        self.received.reserve(READ_SIZE);
        self.tcp.read_buf(&mut self.received).await
    }
}

/// Serves a connection to its end. What precedes the protocol has one deadline for all of it.
pub(crate) async fn serve<A: Application>(tcp: TcpStream, service: &Service<A>, mut connection: Connection) {
    let deadline = Instant::now() + service.limits.header_timeout;
    let mut accepted = Accepted::new(tcp);
    if service.accept_proxy {
        if !service.admission.trusts(connection.peer.ip()) {
            return service.refused(&connection, "untrusted", None);
        }
        match timeout_at(deadline, proxy_protocol::receive(&mut accepted)).await {
            Ok(Ok(Some(addresses))) => {
                (connection.client, connection.destination) = (addresses.client, addresses.destination);
                connection.session.on_behalf_of(connection.client);
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => return service.refused(&connection, "proxy_header", Some(&error)),
            Err(_) => return service.refused(&connection, "proxy_header", Some(&"timed out")),
        }
    }
    let Some(_place) = service.admission.client_place(connection.client.ip()) else {
        service.metrics.limited(&connection.listener, "client_connections");
        return service.refused(&connection, "connections", None);
    };
    let (party, session) = (service.admission.party(connection.client.ip()), &connection.session);
    let Ok(place) = service.connections.enter_with(party, session.flow()).await else {
        service.metrics.limited(&connection.listener, "share");
        return service.refused(&connection, "connections", None);
    };
    session.holds(place.pace());
    let Some(accepted) = layer4::pass_through(accepted, service, &connection, deadline).await else { return };
    let accepted = match &service.tls {
        Some(_) => match timeout_at(deadline, plain::refuse(accepted)).await {
            Ok(Ok(Some(accepted))) => accepted,
            Ok(Ok(None)) => return service.refused(&connection, "plain_http", None),
            Ok(Err(error)) => return service.handshake_failed(&connection, &error),
            Err(_) => return service.handshake_failed(&connection, &"timed out"),
        },
        None => accepted,
    };
    let socket = Socket::new(accepted, service.limits.write_timeout, Some(Arc::clone(&connection.session)));
    let chunks = Arc::new(Chunks::default());
    let transport = match &service.tls {
        None => Either::Left(socket),
        Some(tls) => match timeout_at(deadline, Encrypted::accept(tls.config(), socket)).await {
            Ok(Ok(stream)) => {
                connection.secure = true;
                connection.subject = stream.client_subject().map(Into::into);
                service.counts.handshake(stream.is_tls13(), stream.is_resumed());
                Either::Right(Box::new(stream))
            }
            Ok(Err(error)) => return service.handshake_failed(&connection, &error),
            Err(_) => return service.handshake_failed(&connection, &"timed out"),
        },
    };
    let stream: Stream = Box::new(ClientStream::new(transport, Arc::clone(&chunks)));
    if stream.selected_alpn_proto() == Some(ALPN::H2) {
        connection.session.speaks(Protocol::Http2, connection.secure);
        http2::serve(stream, service, &connection).await;
    } else {
        connection.session.speaks(Protocol::Http1, connection.secure);
        http1::serve(stream, &chunks, service, &connection).await;
    }
}
