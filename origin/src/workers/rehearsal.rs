//! What a collection of garbage would come to, told.
//!
//! Invariant: it reads and changes nothing, locks nothing, and holds one look's rows in memory. A collection asks the database the
//! same questions; what it takes away between two of them, a rehearsal has to look past ([`View::Ahead`]). So it may be off by what
//! is pushed or deleted meanwhile, and by what hangs on garbage more than a few levels deep.

use super::collector::{CollectError, Collected, Collector, earlier};
use crate::meta::{View, now};

impl Collector {
    /// What there is to collect, told line by line.
    pub(crate) async fn rehearse(&self, tell: fn(&str)) -> Result<Collected, CollectError> {
        let (meta, windows, begun) = (&self.meta, &self.windows, now());
        let mut told = Collected::default();

        let abandoned = earlier(begun, windows.uploads);
        let mut next = Some(String::new());
        while let Some(after) = next {
            let found = meta.abandoned_uploads(abandoned, &after).await?;
            found.rows.iter().for_each(|id| tell(&format!("upload {id}")));
            told.uploads += found.rows.len() as u64;
            next = found.next;
        }

        let mut next = Some(0);
        while let Some(after) = next {
            let found = meta.unused_repositories(abandoned, after).await?;
            found.rows.iter().for_each(|id| tell(&format!("deleted repository {id}")));
            told.repositories += found.rows.len() as u64;
            next = found.next;
        }

        let (window, before) = (earlier(begun, windows.tags), windows.before(begun));
        let mut next = Some(0);
        while let Some(after) = next {
            let found = meta.unneeded_manifests(View::Ahead, before, after).await?;
            found.rows.iter().for_each(|manifest| tell(&format!("manifest {}", manifest.digest)));
            told.manifests += found.rows.len() as u64;
            next = found.next;
        }

        let mut next = Some(0);
        while let Some(after) = next {
            let found = meta.unheld_blobs(View::Ahead, (before, begun), after).await?;
            for blob in &found.rows {
                tell(&format!("blob {}", blob.digest));
                told.blob(blob);
            }
            next = found.next;
        }

        let old = meta.old(begun, window, earlier(begun, windows.actions)).await?;
        told.expired = old.expired;
        (told.tags, told.actions, told.keys, told.app_tokens) = (old.tags, old.actions, old.keys, old.app_tokens);
        Ok(told)
    }
}
