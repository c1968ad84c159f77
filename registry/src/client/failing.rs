//! Blobs that upstream lately failed to send.
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

/// The failing blobs of one registry, each in the repository where it failed.
pub(super) struct Failing(Cache<(RepositoryName, Digest), Lately>);

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
    pub(super) fn get(&self, repository: &RepositoryName, digest: &Digest) -> Option<Lately> {
        self.0.get(&(repository.clone(), *digest))
    }

    /// Notes what all tries of a request came to.
    pub(super) fn note(&self, repository: &RepositoryName, digest: &Digest, failed: Lately, error: &ClientError) {
        if is_of_the_blob(error) {
            self.0.insert((repository.clone(), *digest), failed);
        }
    }

    /// The blob is being sent.
    pub(super) fn ended(&self, repository: &RepositoryName, digest: &Digest) {
        self.0.invalidate(&(repository.clone(), *digest));
    }
}

/// Whether upstream answered, and with a failure. An address that does not answer has a breaker, and a limit has a pause.
fn is_of_the_blob(error: &ClientError) -> bool {
    match error {
        ClientError::Unavailable { status, .. } => status.is_some(),
        ClientError::Invalid { .. } => true,
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

    use super::{Failing, Lately};
    use crate::client::ClientError;
    use crate::oci::{Algorithm, Digest};

    #[test]
    fn only_a_failure_with_an_answer_is_of_the_blob() {
        let (registry, host, reason) = ("a.io".to_owned(), "a.io".to_owned(), "why".to_owned());
        let unavailable = |status| {
            let (registry, host, reason) = (registry.clone(), host.clone(), reason.clone());
            ClientError::Unavailable { registry, host, status, reason }
        };
        let (repository, digest) = ("a/b".parse().unwrap(), Digest::of(Algorithm::Sha256, b"x"));
        for (error, expected) in [
            (unavailable(Some(503)), true),
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
            let failing = Failing::new();
            let lately = Lately { head: true };
            failing.note(&repository, &digest, lately, &error);
            assert_eq!(failing.get(&repository, &digest), expected.then_some(lately), "{error}");
            assert_eq!(failing.get(&"a/c".parse().unwrap(), &digest), None, "{error}");
            failing.ended(&repository, &digest);
            assert_eq!(failing.get(&repository, &digest), None, "{error}");
        }
    }
}
