//! Lists: tags, repositories, and what is about a manifest.

use pierhead_registry::oci::{Digest, Manifest, media_type};
use serde::Serialize;
use std::collections::BTreeMap;

use super::{Registry, RegistryError};
use crate::meta::{Referrer, Viewer};

/// Entries of a page: at most, and when the client does not say.
pub(crate) const LONGEST_PAGE: u32 = 1000;

/// Referrers of a page: their annotations are read from their manifests.
const REFERRERS: u32 = 100;
/// Bytes of manifests that are read for one page, beyond which it ends early: so the list stays as small as a manifest is.
const READ: i64 = 4 * 1024 * 1024;

/// Which referrers are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReferrersAsked<'a> {
    /// Of what.
    pub(crate) subject: &'a Digest,
    /// Only of this kind.
    pub(crate) artifact_type: Option<&'a str>,
    /// From after this one on.
    pub(crate) last: i64,
}

/// A page of referrers: an image index (OCI distribution specification, "Listing Referrers").
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReferrerPage {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<ReferrerEntry>,
    /// Where the next page begins.
    #[serde(skip)]
    pub(crate) next: Option<i64>,
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

impl Registry {
    /// Names of tags from after `last` on, and whether there are more.
    pub(crate) async fn tags(
        &self,
        repository: &str,
        last: &str,
        count: u32,
    ) -> Result<(Vec<String>, bool), RegistryError> {
        let repository = self.repository(repository).await?;
        let names = self.meta.tag_names(repository.id, last, count.saturating_add(1)).await?;
        Ok(page(names, count))
    }

    /// Names of repositories that the viewer may see, from after `last` on, and whether there are more.
    pub(crate) async fn catalog(
        &self,
        viewer: Viewer,
        last: &str,
        count: u32,
    ) -> Result<(Vec<String>, bool), RegistryError> {
        let names = self.meta.catalog(viewer, last, count.saturating_add(1)).await?;
        Ok(page(names, count))
    }

    /// What is about a digest, which need not be there itself.
    pub(crate) async fn referrers(
        &self,
        repository: &str,
        asked: ReferrersAsked<'_>,
    ) -> Result<ReferrerPage, RegistryError> {
        let repository = self.repository(repository).await?;
        let ReferrersAsked { subject, artifact_type, last } = asked;
        let found = self.meta.referrers(repository.id, subject, artifact_type, last, REFERRERS + 1).await?;
        let (shown, next) = cut(found);
        let mut manifests = Vec::with_capacity(shown.len());
        for referrer in shown {
            // Gone since it was found: then it is no referrer any more.
            let Some(content) = self.meta.manifest_content(referrer.id).await? else { continue };
            manifests.push(entry(referrer, &content));
        }
        Ok(ReferrerPage { schema_version: 2, media_type: media_type::OCI_INDEX, manifests, next })
    }
}

/// The first of these, and whether there are more.
fn page(mut names: Vec<String>, count: u32) -> (Vec<String>, bool) {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let more = names.len() > count;
    names.truncate(count);
    (names, more)
}

/// As many as fit on a page, and where the next begins.
fn cut(mut found: Vec<Referrer>) -> (Vec<Referrer>, Option<i64>) {
    let mut read = 0;
    let fit = found.iter().take(REFERRERS as usize).take_while(|referrer| {
        let first = read == 0;
        read += referrer.size;
        first || read <= READ
    });
    let fit = fit.count();
    let more = found.len() > fit;
    found.truncate(fit);
    let next = found.last().filter(|_| more).map(|referrer| referrer.id);
    (found, next)
}

fn entry(referrer: Referrer, content: &[u8]) -> ReferrerEntry {
    ReferrerEntry {
        media_type: referrer.media_type,
        digest: referrer.digest,
        size: referrer.size,
        artifact_type: referrer.artifact_type,
        // It was readable when it was pushed.
        annotations: Manifest::parse(content).map(|manifest| manifest.annotations).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn referrers(count: i64, size: i64) -> Vec<Referrer> {
        let referrer = |id| Referrer {
            id,
            digest: format!("sha256:{id:064}"),
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            size,
        };
        (1..=count).map(referrer).collect()
    }

    #[test]
    fn pages_end_and_go_on() {
        for (count, size, shown, next) in [
            (0, 0, 0, None),
            (100, 10, 100, None),
            (101, 10, 100, Some(100)),
            (5, READ / 2, 2, Some(2)),
            (2, READ, 1, Some(1)),
            (1, READ + 1, 1, None),
        ] {
            let (page, after) = cut(referrers(count, size));
            assert_eq!((page.len(), after), (shown, next), "{count} {size}");
        }
        let names = |count: usize| (0..count).map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(page(names(3), 2), (names(2), true));
        assert_eq!(page(names(2), 2), (names(2), false));
        assert_eq!(page(names(1), 0), (Vec::new(), true));
    }
}
