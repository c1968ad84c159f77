//! The first request of a fill: for the whole blob, for its first stretch, or for the part that a reader waits for.
//!
//! Invariant: a blob of which nothing is here costs one request before its first bytes, whose answer tells its length as well. Only
//! where that says too little, or a manifest says that the blob is too large for the cache, upstream is asked about it before.

use std::sync::Arc;
use std::time::Duration;

use pierhead_registry::client::ClientError;
use pierhead_registry::oci::Digest;
use tokio::time::Instant;

use super::connections::Parties;
use super::download::{self, Body};
use super::registry::{Fills, Origin};
use crate::cache::store::Store;
use crate::cache::{BlobError, Stretch, Want};

/// How long a fill waits for a registry that is busy with others. Clients wait for a header for half a minute.
const CROWDED: Duration = Duration::from_secs(5);

/// How a fill begins.
pub(super) struct Begun {
    /// Length of the blob, where upstream tells it.
    pub(super) size: Option<u64>,
    /// What is to be fetched: the whole, where parts cannot be had.
    pub(super) want: Want,
    /// The part that was asked for.
    pub(super) part: Option<Body>,
    /// The whole, or its first stretch.
    pub(super) whole: Option<Body>,
    /// Whether no part can be asked for by itself.
    pub(super) unranged: bool,
}

/// What upstream said to the first request.
pub(super) enum Asked {
    /// It sends the blob.
    Begun(Box<Begun>),
    /// The blob is too large for the cache.
    TooLarge {
        /// Its length, where upstream tells it.
        size: Option<u64>,
    },
}

impl Begun {
    /// Some of the blob is here, and so is what upstream said of its length.
    pub(super) fn known(size: Option<u64>, want: Want) -> Begun {
        // Of a blob without a length, no part can be asked for by itself.
        Begun { size, want, part: None, whole: None, unranged: size.is_none() }
    }

    fn whole(body: Option<Body>, unranged: bool) -> Begun {
        let size = body.as_ref().and_then(Body::total);
        Begun { size, want: Want::Whole, part: None, whole: body, unranged: unranged || size.is_none() }
    }
}

impl Fills {
    /// Asks upstream for a blob of which nothing is here.
    pub(super) async fn begin(
        &self,
        store: &Arc<Store>,
        registry: &Arc<str>,
        digest: &Digest,
        want: Want,
        origin: &Origin,
        parties: &Parties,
    ) -> Result<Asked, BlobError> {
        let mut unranged = false;
        if let Want::Part(asked) = want {
            let begun = self.first_part(origin, parties, digest, asked).await?;
            if begun.part.is_some() || begun.whole.is_some() || begun.want != Want::Whole {
                return Ok(Asked::Begun(Box::new(begun)));
            }
            // The part is waited for: asking for it would cost a download of the whole beside the fill's.
            unranged = true;
        }
        // Anybody can write anything into a manifest, so on its word alone nothing is passed by.
        if let Some(hint) = origin.hint
            && self.admits(store, registry, *digest, hint).await.is_err()
        {
            let size = origin.source.repository.probe_blob(digest, origin.hint, false).await?.size;
            if let Some(told) = size
                && self.admits(store, registry, *digest, told).await.is_err()
            {
                return Ok(Asked::TooLarge { size });
            }
        }
        let first = self.first(origin, parties, registry, digest).await?;
        Ok(Asked::Begun(Box::new(Begun::whole(Some(first), unranged))))
    }

    /// Asks for a part. Without a body in the answer: for the whole where parts cannot be had, or not be told from the whole.
    async fn first_part(
        &self,
        origin: &Origin,
        parties: &Parties,
        digest: &Digest,
        asked: Option<Stretch>,
    ) -> Result<Begun, BlobError> {
        let mut failed = false;
        let part = |size, part| Begun { part, ..Begun::known(Some(size), Want::Part(asked)) };
        if let Some(Stretch { start, end }) = asked {
            let end = end.unwrap_or(u64::MAX).min(start.saturating_add(download::READ_ON));
            match download::open(origin, parties, digest, (start, Some(end)), origin.hint, &self.refused(digest)).await
            {
                Ok(mut body) => {
                    return Ok(match body.total().filter(|_| body.start() == start && body.end() > Some(start)) {
                        _ if body.widen() => Begun::whole(Some(body), true),
                        Some(total) => part(total, Some(body)),
                        None => Begun::whole(None, true),
                    });
                }
                // Perhaps it lies beyond the end, or the server takes no ranges.
                Err(BlobError::Upstream(ClientError::Invalid { status: None | Some(..300 | 416), .. })) => {}
                Err(BlobError::Upstream(ClientError::Unavailable { status: Some(500), .. })) => failed = true,
                Err(error) => return Err(error),
            }
        }
        let probe = origin.source.repository.probe_blob(digest, origin.hint, failed).await?;
        Ok(match probe.size.filter(|_| probe.ranges) {
            Some(total) => part(total, None),
            None => Begun::whole(None, true),
        })
    }

    /// The first body of a new fill. A registry that allows few connections may be busy with other fills: they give back
    /// what they took beyond their first connection, and for a while this one waits for it.
    async fn first(
        &self,
        origin: &Origin,
        parties: &Parties,
        registry: &Arc<str>,
        digest: &Digest,
    ) -> Result<Body, BlobError> {
        let begun = Instant::now();
        loop {
            match download::first(origin, parties, digest, &self.refused(digest)).await {
                Err(BlobError::Upstream(ClientError::Unavailable { status: Some(503), .. }))
                    if begun.elapsed() < CROWDED && self.fetches_from(registry) =>
                {
                    self.narrows(registry, 1);
                    tokio::time::sleep(CROWDED / 5).await;
                }
                first => return first,
            }
        }
    }
}
