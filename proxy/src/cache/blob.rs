//! Reading a blob, wherever its bytes come from: the committed file, a fill that is running, or past the store.
//!
//! Invariant: a reader of a whole blob that returns its last byte has returned a blob that hashes to its digest. A reader
//! whose fill loses its disk goes on from upstream at the byte where it stands, and the hash with it.
//!
//! The size of a blob may be unknown when it is opened. Then a manifest's word for it is told to the client, where there
//! is one, and a reader for whom it turns out to be wrong fails; else it is read to wherever it ends.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::OptionFuture;
use pierhead_registry::client::Repository;
use pierhead_registry::oci::{Digest, Hasher};
use prometheus::IntGauge;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::BlobError;
use super::fill::download;
use super::fill::lease::Lease;
use super::fill::registry::{Fills, Origin};
use super::fill::{ENDLESS, Found, REACH};
use super::gather::{Aim, gather};
use super::passing::Passing;
use super::store::{Store, blocking};

/// How much of a cold file the kernel is told to read ahead.
const READ_AHEAD: u64 = 4 << 20;

/// Whether a caller wants a whole blob or a part of it: only the former starts a fill of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// All of it, or most.
    Whole,
    /// A range; fetched as such when it is out of reach. `None`: one that only the length of the blob tells, or several.
    Part(Option<Stretch>),
}

/// A range of a blob whose length need not be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// First byte.
    pub(crate) start: u64,
    /// One past the last byte; `None`: to the end of the blob.
    pub(crate) end: Option<u64>,
}

/// Where the bytes of an opened blob come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobState {
    /// All here: a hit.
    Committed,
    /// Partly here, or on the way: a miss.
    Filling,
    /// Past the store, because it is full, failing or too small: a bypass.
    Uncached,
}

/// What every reader of a blob shares.
#[derive(Clone)]
struct Context {
    store: Arc<Store>,
    fills: Arc<Fills>,
    digest: Digest,
    /// As a file or upstream tells it.
    size: Option<u64>,
    origin: Option<Origin>,
}

/// An opened blob. Cheap to make readers from.
pub(crate) struct Blob {
    context: Context,
    bytes: BlobBytes,
}

#[derive(Clone)]
enum BlobBytes {
    Committed(Arc<File>),
    Filling(Lease),
    Uncached,
}

impl Blob {
    pub(super) fn committed(store: &Arc<Store>, fills: &Arc<Fills>, digest: Digest, file: File, size: u64) -> Blob {
        let (store, fills) = (Arc::clone(store), Arc::clone(fills));
        Blob {
            context: Context { store, fills, digest, size: Some(size), origin: None },
            bytes: BlobBytes::Committed(Arc::new(file)),
        }
    }

    pub(super) fn filling(store: &Arc<Store>, fills: &Arc<Fills>, lease: Lease, origin: Option<Origin>) -> Blob {
        let (store, fills) = (Arc::clone(store), Arc::clone(fills));
        let context = Context { store, fills, digest: lease.digest, size: lease.total(), origin };
        Blob { context, bytes: BlobBytes::Filling(lease) }
    }

    pub(super) fn uncached(
        store: &Arc<Store>,
        fills: &Arc<Fills>,
        digest: Digest,
        size: Option<u64>,
        origin: Origin,
    ) -> Blob {
        let (store, fills) = (Arc::clone(store), Arc::clone(fills));
        Blob { context: Context { store, fills, digest, size, origin: Some(origin) }, bytes: BlobBytes::Uncached }
    }

    /// Length: as it is known, or else as a manifest tells it.
    pub(crate) fn size(&self) -> Option<u64> {
        self.context.size.or_else(|| match &self.bytes {
            BlobBytes::Filling(lease) => lease.total().or_else(|| self.context.hint()),
            BlobBytes::Committed(_) | BlobBytes::Uncached => self.context.hint(),
        })
    }

    /// Waits until the length is known, if it may become so within `patience`.
    pub(crate) async fn settle(&self, patience: Duration) {
        let (None, BlobBytes::Filling(lease)) = (self.size(), &self.bytes) else { return };
        let Context { store, fills, origin, .. } = &self.context;
        let settled = async {
            while lease.settled(self.context.party()).await
                && let Some(origin) = origin
            {
                fills.go_on(store, lease, origin);
            }
        };
        let _ = timeout(patience, settled).await;
    }

    /// Waits until the hash of the blob, if it is being fetched whole, has proven its length; at most for `patience`.
    pub(crate) async fn prove(&self, patience: Duration) -> Result<(), BlobError> {
        match &self.bytes {
            BlobBytes::Filling(lease) => lease.proven(patience, self.context.party()).await,
            BlobBytes::Committed(_) | BlobBytes::Uncached => Ok(()),
        }
    }

    /// Where its bytes come from.
    pub(crate) fn state(&self) -> BlobState {
        match self.bytes {
            BlobBytes::Committed(_) => BlobState::Committed,
            BlobBytes::Filling(_) => BlobState::Filling,
            BlobBytes::Uncached => BlobState::Uncached,
        }
    }

    /// All of it, for a reader: up to [`ENDLESS`] while its length is not known.
    pub(crate) fn all(&self) -> Range<u64> {
        0..self.size().unwrap_or(ENDLESS)
    }

    /// Reads a range, which must lie within the size. What [`Blob::all`] returns is read to the end of the blob.
    pub(crate) fn reader(&self, range: Range<u64>) -> BlobReader {
        let fetched = range.clone();
        self.reader_within(range, fetched)
    }

    /// In which stretches several ranges, which a client asks for together, are fetched.
    pub(crate) fn gathered(&self, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let whole = matches!(&self.bytes, BlobBytes::Filling(lease) if lease.will_be_whole());
        let above = self.context.origin.as_ref().map_or(u64::MAX, |origin| origin.parallel_above);
        gather(ranges, self.size().unwrap_or(ENDLESS), above, whole)
    }

    /// As [`Blob::reader`]. What is not here is fetched as a part of `fetched`, which holds the range.
    pub(crate) fn reader_within(&self, range: Range<u64>, fetched: Range<u64>) -> BlobReader {
        // To a client that was told a length by a manifest, that is all of it.
        let told = self.context.size.is_none() && self.context.hint() == Some(range.end);
        let whole = range.start == 0 && (range.end == ENDLESS || told || self.size() == Some(range.end));
        let way = match &self.bytes {
            BlobBytes::Committed(file) => Way::File(Arc::clone(file)),
            BlobBytes::Filling(lease) => {
                let readers = self.context.store.metrics.fill_readers.clone();
                readers.inc();
                let (lease, changes) = (lease.clone(), lease.changes());
                Way::Fill(Box::new(FillReader { lease, changes, demand: None, readers }))
            }
            BlobBytes::Uncached => Way::Upstream(Box::new(Upstream::new(&self.context, &range, whole))),
        };
        let patient = !whole && fetched.start == 0 && fetched != range && Some(fetched.end) == self.size();
        let aim = Aim { range, fetched, whole, patient };
        BlobReader { context: self.context.clone(), position: aim.range.start, aim, way }
    }
}

/// Reads a range of a blob, waiting for what is not here yet.
pub(crate) struct BlobReader {
    context: Context,
    aim: Aim,
    position: u64,
    way: Way,
}

enum Way {
    File(Arc<File>),
    Fill(Box<FillReader>),
    Upstream(Box<Upstream>),
}

struct FillReader {
    lease: Lease,
    changes: watch::Receiver<()>,
    /// The fetch of a range that nobody else fetches, on this reader's behalf. It goes on when the reader leaves.
    demand: Option<JoinHandle<Result<(), BlobError>>>,
    readers: IntGauge,
}

impl Drop for FillReader {
    fn drop(&mut self) {
        self.readers.dec();
    }
}

impl BlobReader {
    /// Fills the start of `buffer` with the next bytes and returns how many; `0` only at the end of the range, or of the
    /// blob. It never
    /// blocks the thread: what is in the page cache is copied at once, the rest is read on a blocking thread. The last
    /// bytes of a blob come only after its hash was checked. A slice and not a buffer that grows, so that the caller can
    /// reuse one allocation for a whole body.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, BlobError> {
        loop {
            if self.position >= self.aim.range.end {
                return Ok(0);
            }
            let read = match &mut self.way {
                Way::File(file) => {
                    let read = read_at(file, buffer, self.position, self.aim.range.end).await;
                    read.and_then(at_least_one).map_err(|error| self.context.storage(&error))?
                }
                Way::Fill(reader) => match reader.wait(&self.context, self.position, &self.aim).await {
                    Ok(until) if until == self.position => return Ok(0),
                    Ok(until) => {
                        let read = read_at(&reader.lease.file, buffer, self.position, until).await;
                        read.and_then(at_least_one).map_err(|error| self.context.storage(&error))?
                    }
                    Err(BlobError::Storage { .. }) if self.context.origin.is_some() => {
                        let file = Arc::clone(&reader.lease.file);
                        let upstream = Upstream::new(&self.context, &self.aim.range, self.aim.whole);
                        let upstream = upstream.taking_over(&self.context, self.position, file).await?;
                        self.way = Way::Upstream(Box::new(upstream));
                        continue;
                    }
                    Err(error) => return Err(error),
                },
                Way::Upstream(upstream) => match upstream.read(&self.context, buffer).await? {
                    0 => return Ok(0),
                    read => read,
                },
            };
            self.position += read as u64;
            if let Way::Fill(reader) = &self.way
                && self.position >= self.aim.range.end
            {
                let Context { store, fills, origin, .. } = &self.context;
                fills.resume_after(store, &reader.lease, origin.as_ref(), self.position);
            }
            return Ok(read);
        }
    }
}

impl Context {
    /// In whose name upstream is asked; `None` where it may not be.
    fn party(&self) -> Option<&Repository> {
        self.origin.as_ref().map(Origin::party)
    }

    /// The size as a manifest tells it.
    fn hint(&self) -> Option<u64> {
        self.origin.as_ref().and_then(|origin| origin.hint)
    }

    fn origin(&self) -> Result<&Origin, BlobError> {
        self.origin.as_ref().ok_or(BlobError::Offline { digest: self.digest })
    }

    fn storage(&self, error: &io::Error) -> BlobError {
        self.store.failed("reading a blob", error);
        BlobError::Storage { digest: self.digest, reason: error.to_string() }
    }
}

/// A file that ends before its length says so is a fault of the disk.
fn at_least_one(read: usize) -> io::Result<usize> {
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
}

/// Reads from the page cache, or else on a blocking thread, no further than `end`.
async fn read_at(file: &Arc<File>, buffer: &mut [u8], position: u64, end: u64) -> io::Result<usize> {
    let want = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
    let buffer = &mut buffer[..want];
    match rustix::io::preadv2(&**file, &mut [IoSliceMut::new(buffer)], position, ReadWriteFlags::NOWAIT) {
        Ok(read) if read > 0 => return Ok(read),
        // Not in the page cache, or a file system that cannot tell.
        Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let file = Arc::clone(file);
    let bytes = blocking(move || {
        // Advice that is not taken costs only time.
        let _ = rustix::fs::fadvise(&*file, position, std::num::NonZeroU64::new(READ_AHEAD), Advice::WillNeed);
        let mut bytes = vec![0; want];
        let read = rustix::io::pread(&*file, &mut bytes, position)?;
        bytes.truncate(read);
        io::Result::Ok(bytes)
    });
    let bytes = bytes.await??;
    buffer[..bytes.len()].copy_from_slice(&bytes);
    Ok(bytes.len())
}

impl FillReader {
    /// Waits until there is something to read at `position`, and returns up to where; `position` itself at the end of the
    /// blob.
    async fn wait(&mut self, context: &Context, position: u64, aim: &Aim) -> Result<u64, BlobError> {
        loop {
            self.changes.mark_unchanged();
            match self.lease.find(position, aim, context.party()) {
                Found::Until(end) => return Ok(end),
                Found::End => return Ok(position),
                Found::Failed(error) => return Err(error),
                Found::Wait => {}
                // Another party's answer ends no reader: it goes on in its own name, and ends with its own answer.
                Found::Refused if aim.whole => context.fills.go_on(&context.store, &self.lease, context.origin()?),
                Found::Nobody | Found::Refused if aim.patient => {
                    context.fills.go_on(&context.store, &self.lease, context.origin()?);
                }
                Found::Nobody | Found::Refused => {
                    let origin = context.origin()?.clone();
                    if self.demand.is_none() {
                        let (store, fills) = (Arc::clone(&context.store), Arc::clone(&context.fills));
                        // Parts need not be asked for in order: those just before this one come with it.
                        let near = position.checked_sub(aim.fetched.start).is_some_and(|before| before <= REACH);
                        let from = if near { aim.fetched.start } else { position };
                        let stretch = from..aim.fetched.end.min(from + download::READ_ON);
                        let fetch = download::range(self.lease.clone(), store, fills, origin, stretch);
                        self.demand = Some(tokio::spawn(fetch));
                    }
                }
            }
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        return Err(BlobError::Storage { digest: context.digest, reason: "the fill was given up".into() });
                    }
                }
                fetched = OptionFuture::from(self.demand.as_mut()), if self.demand.is_some() => {
                    self.demand = None;
                    match fetched {
                        Some(Err(error)) => {
                            return Err(BlobError::Storage { digest: context.digest, reason: error.to_string() });
                        }
                        Some(Ok(fetched)) => fetched?,
                        None => {}
                    }
                }
            }
        }
    }
}

/// Reads past the store, straight from upstream. A whole blob is hashed on the way, and its last piece held back until
/// the hash was checked.
struct Upstream {
    body: Option<Passing>,
    position: u64,
    end: u64,
    pending: Bytes,
    /// What came last, while it may be the end of a blob that is read whole.
    held: Option<Bytes>,
    /// Present when the blob is read from its start to its end.
    hasher: Option<Hasher>,
}

impl Upstream {
    fn new(context: &Context, range: &Range<u64>, whole: bool) -> Upstream {
        let hasher = whole.then(|| Hasher::new(context.digest.algorithm()));
        let (position, end, pending) = (range.start, range.end, Bytes::new());
        Upstream { body: None, position, end, pending, held: None, hasher }
    }

    /// Goes on where a reader of a fill stands, whose bytes so far are in `file`.
    async fn taking_over(mut self, context: &Context, position: u64, file: Arc<File>) -> Result<Upstream, BlobError> {
        self.position = position;
        if let Some(mut hasher) = self.hasher.take() {
            let hashed = blocking(move || {
                use std::os::unix::fs::FileExt;
                let mut buffer = vec![0; 256 << 10];
                let mut at = 0;
                while at < position {
                    let want = usize::try_from(position - at).unwrap_or(usize::MAX).min(buffer.len());
                    let read = at_least_one(file.read_at(&mut buffer[..want], at)?)?;
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                }
                io::Result::Ok(hasher)
            });
            let hashed = hashed.await.and_then(|hashed| hashed).map_err(|error| context.storage(&error))?;
            self.hasher = Some(hashed);
        }
        Ok(self)
    }

    /// `0` at the end of the range, or of the blob.
    async fn read(&mut self, context: &Context, buffer: &mut [u8]) -> Result<usize, BlobError> {
        while self.pending.is_empty() {
            if !self.next(context).await? {
                return Ok(0);
            }
        }
        let take = self.pending.len().min(buffer.len());
        buffer[..take].copy_from_slice(&self.pending.split_to(take));
        Ok(take)
    }

    /// Receives the next piece; `false` at the end.
    async fn next(&mut self, context: &Context) -> Result<bool, BlobError> {
        let body = match &mut self.body {
            Some(body) => body,
            none => {
                let origin = context.origin()?;
                // Open-ended where that is the end of the blob: presigned URLs are happier that way.
                let end = if context.size == Some(self.end) { ENDLESS } else { self.end };
                let expected = context.size.or(origin.hint);
                let avoid = context.fills.refused(&context.digest);
                none.insert(Passing::new(&origin.source, &context.digest, self.position..end, expected, avoid))
            }
        };
        let Some(mut bytes) = (if self.position < self.end { body.chunk().await? } else { None }) else {
            return self.finish(context);
        };
        bytes.truncate(usize::try_from(self.end - self.position).unwrap_or(usize::MAX));
        self.position += bytes.len() as u64;
        match &mut self.hasher {
            Some(hasher) => {
                hasher.update(&bytes);
                if !bytes.is_empty() {
                    self.pending = self.held.replace(bytes).unwrap_or_default();
                }
            }
            None => self.pending = bytes,
        }
        Ok(true)
    }

    /// The body ended. The client delivers one whole or fails, so an end before ours is a blob that changed its size.
    fn finish(&mut self, context: &Context) -> Result<bool, BlobError> {
        let short = self.end != ENDLESS && self.position < self.end;
        let total = self.body.as_ref().and_then(Passing::total);
        let longer = self.hasher.is_some() && total.is_some_and(|total| total > self.position);
        let wrong = self.hasher.take().is_some_and(|hasher| hasher.finish() != context.digest);
        if short || longer || wrong {
            if wrong {
                context.store.metrics.verification_failure(crate::admin::metrics::VerificationPlace::Upstream);
            }
            let registry =
                context.origin.as_ref().map_or_else(Arc::default, |origin| origin.source.repository.registry().into());
            return Err(BlobError::Mismatch { registry, digest: context.digest });
        }
        self.pending = self.held.take().unwrap_or_default();
        Ok(!self.pending.is_empty())
    }
}
