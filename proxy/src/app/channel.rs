//! What a running edge and the one that takes its place say to each other: first the listening sockets, then single
//! words, and what is known of the pools.
//!
//! The channel is a pair of connected sockets; the new process has its end as standard input, so that no descriptor needs
//! to be numbered in the environment and no other program can join in.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sockets::Place;

/// Most sockets that the kernel passes at once.
const SOCKETS: usize = 253;
/// Most bytes of their names.
const NAMES: usize = 64 * 1024;
/// Most bytes of a text.
const TEXT: u32 = 1024 * 1024;
/// How long a process that was started by a running edge waits for what that edge sends first.
const PATIENCE: Duration = Duration::from_secs(10);

/// A word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// From the new process: all is built but what needs the store.
    Opening,
    /// From the old one: the store is free, and nobody accepts.
    Released,
    /// From the new one: it serves.
    Ready,
    /// From the old one: whoever supervises was told who serves.
    Told,
}

impl Word {
    const ALL: [(Word, u8); 4] =
        [(Word::Opening, b'o'), (Word::Released, b'r'), (Word::Ready, b'y'), (Word::Told, b't')];
}

/// What the new process says instead of a word when it cannot go on; its reasons follow.
const REFUSED: u8 = b'f';
/// Most bytes of those reasons.
const REASONS: usize = 16 * 1024;

/// Why no word was heard.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unheard {
    /// The other end cannot go on, and says why.
    #[error("{0}")]
    Refused(String),
    /// The other end is gone, or says something else.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// Tells the other end of a stream why this process cannot go on. Nothing depends on whether that is heard.
pub(super) fn refuse(mut stream: &UnixStream, reasons: &str) {
    let end = (0..=REASONS.min(reasons.len())).rev().find(|end| reasons.is_char_boundary(*end)).unwrap_or_default();
    let reasons = &reasons.as_bytes()[..end];
    let length = u32::try_from(reasons.len()).unwrap_or_default();
    let message = [&[REFUSED], &length.to_be_bytes()[..], reasons].concat();
    if let Err(error) = stream.write_all(&message) {
        tracing::debug!(%error, "the process before does not hear why this one ends");
    }
}

/// One end.
pub(super) struct Channel {
    stream: tokio::net::UnixStream,
}

impl Channel {
    /// Needs the runtime.
    pub(super) fn new(stream: UnixStream) -> io::Result<Channel> {
        stream.set_nonblocking(true)?;
        Ok(Channel { stream: tokio::net::UnixStream::from_std(stream)? })
    }

    pub(super) async fn say(&mut self, word: Word) -> io::Result<()> {
        let byte = Word::ALL.iter().find(|(other, _)| *other == word).map_or(0, |(_, byte)| *byte);
        self.stream.write_u8(byte).await
    }

    /// Waits for a word; an end that is gone is an error.
    pub(super) async fn hear(&mut self, word: Word) -> Result<(), Unheard> {
        let byte = self.stream.read_u8().await?;
        if byte == REFUSED {
            return Err(Unheard::Refused(String::from_utf8_lossy(&self.listen().await?).into_owned()));
        }
        match Word::ALL.iter().find(|(_, other)| *other == byte) {
            Some((heard, _)) if *heard == word => Ok(()),
            _ => {
                let unexpected = format!("expected {word:?}, got {byte:#x}");
                Err(io::Error::new(io::ErrorKind::InvalidData, unexpected).into())
            }
        }
    }

    /// Says more than a word.
    pub(super) async fn tell(&mut self, text: &[u8]) -> io::Result<()> {
        let length = u32::try_from(text.len()).ok().filter(|length| *length <= TEXT);
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too much to be told"))?;
        self.stream.write_u32(length).await?;
        self.stream.write_all(text).await
    }

    /// Waits for what is said so.
    pub(super) async fn listen(&mut self) -> io::Result<Vec<u8>> {
        let length = self.stream.read_u32().await?;
        if length > TEXT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too much is told"));
        }
        let mut text = vec![0; length as usize];
        self.stream.read_exact(&mut text).await?;
        Ok(text)
    }
}

/// Sends sockets and what they are for.
pub(super) fn send_sockets<S: AsFd>(stream: &UnixStream, sockets: &[(Place, S)]) -> io::Result<()> {
    let places: Vec<&Place> = sockets.iter().map(|(place, _)| place).collect();
    let mut text = serde_json::to_vec(&places)?;
    text.push(b'\n');
    if sockets.len() > SOCKETS || text.len() > NAMES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many listeners to hand over"));
    }
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for the sockets"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(&text)], &mut ancillary, SendFlags::empty())?;
    if sent < text.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
}

/// Receives what [`send_sockets`] sent.
pub(super) fn receive_sockets(stream: &UnixStream) -> io::Result<Vec<(Place, TcpListener)>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    while !text.ends_with(b"\n") {
        let mut part = vec![0; NAMES];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(stream, &mut [IoSliceMut::new(&mut part)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        text.extend_from_slice(&part[..received.bytes]);
        if received.bytes == 0 || text.len() > NAMES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let places: Vec<Place> = serde_json::from_slice(&text)?;
    if places.len() != descriptors.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not as many sockets as names"));
    }
    Ok(places.into_iter().zip(descriptors.into_iter().map(TcpListener::from)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_arrive_with_what_they_are_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sockets: Vec<_> = (0..SOCKETS)
            .map(|number| {
                let bind = if number % 2 == 0 { "127.0.0.1:0" } else { "0.0.0.0:443" };
                let socket = TcpListener::bind("127.0.0.1:0").unwrap();
                (Place::of(&format!("listener {number}"), bind.parse().unwrap()), socket)
            })
            .collect();
        send_sockets(&ours, &sockets).unwrap();
        let received = receive_sockets(&theirs).unwrap();
        assert_eq!(received.len(), SOCKETS);
        for ((place, socket), (known, sent)) in received.iter().zip(&sockets) {
            assert_eq!((place, socket.local_addr().unwrap()), (known, sent.local_addr().unwrap()));
        }
        let more: Vec<_> = sockets.iter().chain(&sockets).map(|(place, socket)| (place.clone(), socket)).collect();
        assert!(send_sockets(&ours, &more).is_err());
        drop(ours);
        assert!(receive_sockets(&theirs).is_err());
    }

    #[tokio::test]
    async fn another_word_than_was_expected_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut ours, mut theirs) = (Channel::new(ours).unwrap(), Channel::new(theirs).unwrap());
        ours.say(Word::Opening).await.unwrap();
        theirs.hear(Word::Opening).await.unwrap();
        ours.say(Word::Opening).await.unwrap();
        assert!(theirs.hear(Word::Ready).await.is_err());
        ours.tell(b"much").await.unwrap();
        assert_eq!(theirs.listen().await.unwrap(), b"much");
        assert!(ours.tell(&vec![0; TEXT as usize + 1]).await.is_err());
        ours.stream.write_u32(TEXT + 1).await.unwrap();
        assert!(theirs.listen().await.is_err());
        drop(ours);
        assert!(theirs.hear(Word::Ready).await.is_err());
    }

    #[tokio::test]
    async fn a_refusal_is_heard_with_its_reasons() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        refuse(&ours, "listeners[0].bind: é\nadmin.bind: b");
        refuse(&ours, &"é".repeat(REASONS));
        let mut theirs = Channel::new(theirs).unwrap();
        let heard = theirs.hear(Word::Opening).await.unwrap_err().to_string();
        assert_eq!(heard, "listeners[0].bind: é\nadmin.bind: b");
        assert_eq!(theirs.hear(Word::Opening).await.unwrap_err().to_string().len(), REASONS);
    }
}
