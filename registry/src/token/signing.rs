//! Keys that sign tokens.
//!
//! A key is called after itself (RFC 7638), so that its name need not be kept beside it and no two are called the same.
//! It is parsed once and then signs any number of tokens, on any thread; its private half leaves only as PKCS#8.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::{Algorithm, Claims, Jwk};

/// Why there is no key, or no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// What is given is neither a P-256 key nor one of RSA.
    #[error("not the PKCS#8 form of a P-256 or an RSA key")]
    Malformed,
    /// The machine's cryptography fails. Trying again will not help.
    #[error("the key cannot be made or used")]
    Failed,
}

/// A private key that signs tokens.
pub struct SigningKey {
    pub(super) pair: Pair,
    public: Jwk,
    /// What every token begins with.
    header: String,
}

pub(super) enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'static str,
    alg: &'static str,
    kid: &'a str,
}

impl SigningKey {
    /// A new key. One of RSA takes a good part of a second to find: not on an async worker.
    pub fn generate(algorithm: Algorithm) -> Result<SigningKey, SigningError> {
        SigningKey::new(match algorithm {
            Algorithm::Es256 => {
                Pair::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| SigningError::Failed)?)
            }
            Algorithm::Rs256 => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| SigningError::Failed)?),
        })
    }

    /// A key that was kept, of either kind.
    pub fn from_pkcs8(der: &[u8]) -> Result<SigningKey, SigningError> {
        let pair = match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            Ok(pair) => Pair::Ecdsa(pair),
            Err(_) => Pair::Rsa(RsaKeyPair::from_pkcs8(der).map_err(|_| SigningError::Malformed)?),
        };
        SigningKey::new(pair)
    }

    fn new(pair: Pair) -> Result<SigningKey, SigningError> {
        let public = match &pair {
            Pair::Ecdsa(pair) => Jwk::of_point(pair.public_key().as_ref()).ok_or(SigningError::Failed)?,
            Pair::Rsa(pair) => {
                let (modulus, exponent) = (pair.public_key().modulus(), pair.public_key().exponent());
                Jwk::of_rsa(modulus.big_endian_without_leading_zero(), exponent.big_endian_without_leading_zero())
            }
        };
        let alg = pair.algorithm().as_str();
        let header = part(&Header { typ: "JWT", alg, kid: public.kid().unwrap_or_default() })?;
        Ok(SigningKey { pair, public, header })
    }

    /// The key, to be kept where nobody else can read it.
    pub fn to_pkcs8(&self) -> Result<Vec<u8>, SigningError> {
        match &self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1().map(|der| der.as_ref().to_vec()),
            Pair::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair).map(|der| der.as_ref().to_vec()),
        }
        .map_err(|_| SigningError::Failed)
    }

    /// The name by which its tokens refer to it.
    pub fn kid(&self) -> &str {
        self.public.kid().unwrap_or_default()
    }

    /// How it signs.
    pub fn algorithm(&self) -> Algorithm {
        self.pair.algorithm()
    }

    /// Its public half, to be published.
    pub fn public(&self) -> &Jwk {
        &self.public
    }

    /// A token that says this.
    pub fn sign(&self, claims: &Claims) -> Result<String, SigningError> {
        let mut token = format!("{}.{}", self.header, part(claims)?);
        let signature = self.pair.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Pair {
    fn algorithm(&self) -> Algorithm {
        match self {
            Pair::Ecdsa(_) => Algorithm::Es256,
            Pair::Rsa(_) => Algorithm::Rs256,
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        let random = SystemRandom::new();
        match self {
            Pair::Ecdsa(pair) => pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map(|()| signature)
            }
        }
        .map_err(|_| SigningError::Failed)
    }
}

/// One of the parts of a token.
fn part(value: &impl Serialize) -> Result<String, SigningError> {
    let json = serde_json::to_vec(value).map_err(|_| SigningError::Failed)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}
