//! Key sets: the public keys of a token service, and what they say of a token.
//!
//! How a token is verified is up to the key that it names, and never to the token: there is no way to talk the set into
//! no signature at all, or into a public key as a shared secret. Keys of kinds that we do not know, or that are too weak,
//! are left out, as RFC 7517 has it; two different keys of one name make the set worthless, and it is refused.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, crypto};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::claims::Written;
use super::{Algorithm, Claims, Jwk};

/// Largest set as JSON.
const SET_LIMIT: usize = 128 * 1024;
/// Most keys in one.
const KEYS: usize = 64;
/// Longest token that is taken.
pub const TOKEN_LIMIT: usize = 16 * 1024;

/// Why a set cannot be used. Whoever publishes it is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// No `{"keys":[…]}`.
    #[error("not a set of JSON web keys")]
    Malformed,
    /// Larger than anything sensible.
    #[error("a set of more than {KEYS} keys or {SET_LIMIT} bytes")]
    TooLarge,
    /// Two keys of one name.
    #[error("two different keys are both called {0:?}")]
    Ambiguous(String),
}

/// Why a token is not believed. None of these says anything of what stands in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token at all, or not one of ours.
    #[error("not a token")]
    Malformed,
    /// Longer than anything sensible.
    #[error("the token is longer than {TOKEN_LIMIT} bytes")]
    TooLong,
    /// Signed by a key that is not of the set, or that is not of the set yet.
    #[error("signed by an unknown key")]
    UnknownKey,
    /// Its header asks for something that its key is not for.
    #[error("the algorithm is not that of the key")]
    Algorithm,
    /// Not signed by the key that it names, or changed since.
    #[error("the signature is wrong")]
    Signature,
    /// By somebody else.
    #[error("of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("for another service")]
    Audience,
    /// No longer.
    #[error("the token has expired")]
    Expired,
    /// Not yet.
    #[error("the token is not valid yet")]
    NotYet,
}

/// The public keys of a token service.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Known>,
}

#[derive(Clone, Debug)]
struct Known {
    jwk: Jwk,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// A set as it is published. A key that cannot be read at all is one that we do not know.
#[derive(Deserialize)]
struct Published {
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Key(Box<Jwk>),
    Unknown(IgnoredAny),
}

#[derive(Serialize)]
struct Publishing<'a> {
    keys: Vec<&'a Jwk>,
}

/// A token's header, as much of it as counts.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl KeySet {
    /// The set of some keys.
    pub fn of(keys: impl IntoIterator<Item = Jwk>) -> Result<KeySet, KeySetError> {
        let mut known: Vec<Known> = Vec::new();
        for jwk in keys {
            let Some((algorithm, key)) = jwk.verifying() else { continue };
            match known.iter().find(|known| known.jwk.kid() == jwk.kid()) {
                Some(same) if same.jwk == jwk => continue,
                Some(other) => {
                    return Err(KeySetError::Ambiguous(other.jwk.kid().unwrap_or_default().to_owned()));
                }
                None if known.len() == KEYS => return Err(KeySetError::TooLarge),
                None => known.push(Known { jwk, algorithm, key }),
            }
        }
        Ok(KeySet { keys: known })
    }

    /// Reads `{"keys":[…]}`.
    pub fn from_json(json: &[u8]) -> Result<KeySet, KeySetError> {
        if json.len() > SET_LIMIT {
            return Err(KeySetError::TooLarge);
        }
        let published: Published = serde_json::from_slice(json).map_err(|_| KeySetError::Malformed)?;
        KeySet::of(published.keys.into_iter().filter_map(|entry| match entry {
            Entry::Key(jwk) => Some(*jwk),
            Entry::Unknown(IgnoredAny) => None,
        }))
    }

    /// Writes `{"keys":[…]}`.
    pub fn to_json(&self) -> Vec<u8> {
        let keys = self.keys.iter().map(|known| &known.jwk).collect();
        serde_json::to_vec(&Publishing { keys }).unwrap_or_default()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none: then no token is believed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What a token says, if it is one of `issuer` for `audience`, signed by a key of this set, and valid now.
    pub fn verify(&self, token: &str, audience: &str, issuer: &str, now: SystemTime) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_LIMIT {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header = decode(header)?;
        // An extension that whoever does not know it must refuse (RFC 7515, section 4.1.11). We know none.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let kid = header.kid.as_deref().ok_or(TokenError::UnknownKey)?;
        let known = self.keys.iter().find(|known| known.jwk.kid() == Some(kid)).ok_or(TokenError::UnknownKey)?;
        if header.alg != known.algorithm.as_str() {
            return Err(TokenError::Algorithm);
        }
        let algorithm = match known.algorithm {
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        };
        match crypto::verify(signature, signed.as_bytes(), &known.key, algorithm) {
            Ok(true) => {}
            Ok(false) => return Err(TokenError::Signature),
            Err(_) => return Err(TokenError::Malformed),
        }
        let claims: Claims = decode::<Written>(claims)?.for_service(audience).ok_or(TokenError::Audience)?;
        if claims.iss != issuer {
            return Err(TokenError::Issuer);
        }
        if claims.ends().is_some_and(|end| now >= end) {
            return Err(TokenError::Expired);
        }
        if claims.begins().is_none_or(|begin| now < begin) {
            return Err(TokenError::NotYet);
        }
        Ok(claims)
    }
}

/// One of the parts of a token.
fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}
