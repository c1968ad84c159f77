//! Upstream's noes, remembered for a short time. In memory only: after a restart upstream is asked again.

use std::time::{Duration, Instant};

use moka::sync::Cache as Memory;
use pierhead_registry::client::ClientError;

use super::scope::Key;

/// How much is remembered: noes, and KiB of what upstream said with them.
const ROOM: u64 = 20_000;
/// No longer, whatever `negative_ttl` says.
const LONGEST: Duration = Duration::from_secs(3600);

/// See the module.
pub(crate) struct Negatives {
    known: Memory<Key, (ClientError, Instant)>,
}

impl Negatives {
    /// Nothing is remembered yet.
    pub(crate) fn new() -> Negatives {
        let known = Memory::builder().max_capacity(ROOM).weigher(|_, (error, _)| weight(error)).time_to_live(LONGEST);
        Negatives { known: known.build() }
    }

    /// Upstream's no, if it is recent.
    pub(crate) fn get(&self, key: &Key) -> Option<ClientError> {
        self.known.get(key).filter(|(_, until)| Instant::now() < *until).map(|(error, _)| error)
    }

    /// Upstream's no, if it is recent and holds for a HEAD too: only that there is no such thing. A rejection (405, 416 …) and a
    /// refusal are about the request and its method.
    pub(crate) fn get_for_head(&self, key: &Key) -> Option<ClientError> {
        self.get(key).filter(|error| matches!(error, ClientError::NotFound { .. }))
    }

    /// Remembers a failure to answer that asking again would only repeat.
    pub(crate) fn keep_failure(&self, key: Key, error: &ClientError, ttl: Duration) {
        if !ttl.is_zero() {
            self.known.insert(key, (error.clone(), Instant::now() + ttl));
        }
    }

    /// Remembers an error if it is a no, and not a failure to answer.
    pub(crate) fn keep<T>(&self, key: Key, result: &Result<T, ClientError>, ttl: Duration) {
        match result {
            Err(error) if error.is_answer() && !ttl.is_zero() => {
                self.known.insert(key, (error.clone(), Instant::now() + ttl));
            }
            _ => {}
        }
    }
}

/// What a no takes of the room.
fn weight(error: &ClientError) -> u32 {
    let body = match error {
        ClientError::Rejected { body, .. } => body.len() / 1024,
        _ => 0,
    };
    u32::try_from(body).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_says_with_its_noes_has_a_bound() {
        let registry = || "r".to_owned();
        let rejected = |size| ClientError::Rejected {
            registry: registry(),
            status: 451,
            content_type: None,
            body: vec![0; size].into(),
        };
        assert_eq!(weight(&ClientError::NotFound { registry: registry() }), 1);
        for (size, expected) in [(0, 1), (1000, 1), (64 << 10, 65)] {
            assert_eq!(weight(&rejected(size)), expected, "{size}");
        }
    }
}
