//! The client's TCP connection, below TLS and HTTP.
//!
//! Invariant: who takes nothing, or is gone without a word, is noticed by the kernel: it knows what was taken, and ends the
//! connection after `stall`.

use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::fs::sendfile;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::api::{Lane, first_of_a_file, stands_for_a_file};
use crate::metrics::ListenerMetrics;

/// How long a silent connection is left alone before the kernel asks whether its peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// And then every so often,
const PROBE: Duration = Duration::from_secs(10);
/// so many times.
const PROBES: u32 = 6;

/// A connection.
pub(super) struct Socket {
    tcp: TcpStream,
    metrics: Arc<ListenerMetrics>,
    /// Bytes in both directions.
    counted: Arc<AtomicU64>,
    lane: Lane,
}

impl Socket {
    /// Wraps an accepted connection. `stall`: how long what is sent may not be taken; `lane`: files
    /// that are to be sent; `counted`: counts bytes in both directions.
    pub(super) fn new(
        tcp: TcpStream,
        stall: Duration,
        metrics: Arc<ListenerMetrics>,
        counted: Arc<AtomicU64>,
        lane: Lane,
    ) -> Socket {
        if let Err(error) = tune(&tcp, stall) {
            tracing::debug!(%error, "the connection keeps the system's timeouts");
        }
        metrics.opened();
        Socket { tcp, metrics, counted, lane }
    }

    /// The connection itself, to look at what comes first.
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

fn tune(tcp: &TcpStream, stall: Duration) -> io::Result<()> {
    sockopt::set_tcp_nodelay(tcp, true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(tcp, PROBE)?;
    sockopt::set_tcp_keepcnt(tcp, PROBES)?;
    sockopt::set_tcp_user_timeout(tcp, u32::try_from(stall.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.metrics.closed();
    }
}

impl Socket {
    fn sent(&self, bytes: usize) {
        self.metrics.sent(bytes);
        self.counted.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Sends at most so many bytes of the file that is next.
    fn poll_send_file(&mut self, context: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(context))?;
            let send = |file: &File, at: u64, most: usize| {
                let mut at = at;
                Ok(sendfile(&self.tcp, file, Some(&mut at), most)?)
            };
            match self.tcp.try_io(Interest::WRITABLE, || self.lane.send(most, send)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(context, buffer))?;
        let received = buffer.filled().len() - before;
        self.metrics.received(received);
        self.counted.fetch_add(received as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        if stands_for_a_file(buffer) {
            return Poll::Ready(Err(io::Error::other("bytes of a file that are not sent as such")));
        }
        let written = ready!(Pin::new(&mut self.tcp).poll_write(context, buffer))?;
        self.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match first_of_a_file(buffers) {
            None => ready!(Pin::new(&mut self.tcp).poll_write_vectored(context, buffers))?,
            Some((0, length)) => ready!(self.poll_send_file(context, length))?,
            Some((before, _)) => ready!(Pin::new(&mut self.tcp).poll_write_vectored(context, &buffers[..before]))?,
        };
        self.sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
