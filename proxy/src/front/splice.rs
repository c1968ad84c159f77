//! One direction of a session: bytes from one end to the other, in their order, each once.
//!
//! Invariants: nothing more is taken while something is left to give, so memory is bounded and a slow reader slows its
//! writer; the end of what comes is passed on only after all that came.
//!
//! Messages are copied, through a buffer that all sessions of a thread share: it stays in the processor's cache, and a
//! session that waits holds no memory. A copy of a small message costs less than the second system call of a pipe. What
//! comes in bulk between two plain sockets goes through a pipe instead: splice(2) moves pages, and copies nothing.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use super::pipe::Pipe;
use crate::pool::ServerStream;

/// How much is copied at once.
const BUFFER: usize = 64 * 1024;

/// What a single read must bring to look like bulk, and how often in a row until a pipe is taken.
const BULK: usize = 16 * 1024;
const BULK_SIGNS: u32 = 8;

/// What a single move through the pipe must bring at least, and how often in a row it may be less until it is given back.
const TRICKLE: usize = 4 * 1024;
const TRICKLE_SIGNS: u32 = 4;

thread_local! {
    /// The buffer of a thread; away while it is in use.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An end of a session.
pub(super) trait End: AsyncRead + AsyncWrite + Unpin {
    /// The socket, where its bytes are those that are passed on.
    fn plain(&self) -> Option<&TcpStream>;
}

impl End for TcpStream {
    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl End for ServerStream {
    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Either::Left(tcp) => Some(tcp),
            Either::Right(_) => None,
        }
    }
}

/// Which end failed, and how.
#[derive(Debug)]
pub(super) enum Broken {
    /// Where bytes come from.
    Source(io::Error),
    /// Where they go.
    Target(io::Error),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flow {
    /// Copied, and not given yet.
    rest: BytesMut,
    /// While in bulk.
    pipe: Option<Pipe>,
    /// In favour of the other way of passing on, one after the other.
    signs: u32,
    stage: Stage,
    /// Whether the target may hold back what was given to it.
    unflushed: bool,
    taken: u64,
    given: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    /// The source has ended.
    Ended,
    /// And the target knows.
    Closed,
}

impl Flow {
    /// With what was received already.
    pub(super) fn new(received: BytesMut) -> Flow {
        let taken = received.len() as u64;
        Flow { rest: received, pipe: None, signs: 0, stage: Stage::Open, unflushed: false, taken, given: 0 }
    }

    /// Bytes that were passed on.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Grows with everything that happens.
    pub(super) fn progress(&self) -> u64 {
        self.taken + self.given
    }

    /// Whether its source has ended.
    pub(super) fn ended(&self) -> bool {
        self.stage >= Stage::Ended
    }

    /// Passes on until the source has ended and the target knows.
    pub(super) fn poll<S: End, T: End>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut S,
        target: &mut T,
    ) -> Poll<Result<(), Broken>> {
        loop {
            match self.stage {
                Stage::Closed => return Poll::Ready(Ok(())),
                Stage::Ended => {
                    ready!(self.poll_give(context, target)).map_err(Broken::Target)?;
                    ready!(Pin::new(&mut *target).poll_shutdown(context)).map_err(Broken::Target)?;
                    self.stage = Stage::Closed;
                }
                Stage::Open => {
                    ready!(self.poll_give(context, target)).map_err(Broken::Target)?;
                    self.choose(source, target);
                    let count = match (&mut self.pipe, source.plain()) {
                        (Some(pipe), Some(plain)) => poll_fill(pipe, context, plain).map_err(Broken::Source),
                        _ => self.poll_copy(context, source, target),
                    };
                    let count = match count {
                        Poll::Ready(count) => count?,
                        Poll::Pending => {
                            if self.unflushed {
                                ready!(Pin::new(&mut *target).poll_flush(context)).map_err(Broken::Target)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    };
                    self.taken += count as u64;
                    if count == 0 {
                        self.stage = Stage::Ended;
                    }
                    self.note(count);
                }
            }
        }
    }

    /// Gives all that was taken.
    fn poll_give<T: End>(&mut self, context: &mut Context<'_>, target: &mut T) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let count = ready!(Pin::new(&mut *target).poll_write(context, &self.rest))?;
            self.gave(count)?;
            self.rest.advance(count);
            if self.rest.is_empty() {
                self.rest = BytesMut::new();
            }
        }
        let (Some(pipe), Some(plain)) = (&mut self.pipe, target.plain()) else { return Poll::Ready(Ok(())) };
        let mut sum = 0;
        while pipe.held > 0 {
            if plain.poll_write_ready(context)?.is_pending() {
                self.given += sum;
                return Poll::Pending;
            }
            let give = || Ok(splice(pipe.read(), None, plain, None, pipe.held, FLAGS)?);
            match plain.try_io(Interest::WRITABLE, give) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    pipe.held -= count;
                    sum += count as u64;
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.given += sum;
        Poll::Ready(Ok(()))
    }

    fn gave(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.given += count as u64;
        self.unflushed = true;
        Ok(())
    }

    /// Reads once, and gives as much of it as is taken at once; what is left is kept. How much was read.
    fn poll_copy<S: End, T: End>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut S,
        target: &mut T,
    ) -> Poll<Result<usize, Broken>> {
        let mut scratch = SCRATCH.take();
        scratch.resize(BUFFER, 0);
        let result = self.poll_copy_through(&mut scratch, context, source, target);
        SCRATCH.set(scratch);
        result
    }

    fn poll_copy_through<S: End, T: End>(
        &mut self,
        scratch: &mut [u8],
        context: &mut Context<'_>,
        source: &mut S,
        target: &mut T,
    ) -> Poll<Result<usize, Broken>> {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(source).poll_read(context, &mut buffer)).map_err(Broken::Source)?;
        let mut left = buffer.filled();
        while !left.is_empty() {
            match Pin::new(&mut *target).poll_write(context, left).map_err(Broken::Target)? {
                Poll::Ready(count) => {
                    self.gave(count).map_err(Broken::Target)?;
                    left = &left[count..];
                }
                Poll::Pending => {
                    self.rest.extend_from_slice(left);
                    break;
                }
            }
        }
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Takes a pipe, or gives it back, when there were signs enough. Nothing is held then.
    fn choose<S: End, T: End>(&mut self, source: &S, target: &T) {
        match &self.pipe {
            None if self.signs >= BULK_SIGNS => {
                self.signs = 0;
                if source.plain().is_some() && target.plain().is_some() {
                    self.pipe = Pipe::take();
                }
            }
            Some(_) if self.signs >= TRICKLE_SIGNS => {
                self.signs = 0;
                self.pipe = None;
            }
            _ => {}
        }
    }

    /// What a count says about how to go on.
    fn note(&mut self, count: usize) {
        let sign = if self.pipe.is_some() { count < TRICKLE } else { count >= BULK };
        self.signs = if sign { self.signs + 1 } else { 0 };
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Moves what a socket has into a pipe that is empty; so it is the socket that has nothing when nothing comes.
fn poll_fill(pipe: &mut Pipe, context: &mut Context<'_>, plain: &TcpStream) -> Poll<io::Result<usize>> {
    loop {
        ready!(plain.poll_read_ready(context))?;
        let take = || Ok(splice(plain, None, pipe.write(), None, pipe.size(), FLAGS)?);
        match plain.try_io(Interest::READABLE, take) {
            Ok(count) => {
                pipe.held = count;
                return Poll::Ready(Ok(count));
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Whether to wait, or just to try again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
        (client.unwrap(), accepted.unwrap().0)
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 31 / 7) as u8).collect()
    }

    #[tokio::test]
    async fn all_arrives_in_its_order_and_then_the_end() {
        for (length, piece, prefix) in
            [(0, 1, 0), (5, 5, 5), (100, 10, 7), (3 << 20, 1 << 20, 0), (9 << 20, 9 << 20, 100)]
        {
            let (mut writer, mut source) = pair().await;
            let (mut target, mut reader) = pair().await;
            let sent = pattern(length);
            let mut flow = Flow::new(BytesMut::from(&sent[..prefix]));
            let write = async {
                for piece in sent[prefix..].chunks(piece) {
                    writer.write_all(piece).await.unwrap();
                }
                writer.shutdown().await.unwrap();
            };
            let mut received = Vec::new();
            let pass = poll_fn(|context| flow.poll(context, &mut source, &mut target));
            let ((), passed, read) = tokio::join!(write, pass, reader.read_to_end(&mut received));
            passed.unwrap();
            read.unwrap();
            assert!(received == sent, "{length} bytes in pieces of {piece}");
            assert_eq!(flow.given(), length as u64);
            assert_eq!(flow.pipe.is_some(), length >= 3 << 20, "a pipe for bulk, and for bulk alone");
        }
    }

    #[tokio::test]
    async fn a_pipe_is_given_back_when_messages_become_small() {
        let (mut writer, mut source) = pair().await;
        let (mut target, mut reader) = pair().await;
        let mut flow = Flow::new(BytesMut::new());
        let bulk = pattern(4 << 20);
        let talk = async {
            tokio::join!(async { writer.write_all(&bulk).await.unwrap() }, async {
                reader.read_exact(&mut vec![0; 4 << 20]).await.unwrap();
            });
            for _ in 0..20 {
                writer.write_all(b"ping").await.unwrap();
                reader.read_exact(&mut [0; 4]).await.unwrap();
            }
        };
        let mut in_bulk = false;
        let pass = poll_fn(|context| {
            let result = flow.poll(context, &mut source, &mut target);
            in_bulk |= flow.pipe.is_some();
            result
        });
        tokio::select! {
            () = talk => {}
            _ = pass => panic!("nobody has ended"),
        }
        assert!(in_bulk);
        assert!(flow.pipe.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_waits_makes_the_writer_wait() {
        let (mut writer, mut source) = pair().await;
        let (mut target, _reader) = pair().await;
        let mut flow = Flow::new(BytesMut::new());
        let chunk = vec![0; 1 << 20];
        let write = async {
            let mut written = 0;
            while tokio::time::timeout(std::time::Duration::from_millis(300), writer.write_all(&chunk)).await.is_ok() {
                written += 1;
                assert!(written < 100, "nobody reads, and yet all is taken");
            }
        };
        tokio::select! {
            () = write => {}
            _ = poll_fn(|context| flow.poll(context, &mut source, &mut target)) => panic!("nobody has ended"),
        }
        assert!(flow.rest.len() <= BUFFER);
    }
}
