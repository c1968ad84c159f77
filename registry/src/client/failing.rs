//! Blobs that upstream lately failed to send, each to one account and in one repository.
//!
//! A blob that could not be had with all tries of one request will most likely fail for the next client too, and clients try again by
//! themselves. So for a while a request for it tries each address once, without a range where that will do, and without a HEAD before
//! where that is not asked for or failed too. The first body ends that.

use std::time::Duration;

use moka::sync::Cache;

use super::ClientError;
use crate::oci::{Digest, RepositoryName};

/// Most blobs that are remembered.
const KEPT: u64 = 4096;
/// How long.
const LATELY: Duration = Duration::from_secs(10);

/// The failing blobs of one registry.
pub(super) struct Failing(Cache<BlobKey, Lately>);

/// A blob, as one caller sees it: what fails for one may work for the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BlobKey {
    /// As clients name it.
    pub(super) repository: RepositoryName,
    /// The caller's account, as a hash.
    pub(super) account: Option<u64>,
    pub(super) digest: Digest,
}

/// What failed lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lately {
    /// Its HEAD too.
    pub(super) head: bool,
}

impl Failing {
    /// None.
    pub(super) fn new() -> Failing {
        Failing(Cache::builder().max_capacity(KEPT).time_to_live(LATELY).build())
    }

    /// Whether the blob failed lately.
    pub(super) fn get(&self, key: &BlobKey) -> Option<Lately> {
        self.0.get(key)
    }

    /// Notes what all tries of a request for the whole came to.
    pub(super) fn note(&self, key: BlobKey, failed: Lately, error: &ClientError) {
        if is_of_the_blob(error) {
            self.0.insert(key, failed);
        }
    }

    /// The blob is being sent.
    pub(super) fn ended(&self, key: &BlobKey) {
        self.0.invalidate(key);
    }
}

/// Whether upstream answered, and with a failure. An address that does not answer has a breaker, and a limit has a pause; a loop (508) is of
/// the way that a request came.
fn is_of_the_blob(error: &ClientError) -> bool {
    match error {
        ClientError::Unavailable { status, .. } => status.is_some_and(|status| status != 508),
        ClientError::Invalid { status, .. } => *status != Some(508),
        ClientError::NotFound { .. }
        | ClientError::Unconfirmed { .. }
        | ClientError::Unauthorized { .. }
        | ClientError::Forbidden { .. }
        | ClientError::Rejected { .. }
        | ClientError::AccountRefused { .. }
        | ClientError::RateLimited { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BlobKey, Failing, Lately};
    use crate::client::ClientError;
    use crate::oci::{Algorithm, Digest};

    #[test]
    fn only_a_failure_with_an_answer_is_of_the_blob() {
        let (registry, host, reason) = ("a.io".to_owned(), "a.io".to_owned(), "why".to_owned());
        let unavailable = |status| {
            let (registry, host, reason) = (registry.clone(), host.clone(), reason.clone());
            ClientError::Unavailable { registry, host, status, reason }
        };
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let key = BlobKey { repository: "a/b".parse().unwrap(), account: None, digest };
        for (error, expected) in [
            (unavailable(Some(503)), true),
            (unavailable(Some(508)), false),
            (unavailable(None), false),
            (
                ClientError::Invalid {
                    registry: registry.clone(),
                    host: host.clone(),
                    status: Some(200),
                    reason: reason.clone(),
                },
                true,
            ),
            (ClientError::NotFound { registry: registry.clone() }, false),
            (ClientError::Forbidden { registry: registry.clone() }, false),
            (
                ClientError::RateLimited {
                    registry: registry.clone(),
                    host: host.clone(),
                    retry_after: Duration::from_secs(1),
                },
                false,
            ),
        ] {
            let (failing, lately) = (Failing::new(), Lately { head: true });
            failing.note(key.clone(), lately, &error);
            assert_eq!(failing.get(&key), expected.then_some(lately), "{error}");
            for other in [
                BlobKey { repository: "a/c".parse().unwrap(), ..key.clone() },
                BlobKey { account: Some(1), ..key.clone() },
                BlobKey { digest: Digest::of(Algorithm::Sha256, b"y"), ..key.clone() },
            ] {
                assert_eq!(failing.get(&other), None, "{error}");
            }
            failing.ended(&key);
            assert_eq!(failing.get(&key), None, "{error}");
        }
    }
}
