//! What callers' tokens say, and by how many keys that is told.

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::family::{counters, gauges};

/// By registry.
pub(super) struct Tokens {
    verdicts: IntCounterVec,
    keys: IntGaugeVec,
}

impl Tokens {
    pub(super) fn new(r: &Registry) -> Result<Tokens, Error> {
        Ok(Tokens {
            verdicts: counters(
                r,
                "pierhead_tokens_total",
                "Pulls with a token, by what the token says (granted, not_granted, other_repository, expired, unverified).",
                &["registry", "result"],
            )?,
            keys: gauges(r, "pierhead_token_keys", "Keys that tokens are verified by.", &["registry"])?,
        })
    }

    /// The handle of a registry.
    pub(super) fn of(&self, registry: &str) -> TokenMetrics {
        let verdict = |word: &str| self.verdicts.with_label_values(&[registry, word]);
        TokenMetrics {
            granted: verdict("granted"),
            not_granted: verdict("not_granted"),
            other_repository: verdict("other_repository"),
            expired: verdict("expired"),
            unverified: verdict("unverified"),
            keys: self.keys.with_label_values(&[registry]),
        }
    }
}

/// The tokens of one registry.
pub(crate) struct TokenMetrics {
    /// A pull that the token grants.
    pub(crate) granted: IntCounter,
    /// A pull that it does not.
    pub(crate) not_granted: IntCounter,
    /// One that it grants in what may be another repository of that name.
    pub(crate) other_repository: IntCounter,
    /// One with a token that has run out.
    pub(crate) expired: IntCounter,
    /// One with a token that nothing can be said of.
    pub(crate) unverified: IntCounter,
    /// How many keys are known.
    pub(crate) keys: IntGauge,
}
