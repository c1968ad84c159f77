//! Public keys as JSON Web Keys (RFC 7517; RFC 7518, section 6): P-256, and RSA of at least 2048 bits.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};

use super::Algorithm;

/// Longest name of a key.
const KID_LIMIT: usize = 256;
/// Sizes of an RSA modulus in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Longest RSA exponent in bytes.
const EXPONENT_LIMIT: usize = 8;
/// Length of a coordinate of P-256.
const COORDINATE: usize = 32;

/// A public key as it is published. There is no field for the private parts of a key: they are never read or written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    kty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
}

impl Jwk {
    /// A point of P-256, uncompressed: 4, x, y.
    pub(super) fn of_point(point: &[u8]) -> Option<Jwk> {
        let (x, y) = point.strip_prefix(&[4])?.split_at_checked(COORDINATE)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // The members that RFC 7638 names, in their order; base64 needs no escapes in JSON.
        let kid = thumbprint(&format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#));
        let (crv, x, y) = (Some("P-256".to_owned()), Some(x), Some(y));
        Some(Jwk { crv, x, y, ..Jwk::named("EC", kid, Algorithm::Es256) })
    }

    /// An RSA key, both numbers without leading zeros.
    pub(super) fn of_rsa(modulus: &[u8], exponent: &[u8]) -> Jwk {
        let (n, e) = (URL_SAFE_NO_PAD.encode(modulus), URL_SAFE_NO_PAD.encode(exponent));
        let kid = thumbprint(&format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#));
        Jwk { n: Some(n), e: Some(e), ..Jwk::named("RSA", kid, Algorithm::Rs256) }
    }

    fn named(kty: &str, kid: String, algorithm: Algorithm) -> Jwk {
        let alg = Some(algorithm.as_str().to_owned());
        let (kty, kid, usage) = (kty.to_owned(), Some(kid), Some("sig".to_owned()));
        Jwk { kty, crv: None, x: None, y: None, n: None, e: None, kid, alg, usage }
    }

    /// The name by which tokens refer to it.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The key, for what it verifies; `None` when that is nothing of ours: another kind, too weak, or not for signing.
    pub(super) fn verifying(&self) -> Option<(Algorithm, DecodingKey)> {
        let (algorithm, key) = match self.kty.as_str() {
            "EC" if self.crv.as_deref() == Some("P-256") => (Algorithm::Es256, self.point()?),
            "RSA" => (Algorithm::Rs256, self.rsa()?),
            _ => return None,
        };
        let named = self.kid.as_ref().is_some_and(|kid| (1..=KID_LIMIT).contains(&kid.len()));
        let signs = self.usage.as_deref().is_none_or(|usage| usage == "sig");
        let so = self.alg.as_deref().is_none_or(|alg| alg == algorithm.as_str());
        (named && signs && so).then_some((algorithm, key))
    }

    fn point(&self) -> Option<DecodingKey> {
        let (x, y) = (self.x.as_ref()?, self.y.as_ref()?);
        let whole = |text: &String| URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == COORDINATE);
        if whole(x) && whole(y) { DecodingKey::from_ec_components(x, y).ok() } else { None }
    }

    fn rsa(&self) -> Option<DecodingKey> {
        let modulus = number(self.n.as_ref()?)?;
        let exponent = number(self.e.as_ref()?)?;
        let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
        // 1 would make every message its own signature.
        let safe = exponent.len() <= EXPONENT_LIMIT && exponent != [1] && exponent.last()? % 2 == 1;
        (RSA_BITS.contains(&bits) && safe).then(|| DecodingKey::from_rsa_raw_components(&modulus, &exponent))
    }
}

/// A number, without the zeros that some write before it.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[start..].to_vec())
}

/// The name of a key after itself (RFC 7638).
fn thumbprint(members: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()))
}
