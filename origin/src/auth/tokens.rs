//! Tokens for the registry API: signed for those who may, and verified when they come back, to this node or to any other.
//!
//! A token that was verified is remembered until its end, so that a request costs a hash and a look-up. What it grants holds until
//! then, whatever is revoked in the meantime: its life is short for that reason.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use moka::sync::Cache;
use pierhead_registry::token::{Access, Claims, TokenError};

use super::credential::bearer;
use super::keyring::{Keyring, KeyringError};
use super::secrets::{self, Print, Prints};
use crate::meta::{self, Account, Millis};

/// Who issues tokens, as they say it, and as the path of the keys says it.
pub(crate) const ISSUER: &str = "pierhead";

/// Verified tokens that are remembered.
const REMEMBERED: u64 = 20_000;

/// How far the clocks of two nodes may be apart.
pub(crate) const LEEWAY: Millis = 60_000;

/// Why a request is not let in for what it brings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unverified {
    /// It brings no token.
    #[error("a token is needed")]
    Missing,
    /// It brings one that is not believed.
    #[error("{0}")]
    Invalid(#[from] TokenError),
}

/// A token that was issued.
#[derive(Clone)]
pub(crate) struct Issued {
    /// The token.
    pub(crate) token: String,
    /// How long it lives.
    pub(crate) expires_in: Duration,
    /// When it was issued.
    pub(crate) issued_at: SystemTime,
}

/// Whether a token may have been issued before something was made, by whichever node. A token knows whole seconds only.
pub(super) fn may_precede(claims: &Claims, made: Millis) -> bool {
    let issued = Millis::try_from(claims.iat).unwrap_or(Millis::MAX).saturating_mul(1000);
    made.saturating_add(LEEWAY) >= issued
}

/// Issues and verifies.
pub(crate) struct Tokens {
    keyring: Keyring,
    audience: String,
    prints: Prints,
    verified: Cache<Print, Arc<Claims>>,
}

impl Tokens {
    /// `audience`: what clients call this registry.
    pub(crate) fn new(keyring: Keyring, audience: String) -> Tokens {
        let verified = Cache::builder().max_capacity(REMEMBERED).time_to_live(keyring.rules().rotation.lifetime);
        Tokens { keyring, audience, prints: Prints::new(), verified: verified.build() }
    }

    /// The keys.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// What clients call this registry.
    pub(crate) fn audience(&self) -> &str {
        &self.audience
    }

    /// A token for an account; `None`: for a caller who is not known. `refused`: repositories in which nothing was granted.
    pub(crate) fn issue(
        &self,
        account: Option<&Account>,
        (access, refused): (Vec<Access>, Vec<String>),
        now: SystemTime,
    ) -> Result<Issued, KeyringError> {
        let lifetime = self.keyring.rules().rotation.lifetime;
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: account.map(|account| account.name.clone()).unwrap_or_default(),
            aud: self.audience.clone(),
            exp: seconds + lifetime.as_secs(),
            nbf: seconds,
            iat: seconds,
            jti: secrets::uuid(),
            account: account.map(|account| account.id),
            access,
            refused,
        };
        let token = self.keyring.signing(meta::now())?.sign(&claims)?;
        Ok(Issued { token, expires_in: lifetime, issued_at: now })
    }

    /// What the token of an `Authorization` header says.
    pub(crate) async fn verify(
        &self,
        header: Option<&HeaderValue>,
        now: SystemTime,
    ) -> Result<Arc<Claims>, Unverified> {
        let token = header.and_then(bearer).ok_or(Unverified::Missing)?;
        let print = self.prints.of(&[token]);
        if let Some(claims) = self.verified.get(&print) {
            return if claims.ends().is_some_and(|end| now >= end) {
                Err(TokenError::Expired.into())
            } else {
                Ok(claims)
            };
        }
        let claims = match self.keyring.public().verify(token, &self.audience, ISSUER, now) {
            // Another node may have made a key since this one looked.
            Err(TokenError::UnknownKey) => {
                if let Err(error) = self.keyring.refresh_for_stranger(meta::now()).await {
                    tracing::warn!(%error, "cannot read the keys of tokens");
                }
                self.keyring.public().verify(token, &self.audience, ISSUER, now)?
            }
            known => known?,
        };
        let claims = Arc::new(claims);
        self.verified.insert(print, Arc::clone(&claims));
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_about_when_a_token_was_issued_may_be_later() {
        let issued = |iat| Claims {
            iss: String::new(),
            sub: String::new(),
            aud: String::new(),
            exp: 0,
            nbf: 0,
            iat,
            jti: String::new(),
            account: None,
            access: Vec::new(),
            refused: Vec::new(),
        };
        for (iat, made, expected) in [
            (100, 200_000, true),
            (100, 100_999, true),
            (100, 100_000, true),
            (100, 99_999, true),
            (100, 40_000, true),
            (100, 39_999, false),
            (100, 0, false),
            (u64::MAX, 0, false),
            (0, Millis::MAX, true),
        ] {
            assert_eq!(may_precede(&issued(iat), made), expected, "{iat} {made}");
        }
    }
}
