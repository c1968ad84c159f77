//! Content digests (OCI image specification, "Digests"): `sha256:<64 hex>` and `sha512:<128 hex>`.
//!
//! A [`Digest`] is stored as bytes, so that comparing and hashing never looks at text, and an upper-case
//! or truncated spelling cannot exist inside the program.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest as lc;

/// The hash functions that the specification registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which everybody uses.
    Sha256,
    /// SHA-512, which the specification also registers.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes.
    fn len(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Algorithm::Sha256),
            "sha512" => Ok(Algorithm::Sha512),
            _ => Err(DigestError::Algorithm),
        }
    }
}

/// Why a text is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `:`.
    #[error("a digest reads <algorithm>:<hex>")]
    Shape,
    /// Neither sha256 nor sha512.
    #[error("the digest algorithm must be sha256 or sha512")]
    Algorithm,
    /// Wrong length, or something other than lower-case hexadecimal.
    #[error("the digest must be {0} lower-case hexadecimal characters")]
    Hex(usize),
}

/// A content digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The hash; bytes past the algorithm's length are zero, so that derived equality holds.
    hash: [u8; 64],
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash as lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(self.algorithm.len() * 2);
        for byte in self.as_bytes() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    /// The hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.hash[..self.algorithm.len()]
    }

    /// A digest from its algorithm and raw hash; `None` when the length does not fit.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Digest> {
        if bytes.len() != algorithm.len() {
            return None;
        }
        let mut hash = [0; 64];
        hash[..bytes.len()].copy_from_slice(bytes);
        Some(Digest { algorithm, hash })
    }

    /// A digest from its algorithm and the part after the colon.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Digest, DigestError> {
        let wrong = DigestError::Hex(algorithm.len() * 2);
        if hex.len() != algorithm.len() * 2 {
            return Err(wrong);
        }
        let mut hash = [0; 64];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (high, low) = (nibble(pair[0]).ok_or(wrong)?, nibble(pair[1]).ok_or(wrong)?);
            *byte = high << 4 | low;
        }
        Ok(Digest { algorithm, hash })
    }
}

fn nibble(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Shape)?;
        Digest::from_hex(algorithm.parse()?, hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes a digest piece by piece.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: lc::Context,
}

impl Hasher {
    /// An empty hasher.
    pub fn new(algorithm: Algorithm) -> Hasher {
        let function = match algorithm {
            Algorithm::Sha256 => &lc::SHA256,
            Algorithm::Sha512 => &lc::SHA512,
        };
        Hasher { algorithm, context: lc::Context::new(function) }
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        let mut hash = [0; 64];
        let result = self.context.finish();
        hash[..result.as_ref().len()].copy_from_slice(result.as_ref());
        Digest { algorithm: self.algorithm, hash }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.algorithm.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Digest, DigestError};

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn reads_what_it_writes() -> Result<(), DigestError> {
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>()?, Digest::of(Algorithm::Sha256, b""));
        let long = Digest::of(Algorithm::Sha512, b"x").to_string();
        assert_eq!(long.len(), 7 + 128);
        assert_eq!(long.parse::<Digest>()?.to_string(), long);
        Ok(())
    }

    #[test]
    fn refuses_what_is_none() {
        for (text, error) in [
            ("latest", DigestError::Shape),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm),
            ("sha256:abc", DigestError::Hex(64)),
            (&EMPTY.to_uppercase().replace("SHA", "sha"), DigestError::Hex(64)),
            ("sha512:e3b0c442", DigestError::Hex(128)),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }
}
