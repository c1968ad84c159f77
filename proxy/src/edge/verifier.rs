//! What a caller's token says, told here by the keys that its registry publishes: a hit then needs no yes from upstream.
//!
//! Invariants: a token counts for what its registry signed, for as long as it lives, and not past the registry's own no
//! to it; whatever cannot be verified is not refused but asked about upstream, for it may be something else than we
//! think. What was verified is remembered by a keyed hash, so that a hit costs a look-up and no signature.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use moka::sync::Cache as Memory;
use pierhead_config::TokenKeys;
use pierhead_registry::oci::RepositoryName;
use pierhead_registry::token::{Claims, TokenError};
use tokio_util::task::AbortOnDropHandle;

use super::RegistryParts;
use super::identity;
use super::keys::{self, Keys};
use super::writes::Writes;
use crate::admin::metrics::{Metrics, TokenMetrics};
use crate::cache::{Cache, RepositoryId};

/// Bytes of tokens whose claims are remembered.
const REMEMBERED: u64 = 16 << 20;
/// Refusals that are remembered, and how long: tokens live for minutes, or hours.
const REFUSALS: u64 = 20_000;
const REFUSED_FOR: Duration = Duration::from_secs(24 * 3600);

/// What a token says about a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It grants it.
    Granted,
    /// It is good, and for something else; or its registry refused it none the less.
    NotGranted,
    /// It grants it in a repository of that name, which may not be the one that is known here.
    OtherRepository,
    /// It was good.
    Expired,
    /// Nothing can be said of it.
    Unverified,
}

impl Verdict {
    /// The word, for the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verdict::Granted => "granted",
            Verdict::NotGranted => "not_granted",
            Verdict::OtherRepository => "other_repository",
            Verdict::Expired => "expired",
            Verdict::Unverified => "unverified",
        }
    }
}

/// A verdict, and for whom the token was issued.
pub(crate) struct Judged {
    /// What it says.
    pub(crate) verdict: Verdict,
    /// `sub`, of a token that was verified.
    pub(crate) user: Option<Arc<str>>,
    /// When the repository was made that it means, if it says so.
    created: Option<i64>,
}

impl Judged {
    /// Of a token of which nothing else is believed.
    fn nothing(verdict: Verdict) -> Judged {
        Judged { verdict, user: None, created: None }
    }
}

/// Verifies the tokens of one registry.
pub(crate) struct Verifier {
    settings: TokenKeys,
    registry: Arc<str>,
    cache: Arc<Cache>,
    keys: Arc<Keys>,
    known: Memory<[u8; 32], Arc<Known>>,
    refused: Memory<([u8; 32], RepositoryName), ()>,
    metrics: Arc<TokenMetrics>,
    /// Fetches keys for as long as this is here; `None` where nobody may be asked.
    _keeper: Option<AbortOnDropHandle<()>>,
}

/// A token that was verified.
struct Known {
    claims: Claims,
    user: Option<Arc<str>>,
    /// By which edition of the keys. A key that is no longer published says nothing any more.
    edition: u64,
    weight: u32,
}

impl Verifier {
    /// The verifier of a registry whose keys are named, which then begins to fetch them.
    pub(crate) fn new(
        parts: &RegistryParts,
        cache: &Arc<Cache>,
        metrics: &Arc<Metrics>,
        offline: bool,
    ) -> Option<Verifier> {
        let settings = parts.config.token_keys.clone()?;
        let registry: Arc<str> = parts.config.name.as_str().into();
        let metrics = Arc::new(metrics.tokens(&registry));
        let keys = Arc::new(Keys::new(Arc::clone(&metrics)));
        let keeper = || {
            let (keys, registry, cache) = (Arc::clone(&keys), Arc::clone(&registry), Arc::clone(cache));
            let fetching = keys::keep(keys, parts.client.clone(), settings.source.clone(), cache, registry);
            AbortOnDropHandle::new(tokio::spawn(fetching))
        };
        let keeper = (!offline).then(keeper);
        let weigh = |_: &[u8; 32], known: &Arc<Known>| known.weight;
        Some(Verifier {
            settings,
            registry,
            cache: Arc::clone(cache),
            keys,
            known: Memory::builder().weigher(weigh).max_capacity(REMEMBERED).build(),
            refused: Memory::builder().max_capacity(REFUSALS).time_to_live(REFUSED_FOR).build(),
            metrics,
            _keeper: keeper,
        })
    }

    /// What a token says about pulling from a repository, with what was written there. `caller` is the keyed hash of whoever brings it.
    /// What is known of another repository of that name, which was there before the one that the token means, is forgotten.
    pub(crate) async fn judge(
        &self,
        caller: &[u8; 32],
        token: &str,
        repository: &RepositoryId,
        writes: &Writes,
        now: SystemTime,
    ) -> Judged {
        self.keys.read(&self.cache, &self.registry).await;
        let mut judged = self.decide(caller, token, &repository.name, now);
        if judged.verdict == Verdict::Granted
            && !identity::is_known_one(&self.cache, writes, repository, judged.created).await
        {
            judged.verdict = Verdict::OtherRepository;
        }
        match judged.verdict {
            Verdict::Granted => self.metrics.granted.inc(),
            Verdict::NotGranted => self.metrics.not_granted.inc(),
            Verdict::OtherRepository => self.metrics.other_repository.inc(),
            Verdict::Expired => self.metrics.expired.inc(),
            Verdict::Unverified => self.metrics.unverified.inc(),
        }
        judged
    }

    fn decide(&self, caller: &[u8; 32], token: &str, repository: &RepositoryName, now: SystemTime) -> Judged {
        let edition = self.keys.edition();
        let known = match self.known.get(caller).filter(|known| known.edition == edition.number) {
            Some(known) => known,
            None => match edition.set.verify(token, &self.settings.audience, &self.settings.issuer, now) {
                Ok(claims) => {
                    let user = (!claims.sub.is_empty()).then(|| claims.sub.as_str().into());
                    let weight = u32::try_from(token.len()).unwrap_or(u32::MAX);
                    let known = Arc::new(Known { claims, user, edition: edition.number, weight });
                    self.known.insert(*caller, Arc::clone(&known));
                    known
                }
                Err(TokenError::Expired) => return Judged::nothing(Verdict::Expired),
                Err(error) => {
                    if error == TokenError::UnknownKey {
                        self.keys.want();
                    }
                    return Judged::nothing(Verdict::Unverified);
                }
            },
        };
        let verdict = if known.claims.ends().is_some_and(|end| now >= end) {
            Verdict::Expired
        } else if known.claims.allows(repository.as_str(), "pull")
            && !self.refused.contains_key(&(*caller, repository.clone()))
        {
            Verdict::Granted
        } else {
            Verdict::NotGranted
        };
        let created = known.claims.created(repository.as_str());
        Judged { verdict, user: known.user.clone(), created }
    }

    /// The registry itself refused a caller whose token grants a pull: from now on it is asked again for that repository.
    pub(crate) fn refused(&self, caller: &[u8; 32], repository: &RepositoryName) {
        self.refused.insert((*caller, repository.clone()), ());
    }
}
