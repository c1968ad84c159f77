//! What the API says of the cache.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time;
use crate::cache;

/// The cache as a whole.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct CacheStats {
    /// Bytes of content on disk, partial blobs included.
    pub(crate) bytes: u64,
    /// `max_size`, or what the disk can hold where that is less.
    pub(crate) limit: u64,
    /// Manifests and blobs, partial ones included.
    pub(crate) contents: u64,
    /// Evicted since the start.
    pub(crate) evictions: u64,
    /// Bytes of them.
    pub(crate) evicted_bytes: u64,
    /// `false` while requests are served past a full or failing disk.
    pub(crate) writable: bool,
    /// Pulls since the start, by registry.
    pub(crate) registries: Vec<RegistryStats>,
}

/// Answers to requests for manifests, blobs and lists of a registry since the start, by where they came from.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct RegistryStats {
    /// The registry.
    pub(crate) name: String,
    /// From the cache.
    pub(crate) hits: u64,
    /// From the cache, confirmed upstream.
    pub(crate) revalidated: u64,
    /// From the cache, not confirmed.
    pub(crate) stale: u64,
    /// From upstream, into the cache.
    pub(crate) misses: u64,
    /// From upstream, past a cache that could not store it.
    pub(crate) bypasses: u64,
    /// No pulls: pushes, deletions and all else that was passed on to the registry's servers.
    #[serde(default)]
    pub(crate) forwarded: u64,
    /// The share that came from the cache, bypasses and forwarded requests left out: 0 to 1; nothing before the first request.
    pub(crate) hit_rate: Option<f64>,
}

/// Repositories that hold something in the cache.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct HoldingList {
    /// How many there are, shown or not.
    pub(crate) total: usize,
    /// The largest first.
    pub(crate) repositories: Vec<Holding>,
}

/// A repository that holds something in the cache.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Holding {
    /// Its registry.
    pub(crate) registry: String,
    /// Its name there.
    pub(crate) repository: String,
    /// Tags that are known.
    pub(crate) tags: usize,
    /// Manifests and blobs that are here.
    pub(crate) contents: usize,
    /// Bytes of them. What several repositories hold is counted in each.
    pub(crate) bytes: u64,
    /// When any of them was last used.
    pub(crate) used: Option<String>,
}

/// The tags of a repository that are known.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ImageList {
    /// By name.
    pub(crate) images: Vec<Image>,
}

/// A tag, and what is here of its image.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Image {
    /// The tag.
    pub(crate) tag: String,
    /// The manifest that it means.
    pub(crate) digest: String,
    /// When upstream last said so.
    pub(crate) checked: String,
    /// Manifests and blobs of it that are here.
    pub(crate) contents: usize,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// How many of its manifests and blobs are not here.
    pub(crate) missing: usize,
    /// When it was last used; nothing when its manifest is not here.
    pub(crate) used: Option<String>,
    /// `configuration` or `operator`, where it is pinned.
    pub(crate) pinned: Option<String>,
}

/// A part of the cache: a registry, a repository of it, or an image of that.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// The registry's name.
    pub(crate) registry: String,
    /// A repository of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repository: Option<String>,
    /// A tag or digest of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
}

/// What a purge deleted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Purged {
    /// Manifests and blobs.
    pub(crate) contents: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// Tags that were forgotten. Their images may be held by other tags.
    #[serde(default)]
    pub(crate) tags: u64,
    /// Repositories that something was forgotten of; 0 where nothing of the part was here.
    #[serde(default)]
    pub(crate) repositories: u64,
}

/// What came of a pin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pinned {
    /// Whether it is pinned by an operator from here on.
    pub(crate) pinned: bool,
    /// Whether that is news.
    pub(crate) changed: bool,
}

/// Why an image is in the cache, or is not.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Why {
    /// The manifest or blob that is meant, where that is known.
    pub(crate) digest: Option<String>,
    /// When upstream last said what the tag means.
    pub(crate) checked: Option<String>,
    /// Manifests and blobs of it that are here.
    pub(crate) contents: usize,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// When it was last used.
    pub(crate) used: Option<String>,
    /// What it refers to and is not here, at most 100.
    pub(crate) missing: Vec<String>,
    /// `configuration` or `operator`, where it is pinned.
    pub(crate) pinned: Option<String>,
    /// Bytes of the cache that are evicted before it.
    pub(crate) evicted_before: u64,
    /// All of that in words.
    pub(crate) reasons: Vec<String>,
}

/// Missing parts that are named.
const NAMED: usize = 100;

fn pinned_by(by: Option<cache::PinnedBy>) -> Option<String> {
    by.map(|by| match by {
        cache::PinnedBy::Configuration => "configuration".to_owned(),
        cache::PinnedBy::Operator => "operator".to_owned(),
    })
}

impl From<cache::Purged> for Purged {
    fn from(purged: cache::Purged) -> Purged {
        let cache::Purged { contents, bytes, tags, repositories } = purged;
        Purged { contents, bytes, tags, repositories }
    }
}

impl From<cache::Holding> for Holding {
    fn from(holding: cache::Holding) -> Holding {
        Holding {
            registry: holding.repository.registry.as_ref().to_owned(),
            repository: holding.repository.name.as_str().to_owned(),
            tags: holding.tags,
            contents: holding.contents,
            bytes: holding.bytes,
            used: holding.used.map(time),
        }
    }
}

impl From<cache::Image> for Image {
    fn from(image: cache::Image) -> Image {
        Image {
            tag: image.tag.to_string(),
            digest: image.record.digest.to_string(),
            checked: time(image.record.checked),
            contents: image.presence.contents,
            bytes: image.presence.bytes,
            missing: image.presence.missing.len(),
            used: image.presence.used.map(time),
            pinned: pinned_by(image.pinned),
        }
    }
}

/// What is known of content that is not here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absence {
    /// Its size, as a manifest tells it.
    pub(crate) size: Option<u64>,
    /// The most bytes that the cache takes.
    pub(crate) limit: u64,
    /// Whether it is being fetched.
    pub(crate) arriving: bool,
}

impl Absence {
    fn reason(self) -> String {
        match self {
            Absence { arriving: true, .. } => "it is being fetched, and is not here as a whole yet".to_owned(),
            Absence { size: Some(size), limit, .. } if size > limit => {
                format!("it is not kept: it has {size} bytes, and the cache takes {limit} at most")
            }
            _ => "it is not here as a whole: it was evicted or purged, or never came, or came only in part".to_owned(),
        }
    }
}

impl Why {
    /// In words, too.
    pub(crate) fn of(facts: cache::Facts, absence: Absence) -> Why {
        Why {
            reasons: reasons(&facts, absence),
            digest: facts.digest.map(|digest| digest.to_string()),
            checked: facts.tag.map(|tag| time(tag.checked)),
            contents: facts.presence.contents,
            bytes: facts.presence.bytes,
            used: facts.presence.used.map(time),
            missing: facts.presence.missing.iter().take(NAMED).map(ToString::to_string).collect(),
            pinned: pinned_by(facts.pinned),
            evicted_before: facts.evicted_before,
        }
    }
}

/// What is known of an image, in words. Pure.
fn reasons(facts: &cache::Facts, absence: Absence) -> Vec<String> {
    let mut reasons = Vec::new();
    let Some(digest) = facts.digest else {
        return vec![
            "the tag is not known: it was never pulled here, or was forgotten with an eviction or a purge".to_owned(),
        ];
    };
    if let Some(tag) = facts.tag {
        reasons.push(format!("upstream said at {} that the tag means {digest}", time(tag.checked)));
    }
    let presence = &facts.presence;
    match (presence.used, facts.held) {
        (None, _) => reasons.push(absence.reason()),
        (Some(used), false) => reasons.push(format!(
            "its bytes are here (last used {}), and this repository is not known to hold it: upstream is asked first",
            time(used)
        )),
        (Some(used), true) => reasons.push(format!("it is here, and was last used {}", time(used))),
    }
    if presence.used.is_some() && !presence.missing.is_empty() {
        let (missing, all) = (presence.missing.len(), presence.missing.len() + presence.contents);
        reasons.push(format!(
            "{missing} of its {all} parts are not here: other platforms, or layers that no client pulled"
        ));
    }
    match facts.pinned {
        Some(cache::PinnedBy::Configuration) => reasons.push("it is never evicted: `pin` of its registry".to_owned()),
        Some(cache::PinnedBy::Operator) => reasons.push("it is never evicted: an operator pinned it".to_owned()),
        None if presence.used.is_some() => {
            reasons.push(format!("{} bytes that were used before it are evicted first", facts.evicted_before));
        }
        None => {}
    }
    reasons
}

#[cfg(test)]
mod tests {
    use pierhead_registry::oci::{Algorithm, Digest};

    use super::*;

    #[test]
    fn why_content_is_not_here_is_told_truly() {
        let facts = cache::Facts {
            tag: None,
            digest: Some(Digest::of(Algorithm::Sha256, b"layer")),
            held: true,
            presence: Default::default(),
            pinned: None,
            evicted_before: 0,
        };
        for (size, arriving, expected) in [
            (Some(101), false, "it is not kept: it has 101 bytes, and the cache takes 100 at most"),
            (
                Some(100),
                false,
                "it is not here as a whole: it was evicted or purged, or never came, or came only in part",
            ),
            (None, false, "it is not here as a whole: it was evicted or purged, or never came, or came only in part"),
            (Some(100), true, "it is being fetched, and is not here as a whole yet"),
        ] {
            assert_eq!(reasons(&facts, Absence { size, limit: 100, arriving }), [expected]);
        }
    }
}
