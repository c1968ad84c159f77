//! Which cryptography everything here uses.
//!
//! Invariant: a binary that was built with the feature `fips` does nothing without the validated module at work: it says
//! so and ends. What is hashed or encrypted elsewhere (passwords with bcrypt, checksums of files) is not of its kind.

use rustls::crypto::aws_lc_rs::default_provider;

/// What `--version` says.
pub const VERSION: &str =
    if cfg!(feature = "fips") { concat!(env!("CARGO_PKG_VERSION"), " (fips)") } else { env!("CARGO_PKG_VERSION") };

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum CryptoError {
    /// The module is there and not at work.
    #[error("built with the feature `fips`, but the cryptographic module is not in FIPS mode")]
    NotFips,
}

/// Chooses it, before anything makes a TLS configuration of its own: Pingora would choose another.
pub fn install() -> Result<(), CryptoError> {
    let provider = default_provider();
    if cfg!(feature = "fips") && !provider.fips() {
        return Err(CryptoError::NotFips);
    }
    // It can only fail when done twice.
    drop(provider.install_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_says_whose_cryptography_it_is() {
        install().unwrap();
        let fips = rustls::crypto::CryptoProvider::get_default().is_some_and(|provider| provider.fips());
        assert_eq!(VERSION.contains("fips"), fips);
    }
}
