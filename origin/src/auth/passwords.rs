//! Passwords: hashed by argon2id, slowly on purpose.
//!
//! 7 MiB and five passes are what OWASP names as equal to its first choice, and leave a small node its memory. Two are computed at a time, on
//! blocking threads; some more wait; beyond that the answer is to come back, for a queue of guesses must not become everybody's.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use pierhead_config::Secret;
use pierhead_service::shares::{Floor, Party, Room, Rules};

/// Hashes computed at a time.
const PARALLEL: u64 = 2;
/// Hashes that wait for their turn, and how long.
const QUEUED: u64 = 64;
const WAIT: Duration = Duration::from_secs(10);
/// They are short, so none is kept free; the network with the fewest comes first.
const RULES: Rules = Rules {
    kind: "password",
    room: PARALLEL,
    queue: QUEUED,
    wait: WAIT,
    floor: Floor { rate: 0, grace: WAIT },
    reserve: false,
};
/// Memory of one, in KiB.
const MEMORY: u32 = 7 * 1024;
/// Passes over it.
const PASSES: u32 = 5;
/// Shortest password that may be set.
const SHORTEST: usize = 8;
/// Longest password that is looked at.
const LONGEST: usize = 1024;

/// Why a password was neither hashed nor compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PasswordError {
    /// The caller's fault.
    #[error("a password has {SHORTEST} to {LONGEST} characters")]
    Length,
    /// Too many at a time; later it will do.
    #[error("too many passwords are being checked")]
    Busy,
    /// A stored hash that is none, or no randomness.
    #[error("cannot hash a password: {0}")]
    Broken(String),
}

/// Hashes and compares, a few at a time.
pub(crate) struct Passwords {
    room: Arc<Room>,
    decoy: Arc<str>,
}

impl Passwords {
    /// Computes one hash, to compare with for names that nobody has.
    pub(crate) fn new() -> Result<Passwords, PasswordError> {
        let decoy = compute(&Secret::new("nobody has this one"))?;
        Ok(Passwords { room: Room::new(RULES, ()), decoy: decoy.into() })
    }

    /// The hash to keep of a password, as text in PHC's format.
    pub(crate) async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        check(&password)?;
        self.slowly(Party::default(), move || compute(&password)).await?
    }

    /// Whether a password is the one of this hash. Without a hash it takes as long, and is not.
    pub(crate) async fn verify(
        &self,
        password: Secret,
        hash: Option<&str>,
        party: Party,
    ) -> Result<bool, PasswordError> {
        if password.reveal().len() > LONGEST {
            return Ok(false);
        }
        let exists = hash.is_some();
        let hash: Arc<str> = hash.map_or_else(|| Arc::clone(&self.decoy), Arc::from);
        let same = self.slowly(party, move || compare(&password, &hash)).await??;
        Ok(same && exists)
    }

    async fn slowly<T: Send + 'static>(
        &self,
        party: Party,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let turn = self.room.enter(party).await.map_err(|_| PasswordError::Busy)?;
        // Held to the end of the work, also when nobody waits for it any more.
        let held = move || {
            let _held = turn;
            work()
        };
        tokio::task::spawn_blocking(held).await.map_err(|error| PasswordError::Broken(error.to_string()))
    }
}

/// Whether a password may be set.
pub(crate) fn check(password: &Secret) -> Result<(), PasswordError> {
    let length = password.reveal().len();
    if (SHORTEST..=LONGEST).contains(&length) { Ok(()) } else { Err(PasswordError::Length) }
}

fn argon() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY, PASSES, 1, None).map_err(broken)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn compute(password: &Secret) -> Result<String, PasswordError> {
    let hash: PasswordHash = argon()?.hash_password(password.reveal().as_bytes()).map_err(broken)?;
    Ok(hash.to_string())
}

fn compare(password: &Secret, hash: &str) -> Result<bool, PasswordError> {
    let hash = PasswordHash::new(hash).map_err(broken)?;
    // With the parameters that stand in the hash: those above may change.
    Ok(Argon2::default().verify_password(password.reveal().as_bytes(), &hash).is_ok())
}

fn broken(error: impl std::fmt::Display) -> PasswordError {
    PasswordError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_another_is_not() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash(Secret::new("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=7168,t=5,p=1$"), "{hash}");
        assert_eq!(passwords.verify(Secret::new("correct horse"), Some(&hash), Party::default()).await, Ok(true));
        assert_eq!(passwords.verify(Secret::new("correct horsf"), Some(&hash), Party::default()).await, Ok(false));
        assert_eq!(passwords.verify(Secret::new("nobody has this one"), None, Party::default()).await, Ok(false));
        assert_eq!(
            passwords.verify(Secret::new("x".repeat(LONGEST + 1)), Some(&hash), Party::default()).await,
            Ok(false)
        );
        assert_ne!(passwords.hash(Secret::new("correct horse")).await.unwrap(), hash);
        assert!(passwords.verify(Secret::new("x"), Some("no hash"), Party::default()).await.is_err());
        for bad in ["", "seven77", &"x".repeat(LONGEST + 1)] {
            assert_eq!(passwords.hash(Secret::new(bad)).await, Err(PasswordError::Length));
        }
    }

    #[tokio::test]
    async fn a_queue_that_is_full_says_so() {
        let passwords = Passwords::new().unwrap();
        let party = |network: u8| Party::new([192, 0, 2, network].into(), None);
        let _running = [passwords.room.try_enter(party(1)).unwrap(), passwords.room.try_enter(party(1)).unwrap()];
        // One network may fill half of the queue; another still finds a place.
        let mut waiting: Vec<_> =
            (0..QUEUED).map(|_| Box::pin(passwords.verify(Secret::new("x"), None, party(1)))).collect();
        let refused = waiting.iter_mut().filter_map(|one| one.now_or_never()).collect::<Vec<_>>();
        assert_eq!(refused, vec![Err(PasswordError::Busy); QUEUED as usize / 2]);
        assert_eq!(passwords.verify(Secret::new("x"), None, party(2)).now_or_never(), None);
    }
}
