//! The one writer of a fill: writes pieces to the file, notes them, hashes them, and ends the fill.
//!
//! Writing, hashing and syncing block, so each batch is one job on a blocking thread while the next is being received.
//! Readers see a batch as soon as it is written, before it is hashed. The hash follows the file, not the network, so
//! pieces may arrive in any order.
//!
//! Room in the store is taken here, as bytes arrive: what upstream claims of a blob's length makes no room. A fill that
//! the store has no room for ends, and its readers go on past the store.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pierhead_registry::oci::Hasher;
use tokio::sync::mpsc;

use super::registry::Fills;
use super::{Fill, Piece};
use crate::admin::metrics::VerificationPlace;
use crate::cache::BlobError;
use crate::cache::segments::Claim;
use crate::cache::store::{NotStored, Store, blocking};
use crate::cache::tree::PartialMap;

/// Pieces that may wait for the writer: enough to keep it busy, little enough to slow down a fast network.
pub(super) const QUEUE: usize = 32;
/// Room is taken in steps of this size, so that not every batch has to ask for it.
const ROOM: u64 = 1 << 20;
/// The map is written at least this often, so that a crash costs little.
const MAP_BYTES: u64 = 8 << 20;
const MAP_INTERVAL: Duration = Duration::from_millis(250);

/// Why a batch could not be written.
#[derive(Debug, thiserror::Error)]
enum Unwritten {
    /// The store has no room for it.
    #[error("{0}")]
    NotStored(#[from] NotStored),
    /// The file cannot be written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The hash of the file's beginning.
struct Hashed {
    hasher: Hasher,
    position: u64,
    buffer: Vec<u8>,
}

/// Writes until the fill is verified, has failed, or nobody uses it any more.
pub(super) async fn run(
    fill: Arc<Fill>,
    store: Arc<Store>,
    fills: Arc<Fills>,
    mut pieces: mpsc::Receiver<Piece>,
    claims: Vec<Claim>,
) {
    store.metrics.fills.inc();
    let mut hashed = Hashed { hasher: Hasher::new(fill.digest.algorithm()), position: 0, buffer: vec![0; 256 << 10] };
    let mut saved: Option<(Instant, u64)> = None;
    let mut taken = 0;
    for claim in claims {
        let job = Arc::clone(&fill);
        let checked = blocking(move || check(&job, claim)).await.and_then(|checked| checked);
        if let Err(error) = checked {
            store.failed("reading a partial blob", &error);
        }
    }
    fill.update(|state| state.checking = false);

    let mut batch = Vec::with_capacity(QUEUE);
    loop {
        if fill.is_condemned() {
            fills.discard(&fill, &store).await;
            fill.fail(BlobError::Mismatch { registry: Arc::clone(&fill.owner), digest: fill.digest });
            break;
        }
        let whole = fill.total().filter(|total| fill.gaps(0..*total).is_empty());
        if let Some(total) = whole {
            finish(&fill, &store, &fills, hashed, total).await;
            break;
        }
        tokio::select! {
            // What was received is written before the fill is put away.
            biased;
            received = pieces.recv_many(&mut batch, QUEUE) => {
                if received == 0 {
                    break;
                }
                let job = (Arc::clone(&fill), Arc::clone(&store), std::mem::take(&mut batch));
                let save = saved.is_none_or(|(when, bytes)| when.elapsed() > MAP_INTERVAL || bytes > MAP_BYTES);
                let mut room = taken;
                let done = blocking(move || {
                    let (fill, store, pieces) = job;
                    take_room(&fill, &store, &pieces, &mut room)?;
                    let written = write(&fill, &pieces, &mut hashed)?;
                    if save {
                        save_map(&fill, &store)?;
                    }
                    store.worked();
                    Ok::<_, Unwritten>((hashed, written, room))
                });
                match done.await.map_err(Unwritten::Io).and_then(|done| done) {
                    Ok((next, written, room)) => {
                        (hashed, taken) = (next, room);
                        saved = match saved {
                            Some((when, bytes)) if !save => Some((when, bytes + written)),
                            _ => Some((Instant::now(), 0)),
                        };
                    }
                    Err(error) => {
                        match &error {
                            Unwritten::Io(error) => store.failed("writing a blob", error),
                            Unwritten::NotStored(why) => {
                                tracing::warn!(digest = %fill.digest, %why, "served through, uncached");
                            }
                        }
                        // Off the registry first: a request after the failure must not find it.
                        fills.discard(&fill, &store).await;
                        fill.fail(BlobError::Storage { digest: fill.digest, reason: error.to_string() });
                        break;
                    }
                }
            }
            () = fill.idle.notified() => {
                if fills.retire(&fill, &store).await {
                    break;
                }
            }
        }
    }
    store.metrics.fills.dec();
}

/// Takes over what an earlier process left, if it is what that process wrote.
fn check(fill: &Fill, claim: Claim) -> io::Result<()> {
    let length = claim.end.checked_sub(claim.start).filter(|_| claim.end <= fill.bound()).unwrap_or(0);
    let mut bytes = vec![0; usize::try_from(length.min(super::super::segments::SEGMENT)).unwrap_or(0)];
    match fill.file.read_exact_at(&mut bytes, claim.start) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return Err(error),
    }
    if bytes.len() as u64 == length && crc32fast::hash(&bytes) == claim.crc {
        fill.update(|state| {
            if state.segments.gaps(claim.start..claim.end).first() == Some(&(claim.start..claim.end)) {
                state.segments.insert(claim.start, &bytes);
            }
        });
    }
    Ok(())
}

/// Takes room for a batch, where what was taken before does not do.
fn take_room(fill: &Fill, store: &Store, pieces: &[Piece], taken: &mut u64) -> Result<(), NotStored> {
    let batch: u64 = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
    let needed = fill.bytes().saturating_add(batch).min(fill.bound());
    if needed > *taken {
        let room = needed.next_multiple_of(ROOM).min(fill.bound());
        store.reserve(&fill.owner, &fill.digest, room)?;
        *taken = room;
    }
    Ok(())
}

/// Writes what is missing of the pieces, and hashes as far as the file goes without a gap.
fn write(fill: &Fill, pieces: &[Piece], hashed: &mut Hashed) -> io::Result<u64> {
    let mut written = 0;
    for piece in pieces {
        for gap in fill.gaps(piece.offset..piece.offset + piece.bytes.len() as u64) {
            let within = |position: u64| usize::try_from(position - piece.offset).unwrap_or(usize::MAX);
            let bytes = &piece.bytes[within(gap.start)..within(gap.end)];
            fill.file.write_all_at(bytes, gap.start)?;
            fill.update(|state| state.segments.insert(gap.start, bytes));
            written += bytes.len() as u64;
            if hashed.position == gap.start {
                hashed.hasher.update(bytes);
                hashed.position = gap.end;
            }
        }
    }
    catch_up(fill, hashed)?;
    Ok(written)
}

/// Hashes what is in the file beyond where the hash stands.
fn catch_up(fill: &Fill, hashed: &mut Hashed) -> io::Result<()> {
    let end = fill.contiguous(hashed.position);
    while hashed.position < end {
        let want = usize::try_from(end - hashed.position).unwrap_or(usize::MAX).min(hashed.buffer.len());
        let read = fill.file.read_at(&mut hashed.buffer[..want], hashed.position)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hashed.hasher.update(&hashed.buffer[..read]);
        hashed.position += read as u64;
    }
    Ok(())
}

/// Writes down what the file holds.
pub(super) fn save_map(fill: &Fill, store: &Store) -> io::Result<()> {
    let claims = fill.state.lock().segments.claims();
    let map = PartialMap { total: fill.total(), claims, begun_whole: fill.has_begun_whole() };
    store.tree.write_partial_map(&fill.digest, &map)
}

/// Everything is here: checks the hash, lets the readers have the rest, and commits.
async fn finish(fill: &Arc<Fill>, store: &Arc<Store>, fills: &Arc<Fills>, mut hashed: Hashed, total: u64) {
    let job = Arc::clone(fill);
    let hashing = blocking(move || {
        catch_up(&job, &mut hashed)?;
        io::Result::Ok(hashed.hasher.finish())
    });
    match hashing.await.and_then(|hash| hash) {
        Ok(digest) if digest == fill.digest => {}
        Ok(_) => {
            store.metrics.verification_failure(VerificationPlace::Upstream);
            let endpoints = fill.state.lock().endpoints.clone();
            let (registry, digest) = (&fill.owner, &fill.digest);
            tracing::error!(%registry, %digest, ?endpoints, "upstream sent content that does not hash to its digest");
            fills.refuse(fill.digest, &endpoints);
            // Off the registry first: a request after the failure must not find it.
            fills.discard(fill, store).await;
            fill.fail(BlobError::Mismatch { registry: Arc::clone(&fill.owner), digest: fill.digest });
            return;
        }
        Err(error) => {
            store.failed("reading a partial blob", &error);
            fills.discard(fill, store).await;
            fill.fail(BlobError::Storage { digest: fill.digest, reason: error.to_string() });
            return;
        }
    }
    // Readers need not wait for the disk to sync.
    fill.update(|state| state.verified = true);
    let job = (Arc::clone(fill), Arc::clone(store));
    let committed = blocking(move || job.1.commit(&job.0.owner, &job.0.digest, total, &job.0.file)).await;
    match committed.and_then(|committed| committed) {
        Ok(()) => fills.remove(fill),
        Err(error) => {
            store.failed("committing a blob", &error);
            fills.discard(fill, store).await;
        }
    }
}
