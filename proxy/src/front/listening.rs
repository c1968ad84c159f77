//! A listening socket: opened here, or taken over from whoever opened it, and shared with whoever takes it over next.
//!
//! Invariant: as long as one holder is left, the kernel queues connections: a socket that changes hands refuses nobody.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel keeps for us until they are accepted. It takes less when `net.core.somaxconn` says so.
const BACKLOG: u32 = 4096;

/// How soon a silent peer is asked whether it is still there, and how often again before it is given up.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// See the module. Clones are the same socket.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    socket: Arc<TcpListener>,
    address: SocketAddr,
}

impl Listening {
    /// Opens a socket: from here on the kernel queues connections. One of the others that are ours may have the port
    /// already: on one address, say, where all are wanted from now on. The kernel allows that to who shares; what is shared
    /// is shared for this moment only: another edge that is started by mistake is to fail.
    pub(crate) fn open<'l>(bind: SocketAddr, others: impl IntoIterator<Item = &'l Listening>) -> io::Result<Listening> {
        let near: Vec<_> = others.into_iter().filter(|other| other.address.port() == bind.port()).collect();
        let share = |shared| near.iter().try_for_each(|other| sockopt::set_socket_reuseport(other, shared));
        let socket = if bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        prepare(&socket)?;
        socket.set_reuseport(!near.is_empty())?;
        share(true)?;
        let listening = socket.bind(bind).and_then(|()| socket.listen(BACKLOG));
        share(false)?;
        let listening = listening?;
        sockopt::set_socket_reuseport(&listening, false)?;
        Listening::new(listening)
    }

    /// Takes over a socket that listens already.
    pub(crate) fn adopt(socket: std::net::TcpListener) -> io::Result<Listening> {
        socket.set_nonblocking(true)?;
        prepare(&socket)?;
        Listening::new(TcpListener::from_std(socket)?)
    }

    fn new(socket: TcpListener) -> io::Result<Listening> {
        let address = socket.local_addr()?;
        Ok(Listening { socket: Arc::new(socket), address })
    }

    /// The real address, also when port 0 was asked for.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> &TcpListener {
        &self.socket
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What every connection gets from the socket that accepts it, and every one that we open: small pieces leave at once, and
/// a peer that vanishes is noticed.
pub(crate) fn prepare(socket: &impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    Ok(())
}
