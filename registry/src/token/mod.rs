//! Tokens of a registry's token service: JSON Web Tokens with what their bearer may do (RFC 7519; the distribution
//! project's "Token Authentication Implementation").
//!
//! The origin signs them with a [`SigningKey`] and publishes the public halves as a [`KeySet`]; whoever has the set can
//! tell what a token grants without asking anybody. Only ES256 and RS256, only by keys of the set, never by what the
//! token says of itself. Nothing here reads a clock: `now` is an argument.

mod claims;
mod jwk;
mod keys;
mod signing;

pub use claims::{Access, Claims};
pub use jwk::Jwk;
pub use keys::{KeySet, KeySetError, TOKEN_LIMIT, TokenError};
pub use signing::{SigningError, SigningKey};

/// How a token is signed (RFC 7518, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// RSA with SHA-256, for clients that know nothing else.
    Rs256,
}

impl Algorithm {
    /// As it stands in a token's header.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        }
    }
}

#[cfg(test)]
mod tests;
