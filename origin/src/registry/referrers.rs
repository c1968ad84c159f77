//! What is about a manifest: signatures, attestations, lists of parts.
//!
//! Invariants: a page is as long as fits into [`PAGE`], because many clients never follow the `Link` to the next one. No page reads
//! more than [`READ`] bytes of manifests, in batches, so that a list costs a bounded amount of memory and work. A page goes on from the
//! digest where the one before ended, which tells nothing about other repositories and stays right when that manifest is deleted.

use std::collections::{BTreeMap, HashMap};

use pierhead_registry::oci::{Digest, Manifest, media_type};
use serde::Serialize;

use super::{Registry, RegistryError};
use crate::meta::Referrer;

/// Bytes of a page (OCI distribution specification, "Listing Referrers": clients need not read more than 4 MiB).
const PAGE: usize = 4 * 1024 * 1024;
/// What of a page is no entry: its own fields, with room to spare.
const FRAME: usize = 256;
/// Bytes of manifests that are read for one page: annotations stand in the manifests.
const READ: i64 = 64 * 1024 * 1024;
/// Bytes of manifests that are in memory at a time, unless a single one is larger.
const BATCH: i64 = 4 * 1024 * 1024;
/// Rows of one look.
const ROWS: u32 = 2000;

/// Which referrers are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReferrersAsked<'a> {
    /// Of what.
    pub(crate) subject: &'a Digest,
    /// Only of this kind.
    pub(crate) artifact_type: Option<&'a str>,
    /// From after this one on.
    pub(crate) last: Option<&'a Digest>,
}

/// A page of referrers: an image index.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReferrerPage {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<ReferrerEntry>,
    /// The last one of this page, when there are more.
    #[serde(skip)]
    pub(crate) next: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerEntry {
    media_type: String,
    digest: String,
    size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// Decides how much goes on a page.
struct Budget {
    page: usize,
    read: i64,
    empty: bool,
}

impl Budget {
    fn new() -> Budget {
        Budget { page: PAGE - FRAME, read: READ, empty: true }
    }

    /// Whether a manifest of this size may be read for this page. The first one always may.
    fn reads(&mut self, size: i64) -> bool {
        self.read -= size;
        self.empty || self.read >= 0
    }

    /// Whether an entry of so many bytes goes on this page. The first one always does.
    fn shows(&mut self, length: usize) -> bool {
        // A comma stands between two entries.
        let left = self.page.checked_sub(length + 1);
        let shows = self.empty || left.is_some();
        (self.page, self.empty) = (left.unwrap_or_default(), false);
        shows
    }
}

impl Registry {
    /// What is about a digest. Neither the digest nor the repository need be there: then nothing is about it.
    pub(crate) async fn referrers(
        &self,
        repository: &str,
        asked: ReferrersAsked<'_>,
    ) -> Result<ReferrerPage, RegistryError> {
        let mut page =
            ReferrerPage { schema_version: 2, media_type: media_type::OCI_INDEX, manifests: Vec::new(), next: None };
        let Some(repository) = self.meta.repository(repository).await? else { return Ok(page) };
        let ReferrersAsked { subject, artifact_type, last } = asked;
        let mut last = last.map(ToString::to_string).unwrap_or_default();
        let mut budget = Budget::new();
        loop {
            let found = self.meta.referrers(repository.id, subject, artifact_type, &last, ROWS).await?;
            let is_end = found.len() < ROWS as usize;
            for some in batches(&found) {
                let fitting = some.iter().take_while(|referrer| budget.reads(referrer.size)).count();
                let ids: Vec<i64> = some.iter().take(fitting).map(|referrer| referrer.id).collect();
                let contents = self.meta.manifest_contents(&ids).await?;
                let contents: HashMap<i64, Vec<u8>> =
                    contents.into_iter().map(|manifest| (manifest.id, manifest.content)).collect();
                for referrer in some.iter().take(fitting) {
                    // Gone since it was found: then it is no referrer any more.
                    let Some(content) = contents.get(&referrer.id) else { continue };
                    let entry = entry(referrer, content);
                    let length = serde_json::to_vec(&entry).map_or(PAGE, |json| json.len());
                    if !budget.shows(length) {
                        page.next = Some(last);
                        return Ok(page);
                    }
                    last.clone_from(&referrer.digest);
                    page.manifests.push(entry);
                }
                if fitting < some.len() {
                    page.next = Some(last);
                    return Ok(page);
                }
            }
            match found.last() {
                Some(end) if !is_end => last.clone_from(&end.digest),
                _ => return Ok(page),
            }
        }
    }
}

/// In pieces that fit into memory.
fn batches(mut found: &[Referrer]) -> Vec<&[Referrer]> {
    let mut batches = Vec::new();
    while !found.is_empty() {
        let mut bytes = 0;
        let fitting = found.iter().take_while(|referrer| {
            bytes += referrer.size;
            bytes <= BATCH
        });
        let (batch, rest) = found.split_at(fitting.count().max(1));
        batches.push(batch);
        found = rest;
    }
    batches
}

fn entry(referrer: &Referrer, content: &[u8]) -> ReferrerEntry {
    ReferrerEntry {
        media_type: referrer.media_type.clone(),
        digest: referrer.digest.clone(),
        size: referrer.size,
        artifact_type: referrer.artifact_type.clone(),
        // It was readable when it was pushed.
        annotations: Manifest::parse(content).map(|manifest| manifest.annotations).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn referrers(sizes: &[i64]) -> Vec<Referrer> {
        let referrer = |(id, size): (i64, &i64)| Referrer {
            id,
            digest: format!("sha256:{id:064}"),
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            size: *size,
        };
        (1..).zip(sizes).map(referrer).collect()
    }

    #[test]
    fn batches_fit_into_memory() {
        for (sizes, expected) in [
            (&[][..], vec![]),
            (&[1, 2, 3], vec![3]),
            (&[BATCH, 1], vec![1, 1]),
            (&[BATCH / 2, BATCH / 2, 1], vec![2, 1]),
            (&[2 * BATCH, 1], vec![1, 1]),
        ] {
            let found = referrers(sizes);
            assert_eq!(batches(&found).iter().map(|batch| batch.len()).collect::<Vec<_>>(), expected, "{sizes:?}");
        }
    }

    #[test]
    fn a_page_is_as_long_as_fits_and_never_empty() {
        let shown = |length: usize| {
            let mut budget = Budget::new();
            (0..1_000_000).take_while(|_| budget.shows(length)).count()
        };
        for (length, expected) in [(PAGE, 1), (2 * PAGE, 1), (PAGE / 2, 1), (PAGE / 2 - FRAME, 2)] {
            assert_eq!(shown(length), expected, "{length}");
        }
        assert!(shown(300) > 13_000);
        let mut budget = Budget::new();
        assert!(budget.reads(2 * READ) && budget.shows(10));
        assert!(!budget.reads(1));
        let mut budget = Budget::new();
        assert!(budget.reads(READ - 1) && budget.shows(10) && budget.reads(1) && !budget.reads(1));
    }
}
