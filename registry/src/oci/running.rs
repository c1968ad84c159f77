//! A digest that is computed over several requests, and on several machines: its state can be written down in between.
//!
//! The [`Hasher`](super::Hasher) of the edge cannot: its library keeps its state to itself. The state here is the one that the
//! algorithm defines (FIPS 180-4, section 6) and the bytes that do not fill a block yet, so it is small, and any version can read it.

use sha2::digest::Digest as _;
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Sha256, Sha512};

use super::digest::{Algorithm, Digest};

/// A digest that is being computed.
#[derive(Clone)]
pub struct RunningDigest(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl RunningDigest {
    /// Of nothing yet.
    pub fn new(algorithm: Algorithm) -> RunningDigest {
        RunningDigest(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// From where [`RunningDigest::save`] was called; `None` when these bytes are no such state.
    pub fn restore(algorithm: Algorithm, saved: &[u8]) -> Option<RunningDigest> {
        Some(RunningDigest(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::deserialize(saved.try_into().ok()?).ok()?),
            Algorithm::Sha512 => State::Sha512(Sha512::deserialize(saved.try_into().ok()?).ok()?),
        }))
    }

    /// The state, to go on from here elsewhere.
    pub fn save(&self) -> Vec<u8> {
        match &self.0 {
            State::Sha256(state) => state.serialize().to_vec(),
            State::Sha512(state) => state.serialize().to_vec(),
        }
    }

    /// Which hash function.
    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all pieces so far.
    pub fn digest(&self) -> Digest {
        let digest = match &self.0 {
            State::Sha256(state) => Digest::from_bytes(Algorithm::Sha256, &state.clone().finalize()),
            State::Sha512(state) => Digest::from_bytes(Algorithm::Sha512, &state.clone().finalize()),
        };
        // The lengths are those of the algorithms.
        digest.unwrap_or_else(|| Digest::of(self.algorithm(), b""))
    }
}

impl std::fmt::Debug for RunningDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunningDigest({})", self.algorithm().as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_elsewhere() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for cut in [0, 1, 63, 64, 65, 127, 128, 4096, 99_999, 100_000] {
                let mut first = RunningDigest::new(algorithm);
                first.update(&bytes[..cut]);
                let mut second = RunningDigest::restore(algorithm, &first.save()).unwrap();
                second.update(&bytes[cut..]);
                assert_eq!(second.digest(), Digest::of(algorithm, &bytes), "{cut}");
            }
            assert!(RunningDigest::restore(algorithm, b"").is_none());
            assert!(RunningDigest::restore(algorithm, &[255; 500]).is_none());
        }
        assert!(RunningDigest::restore(Algorithm::Sha256, &RunningDigest::new(Algorithm::Sha512).save()).is_none());
    }
}
