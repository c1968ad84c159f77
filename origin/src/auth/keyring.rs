//! The keys of the token service, as this node knows them.
//!
//! They live in the database; a node that meets a token with a key it does not know looks there again, but not oftener than every few
//! seconds, for anybody can write any name into a token.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pierhead_config::{KeyAlgorithm, OriginAuth};
use pierhead_registry::token::{Algorithm, KeySet, KeySetError, SigningError, SigningKey};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::rotation::{Rotation, Span};
use crate::meta::{Meta, MetaError, Millis, ServiceKey};

/// How soon strangers can have this node look again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyringError {
    /// The database.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A key that cannot be made or used.
    #[error("the token service's key: {0}")]
    Key(#[from] SigningError),
    /// Keys that cannot be published.
    #[error("the token service's keys: {0}")]
    Set(#[from] KeySetError),
    /// None that signs now.
    #[error("the token service has no key to sign with")]
    None,
}

/// Which keys there are to be.
#[derive(Clone, Copy)]
pub(crate) struct KeyRules {
    /// How they follow each other.
    pub(crate) rotation: Rotation,
    /// How new tokens are signed.
    algorithm: Algorithm,
}

impl KeyRules {
    /// As configured.
    pub(super) fn of(config: &OriginAuth) -> KeyRules {
        let algorithm = match config.key_algorithm {
            KeyAlgorithm::Es256 => Algorithm::Es256,
            KeyAlgorithm::Rs256 => Algorithm::Rs256,
        };
        KeyRules { rotation: Rotation { period: config.key_rotation, lifetime: config.token_lifetime }, algorithm }
    }
}

/// The keys at one time.
struct Ring {
    rules: KeyRules,
    signing: Vec<(Span, Arc<SigningKey>)>,
    public: Arc<KeySet>,
}

/// The keys.
pub(crate) struct Keyring {
    meta: Meta,
    ring: RwLock<Arc<Ring>>,
    /// Held while the ring is made anew: the last to begin is the last to end.
    refreshing: Mutex<()>,
    looked: Mutex<Option<Instant>>,
}

impl Keyring {
    /// Reads the keys, and makes the first if there is none.
    pub(super) async fn open(meta: Meta, rules: KeyRules, now: Millis) -> Result<Keyring, KeyringError> {
        let empty = Arc::new(Ring { rules, signing: Vec::new(), public: Arc::default() });
        let (refreshing, looked) = (Mutex::new(()), Mutex::new(None));
        let keyring = Keyring { meta, ring: RwLock::new(empty), refreshing, looked };
        keyring.refresh(now).await?;
        Ok(keyring)
    }

    /// Reads the keys again, and makes the next one when it is time.
    pub(crate) async fn refresh(&self, now: Millis) -> Result<(), KeyringError> {
        let _alone = self.refreshing.lock().await;
        let rules = self.rules();
        self.renew(rules, now).await
    }

    /// Goes over to other rules, once there is a key that signs by them.
    pub(super) async fn change(&self, rules: KeyRules, now: Millis) -> Result<(), KeyringError> {
        let _alone = self.refreshing.lock().await;
        self.renew(rules, now).await
    }

    /// How keys follow each other and sign now.
    pub(super) fn rules(&self) -> KeyRules {
        self.ring().rules
    }

    async fn renew(&self, rules: KeyRules, now: Millis) -> Result<(), KeyringError> {
        let mut keys = self.meta.service_keys(now).await?;
        if rules.rotation.next(&spans(&keys, rules), now).is_some() {
            keys = self.rotate(rules, now).await?;
        }
        let ring = Arc::new(read(keys, rules)?);
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
        Ok(())
    }

    /// Reads the keys again because of one that is not known, unless that was done just now.
    pub(crate) async fn refresh_for_stranger(&self, now: Millis) -> Result<(), KeyringError> {
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|at| at.elapsed() < PATIENCE) {
            return Ok(());
        }
        *looked = Some(Instant::now());
        self.refresh(now).await
    }

    /// What signs now.
    pub(crate) fn signing(&self, now: Millis) -> Result<Arc<SigningKey>, KeyringError> {
        let ring = self.ring();
        let spans: Vec<Span> = ring.signing.iter().map(|(span, _)| *span).collect();
        let index = ring.rules.rotation.signing(&spans, now).ok_or(KeyringError::None)?;
        Ok(Arc::clone(&ring.signing[index].1))
    }

    /// What is published.
    pub(crate) fn public(&self) -> Arc<KeySet> {
        Arc::clone(&self.ring().public)
    }

    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the next key, unless another node was faster.
    async fn rotate(&self, rules: KeyRules, now: Millis) -> Result<Vec<ServiceKey>, KeyringError> {
        let algorithm = rules.algorithm;
        let made = tokio::task::spawn_blocking(move || SigningKey::generate(algorithm)).await;
        let key = made.map_err(|_| SigningError::Failed)??;
        let change = self.meta.change().await?;
        let mut keys = change.service_keys(now).await?;
        if let Some(span) = rules.rotation.next(&spans(&keys, rules), now) {
            let row = ServiceKey {
                kid: key.kid().to_owned(),
                algorithm: algorithm.as_str().to_owned(),
                private_key: key.to_pkcs8()?,
                public_key: serde_json::to_string(key.public()).map_err(|_| SigningError::Failed)?,
                created: now,
                signs_from: span.signs_from,
                signs_until: span.signs_until,
                published_until: span.published_until,
            };
            tracing::info!(
                kid = row.kid,
                algorithm = row.algorithm,
                signs_from = row.signs_from,
                "a key for tokens was made"
            );
            keys.push(row.clone());
            change.add_service_key(row).await?;
        }
        change.commit().await?;
        Ok(keys)
    }
}

/// Those of the keys that new tokens may be signed with: another algorithm may have been configured since.
fn spans(keys: &[ServiceKey], rules: KeyRules) -> Vec<Span> {
    keys.iter().filter(|key| key.algorithm == rules.algorithm.as_str()).map(span).collect()
}

fn read(keys: Vec<ServiceKey>, rules: KeyRules) -> Result<Ring, KeyringError> {
    let (mut signing, mut public) = (Vec::new(), Vec::new());
    for row in keys {
        let key = SigningKey::from_pkcs8(&row.private_key)?;
        public.push(key.public().clone());
        if key.algorithm() == rules.algorithm {
            signing.push((span(&row), Arc::new(key)));
        }
    }
    Ok(Ring { rules, signing, public: Arc::new(KeySet::of(public)?) })
}

fn span(key: &ServiceKey) -> Span {
    Span { signs_from: key.signs_from, signs_until: key.signs_until, published_until: key.published_until }
}
