//! Which fills there are: at most one a digest, joined by all who want it.
//!
//! A fill is opened by a task of its own, so that whoever asked first may go away; those who ask meanwhile wait for the
//! same answer. It stays registered while anybody holds a [`Lease`], and is retired by its writer after the last.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use moka::sync::Cache as Moka;
use parking_lot::Mutex;
use pierhead_registry::client::Repository;
use pierhead_registry::oci::Digest;
use pierhead_service::shares::Party;
use tokio::sync::{Notify, mpsc, watch};

use super::answers::{Failure, Meaning};
use super::connections::{Parties, Source, Wanted};
use super::first::{Asked, Begun};
use super::lease::Lease;
use super::{Fill, State, download, writer};
use crate::cache::ledger::{self, Entry, Kind};
use crate::cache::store::{NotStored, Store, blocking};
use crate::cache::tree::PartialMap;
use crate::cache::{BlobError, Want};

/// How long an address that sent wrong bytes for a digest is asked last for it.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// How long a registry that refused further connections gets no more at a time than it took.
const NARROW_FOR: Duration = Duration::from_secs(60);

/// What opening came to.
#[derive(Clone)]
enum Opened {
    /// A fill to read from.
    Fill {
        /// Kept registered until those who wait for it have it.
        lease: Lease,
        /// Whether upstream was asked, and so said yes to whoever opened it.
        asked: bool,
    },
    /// It is not stored.
    Uncached {
        /// Of the blob, where upstream tells it.
        size: Option<u64>,
        /// Whether upstream was asked now.
        asked: bool,
    },
    /// Its last fill was committed in the meantime.
    Committed,
}

type Opening = watch::Receiver<Option<Result<Opened, Failure>>>;

enum Slot {
    Opening(Opening),
    Open(Arc<Fill>),
}

/// The fills.
pub(in crate::cache) struct Fills {
    slots: Mutex<HashMap<Digest, Slot>>,
    /// The clients that wait for each.
    wanted: Wanted,
    /// Addresses that sent wrong bytes.
    refused: Moka<Digest, Vec<usize>>,
    /// Registries that refused a further connection to a fill, with how many it went on.
    narrow: Moka<Arc<str>, usize>,
}

/// How a fill is to be fetched.
#[derive(Clone)]
pub(in crate::cache) struct Origin {
    /// Where from.
    pub(in crate::cache) source: Source,
    /// The size as a manifest tells it: a hint, never trusted.
    pub(in crate::cache) hint: Option<u64>,
    /// Blobs larger than this are fetched over several connections,
    pub(in crate::cache) parallel_above: u64,
    /// no more than these.
    pub(in crate::cache) connections: usize,
}

impl Origin {
    /// In whose name it is fetched.
    pub(in crate::cache) fn party(&self) -> &Repository {
        &self.source.repository
    }
}

/// What [`Fills::join`] found.
pub(in crate::cache) enum Joined {
    /// A fill, new or running.
    Fill {
        /// To read from.
        lease: Lease,
        /// Whether upstream answered this very call, and so said yes to its caller.
        answered: bool,
    },
    /// Not stored.
    Uncached {
        /// Of the blob, where upstream tells it.
        size: Option<u64>,
        /// As above.
        answered: bool,
    },
    /// Committed since the caller looked: it should look again.
    Again,
    /// Upstream refused it to another party, which opened it: the caller should look again, and ask in its own name.
    Refused,
}

impl Fills {
    pub(in crate::cache) fn new() -> Arc<Fills> {
        let refused = Moka::builder().max_capacity(1024).time_to_live(REFUSED_FOR).build();
        let narrow = Moka::builder().max_capacity(1024).time_to_live(NARROW_FOR).build();
        Arc::new(Fills { slots: Mutex::default(), wanted: Wanted::default(), refused, narrow })
    }

    /// Says that a client wants a blob, for as long as this is kept: its fill goes on in the client's turn, too.
    pub(in crate::cache) fn want(&self, digest: &Digest, party: &Party) -> Parties {
        self.wanted.join(digest, Some(party))
    }

    /// The size of a blob that is being filled.
    pub(in crate::cache) fn size(&self, digest: &Digest) -> Option<u64> {
        match self.slots.lock().get(digest) {
            Some(Slot::Open(fill)) => fill.total(),
            _ => None,
        }
    }

    /// Joins the fill of a digest, or opens it from `origin`.
    pub(in crate::cache) async fn join(
        self: &Arc<Self>,
        store: &Arc<Store>,
        registry: &Arc<str>,
        digest: &Digest,
        want: Want,
        origin: Option<Origin>,
    ) -> Result<Joined, BlobError> {
        let wanted = self.wanted.join(digest, origin.as_ref().map(|origin| &origin.source.party));
        let (mut opening, first) = {
            let mut slots = self.slots.lock();
            match slots.get(digest) {
                Some(Slot::Open(fill)) => return Ok(Joined::Fill { lease: Lease::new(fill), answered: false }),
                Some(Slot::Opening(opening)) => (opening.clone(), false),
                None => {
                    let (sender, opening) = watch::channel(None);
                    slots.insert(*digest, Slot::Opening(opening.clone()));
                    let (fills, store, digest, origin) = (Arc::clone(self), Arc::clone(store), *digest, origin.clone());
                    let registry = Arc::clone(registry);
                    tokio::spawn(async move {
                        let opened = fills.open(&store, registry, digest, want, origin.clone(), wanted).await;
                        if !matches!(opened, Ok(Opened::Fill { .. })) {
                            fills.slots.lock().remove(&digest);
                        }
                        // Nobody may be waiting any more.
                        let _ = sender.send(Some(opened.map_err(|error| Failure::new(error, origin.as_ref()))));
                    });
                    (opening, true)
                }
            }
        };
        let opened = match opening.wait_for(Option::is_some).await {
            Ok(opened) => opened.clone(),
            Err(_) => {
                // Only a panic ends an opening without an answer; the next who asks must be able to try.
                let mut slots = self.slots.lock();
                if matches!(slots.get(digest), Some(Slot::Opening(opening)) if opening.has_changed().is_err()) {
                    slots.remove(digest);
                }
                None
            }
        };
        match opened {
            Some(Ok(Opened::Fill { lease, asked })) => Ok(Joined::Fill { lease, answered: first && asked }),
            Some(Ok(Opened::Uncached { size, asked })) => Ok(Joined::Uncached { size, answered: first && asked }),
            Some(Ok(Opened::Committed)) => Ok(Joined::Again),
            Some(Err(failure)) => match failure.meaning(origin.as_ref().map(Origin::party)) {
                Meaning::Own(error) | Meaning::Shared(error) => Err(error),
                Meaning::Strangers => Ok(Joined::Refused),
            },
            None => Err(BlobError::Storage { digest: *digest, reason: "opening the fill was given up".into() }),
        }
    }

    /// Opens a fill: from what is on disk of it, or by asking upstream.
    async fn open(
        self: &Arc<Self>,
        store: &Arc<Store>,
        registry: Arc<str>,
        digest: Digest,
        want: Want,
        origin: Option<Origin>,
        parties: Parties,
    ) -> Result<Opened, BlobError> {
        // Between the caller's look at the store and here, a fill may have ended.
        if store.ledger.committed(&digest, SystemTime::now()).is_some() {
            return Ok(Opened::Committed);
        }
        let job = Arc::clone(store);
        let map = blocking(move || job.tree.partial_map(&digest)).await.ok().flatten();
        // A part that is here may have been fetched for another caller: then upstream is not asked now.
        let asked = map.is_none();
        let begun = match (&map, &origin) {
            (Some(map), _) => Begun::known(map.total, want),
            (None, None) => return Err(BlobError::Offline { digest }),
            (None, Some(origin)) => match self.begin(store, &registry, &digest, want, origin, &parties).await? {
                Asked::Begun(begun) => *begun,
                Asked::TooLarge { size } => return Ok(Opened::Uncached { size, asked: true }),
            },
        };
        let Begun { size, want, part, whole, unranged } = begun;
        // What upstream claims is looked at, and makes no room: that is made as bytes arrive.
        let held = map.as_ref().map_or(0, PartialMap::bytes);
        let admitted = self.admits(store, &registry, digest, size.unwrap_or(held)).await;
        let job = (Arc::clone(store), Arc::clone(&registry));
        let reserved = match admitted {
            Ok(()) => blocking(move || job.0.reserve(&job.1, &digest, held))
                .await
                .unwrap_or_else(|error| Err(NotStored::Failing(error.to_string()))),
            refused => refused,
        };
        if let Err(why) = reserved {
            tracing::warn!(%digest, size, %why, "served through, uncached");
            return Ok(Opened::Uncached { size, asked });
        }
        let job = Arc::clone(store);
        let file = match blocking(move || job.tree.open_partial(&digest)).await.and_then(|file| file) {
            Ok(file) => Arc::new(file),
            Err(error) => {
                store.failed("making a partial blob", &error);
                store.ledger.remove(&digest);
                return Ok(Opened::Uncached { size, asked });
            }
        };
        let begun_whole = map.as_ref().is_some_and(|map| map.begun_whole);
        let claims = map.map(|map| map.claims).unwrap_or_default();
        let (pieces, receiver) = mpsc::channel(writer::QUEUE);
        let fill = Arc::new(Fill {
            digest,
            owner: registry,
            file,
            parties,
            state: Mutex::new(State { total: size, checking: true, unranged, begun_whole, ..State::default() }),
            changed: watch::channel(()).0,
            pieces,
            users: AtomicUsize::new(0),
            idle: Notify::new(),
        });
        tokio::spawn(writer::run(Arc::clone(&fill), Arc::clone(store), Arc::clone(self), receiver, claims));
        // Leased while it becomes visible, so that it is not retired before whoever asked holds it.
        let lease = Lease::new(&fill);
        let part = part.and_then(|body| Some((fill.claim(body.start()..body.end()?), body)));
        self.slots.lock().insert(digest, Slot::Open(Arc::clone(&fill)));
        if let Some((claimed, body)) = part {
            tokio::spawn(download::opened(lease.clone(), body, claimed));
        }
        if want == Want::Whole
            && let Some(origin) = origin
        {
            self.ensure_whole(store, &lease, &origin, whole);
        }
        Ok(Opened::Fill { lease, asked })
    }

    /// Whether a whole blob is being fetched from a registry.
    pub(super) fn fetches_from(&self, registry: &str) -> bool {
        let slots = self.slots.lock();
        slots.values().any(|slot| matches!(slot, Slot::Open(fill) if *fill.owner == *registry && fill.is_fetched()))
    }

    /// Whether there might be space.
    pub(super) async fn admits(
        &self,
        store: &Arc<Store>,
        registry: &Arc<str>,
        digest: Digest,
        size: u64,
    ) -> Result<(), NotStored> {
        let job = (Arc::clone(store), Arc::clone(registry));
        blocking(move || job.0.admit(&job.1, &digest, size))
            .await
            .unwrap_or_else(|error| Err(NotStored::Failing(error.to_string())))
    }

    /// How many connections a registry takes for one blob, if it refused one more lately.
    pub(super) fn narrow(&self, registry: &Arc<str>) -> Option<usize> {
        self.narrow.get(registry)
    }

    /// A registry refused one connection more than these.
    pub(super) fn narrows(&self, registry: &Arc<str>, connections: usize) {
        self.narrow.insert(Arc::clone(registry), connections);
    }

    /// The addresses that sent wrong bytes for a digest.
    pub(in crate::cache) fn refused(&self, digest: &Digest) -> Vec<usize> {
        self.refused.get(digest).unwrap_or_default()
    }

    /// Whether a blob whose content was wrong may be right at another of upstream's addresses.
    pub(in crate::cache) fn is_elsewhere(&self, digest: &Digest, party: &Repository) -> bool {
        self.refused(digest).len() < party.endpoints()
    }

    /// Notes addresses that sent wrong bytes for a digest.
    pub(super) fn refuse(&self, digest: Digest, endpoints: &[usize]) {
        let mut refused = self.refused(&digest);
        refused.extend(endpoints);
        self.refused.insert(digest, refused);
    }

    /// Takes a committed fill off the registry.
    pub(super) fn remove(&self, fill: &Arc<Fill>) {
        let mut slots = self.slots.lock();
        if matches!(slots.get(&fill.digest), Some(Slot::Open(open)) if Arc::ptr_eq(open, fill)) {
            slots.remove(&fill.digest);
        }
    }

    /// Takes a fill off the registry and deletes what there is of it.
    pub(super) async fn discard(&self, fill: &Arc<Fill>, store: &Arc<Store>) {
        let job = (Arc::clone(store), fill.digest);
        let removed = blocking(move || job.0.tree.remove_partial(&job.1)).await.and_then(|removed| removed);
        if let Err(error) = removed {
            tracing::warn!(%error, digest = %fill.digest, "removing a partial blob");
        }
        store.ledger.remove(&fill.digest);
        self.remove(fill);
    }

    /// Takes a fill that nobody uses off the registry, its map written down; `false` when somebody came back.
    pub(super) async fn retire(self: &Arc<Self>, fill: &Arc<Fill>, store: &Arc<Store>) -> bool {
        let (fills, fill, store) = (Arc::clone(self), Arc::clone(fill), Arc::clone(store));
        let retired = blocking(move || {
            let size = if fill.is_condemned() { 0 } else { fill.bytes() };
            if size > 0
                && let Err(error) = writer::save_map(&fill, &store)
            {
                store.failed("writing the map of a partial blob", &error);
            }
            // Under the lock: nobody may open it anew while it is being put away.
            let mut slots = fills.slots.lock();
            if fill.users.load(Ordering::SeqCst) > 0 {
                return false;
            }
            if size == 0 {
                let _ = store.tree.remove_partial(&fill.digest);
                store.ledger.remove(&fill.digest);
            } else {
                let used = ledger::milliseconds(SystemTime::now());
                let (owner, kind) = (Some(Arc::clone(&fill.owner)), Kind::Partial { busy: false });
                let entry = Entry { owner, size, used, pinned: false, suspect: false, kind };
                store.ledger.set(&fill.digest, entry);
            }
            slots.remove(&fill.digest);
            true
        });
        retired.await.unwrap_or(true)
    }

    /// Writes down the maps of all fills that are running: the process is about to end. Blocks.
    pub(in crate::cache) fn save_all(&self, store: &Store) {
        let open: Vec<_> = self
            .slots
            .lock()
            .values()
            .filter_map(|slot| match slot {
                Slot::Open(fill) => Some(Arc::clone(fill)),
                Slot::Opening(_) => None,
            })
            .collect();
        for fill in open {
            if let Err(error) = writer::save_map(&fill, store) {
                tracing::warn!(%error, digest = %fill.digest, "writing the map of a partial blob");
            }
        }
    }
}
