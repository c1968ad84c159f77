//! How long an image says that its tag is to be there: the label `quay.expires-after`.
//!
//! Builders write it (`LABEL quay.expires-after=2w`) so that what they push every night goes away by itself. It stands in the
//! image's configuration; of what has none, in the manifest's annotations.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use pierhead_registry::oci::Digest;
use pierhead_registry::store::{Content, StoreError};
use serde::Deserialize;

use super::{Registry, RegistryError};

/// The label's name, Quay's.
pub(super) const LABEL: &str = "quay.expires-after";
/// Media types of configurations that have labels.
pub(super) const CONFIGURATIONS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Largest configuration that is looked into.
const LARGEST: u64 = 1024 * 1024;
/// The shortest time, as Quay's: a push must have come to its end.
const SHORTEST: Duration = Duration::from_secs(3600);
/// The longest, as Quay's: 104 weeks.
const LONGEST: Duration = Duration::from_secs(104 * 7 * 24 * 3600);

/// Of a configuration, what matters here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    config: Option<Labelled>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Labelled {
    labels: Option<BTreeMap<String, String>>,
}

/// The label in a configuration.
fn label(configuration: &[u8]) -> Option<String> {
    let written: Written = serde_json::from_slice(configuration).ok()?;
    written.config?.labels?.remove(LABEL)
}

/// `90m`, `12h`, `7d`, `2w`, within what is sensible. What cannot be read is nothing, as Quay has it.
pub(super) fn lifetime(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return None,
    };
    let whole = number.bytes().all(|digit| digit.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| whole)?;
    Some(Duration::from_secs(number.saturating_mul(seconds)).clamp(SHORTEST, LONGEST))
}

impl Registry {
    /// The label in a configuration that a repository holds. Without it there: nothing, for it is not this repository's to look into.
    pub(super) async fn label(&self, repository: &str, digest: &Digest) -> Result<Option<String>, RegistryError> {
        let Some(held) = self.meta.blob(repository, digest).await?.filter(|blob| blob.size() <= LARGEST) else {
            return Ok(None);
        };
        match self.open_blob(&held, digest, 0..held.size()).await {
            Ok(content) => Ok(label(&read(content).await?)),
            // It was lost: what puts the manifest finds that it is missing.
            Err(RegistryError::BlobUnknown) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

async fn read(content: Content) -> Result<Bytes, StoreError> {
    match content {
        Content::Stream(stream) => {
            let gather = |mut all: BytesMut, piece: Bytes| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            };
            Ok(stream.try_fold(BytesMut::new(), gather).await?.freeze())
        }
        Content::File(file, range) => {
            let read = move || {
                let mut all = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
                file.read_exact_at(&mut all, range.start).map(|()| all)
            };
            let all = tokio::task::spawn_blocking(read).await.map_err(|error| StoreError::Broken(error.to_string()))?;
            all.map(Bytes::from).map_err(|error| StoreError::Broken(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_as_quay_does() {
        const HOUR: u64 = 3600;
        for (text, expected) in [
            ("90m", Some(90 * 60)),
            ("2h", Some(2 * HOUR)),
            ("1d", Some(24 * HOUR)),
            (" 2w ", Some(14 * 24 * HOUR)),
            ("5400s", Some(5400)),
            // Not sooner than in an hour, and not later than in two years.
            ("1s", Some(HOUR)),
            ("0h", Some(HOUR)),
            ("200w", Some(LONGEST.as_secs())),
            ("99999999999999999999w", None),
            ("18446744073709551615w", Some(LONGEST.as_secs())),
            ("", None),
            ("w", None),
            ("7", None),
            ("+7d", None),
            ("-7d", None),
            ("1.5h", None),
            ("7y", None),
            ("7ä", None),
            ("never", None),
        ] {
            assert_eq!(lifetime(text).map(|time| time.as_secs()), expected, "{text}");
        }
    }

    #[test]
    fn labels_are_found_where_builders_put_them() {
        for (configuration, expected) in [
            (r#"{"config":{"Labels":{"quay.expires-after":"2w","other":"x"}}}"#, Some("2w")),
            (r#"{"config":{"Labels":null}}"#, None),
            (r#"{"config":null,"rootfs":{}}"#, None),
            (r#"{"Labels":{"quay.expires-after":"2w"}}"#, None),
            (r#"{"config":{"Labels":{"quay.expires-after":7}}}"#, None),
            ("{}", None),
            ("no JSON", None),
        ] {
            assert_eq!(label(configuration.as_bytes()).as_deref(), expected, "{configuration}");
        }
    }
}
