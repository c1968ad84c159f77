//! Who may use this edge: users with bcrypt hashes, as in an htpasswd file.
//!
//! bcrypt is slow on purpose, so it runs on blocking threads, few at a time, and a verified login is remembered for an
//! hour by a keyed hash. Failures are counted by client address and by user before the slow work is done: guessing
//! is slow, and cannot keep the processor busy. The same login, brought many times at once, is one attempt. A user who is
//! under attack from elsewhere still gets in with a login that was verified before. All of this memory is bounded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_lc_rs::hmac;
use http::HeaderValue;
use moka::sync::Cache;
use pierhead_config::{Access, Secret};
use pierhead_registry::client::Account;
use pierhead_service::network::network;
use pierhead_service::shares::{Floor, Party, Room, Rules};

use super::credential::{account_print, basic};
use super::flights::Flights;
use super::refusal::Refusal;
use crate::admin::metrics::Metrics;

/// How long a login is remembered after it was last used. Other users, and all of this is forgotten.
const REMEMBER: Duration = Duration::from_secs(3600);
/// Failures are counted over this long.
const WINDOW: Duration = Duration::from_secs(60);
/// Failures in a window after which an address must wait.
const PER_ADDRESS: u32 = 10;
/// Failures in a window after which a user must wait, whatever the address: higher, so that one attacker does not
/// lock a user out from his own address alone.
const PER_USER: u32 = 50;
/// Addresses and users whose failures are counted.
const COUNTED: u64 = 20_000;
/// Logins that are remembered.
const REMEMBERED: u64 = 10_000;
/// Logins that wait to be verified.
const ATTEMPTS: usize = 1024;
/// Hashes that are computed at a time, and that wait. They are short, so none is kept free; the network with the fewest comes first.
const HASHING: Rules = Rules {
    kind: "password",
    room: 2,
    queue: ATTEMPTS as u64,
    wait: Duration::from_secs(30),
    floor: Floor { rate: 0, grace: WINDOW },
    reserve: false,
};

/// Checks logins.
pub(crate) struct Users {
    access: Access,
    hashes: HashMap<String, Secret>,
    /// Compared for names that nobody has, so that time does not tell which names exist.
    decoy: Option<Secret>,
    key: hmac::Key,
    verified: Cache<[u8; 32], Arc<str>>,
    failures: Cache<Suspect, Arc<AtomicU32>>,
    hashing: Arc<Room>,
    attempts: Flights<[u8; 32], Result<Arc<str>, Refusal>>,
    metrics: Arc<Metrics>,
}

/// Whose failures are counted. Names are hashed: what is typed as a name may be a password.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Suspect {
    Address(IpAddr),
    User([u8; 32]),
}

impl Users {
    /// The users of the configuration.
    pub(crate) fn new(access: Access, metrics: Arc<Metrics>) -> Users {
        let hashes: HashMap<_, _> = access.users.iter().cloned().collect();
        Users {
            access,
            decoy: hashes.values().next().cloned(),
            hashes,
            key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()),
            verified: Cache::builder().max_capacity(REMEMBERED).time_to_idle(REMEMBER).build(),
            failures: Cache::builder().max_capacity(COUNTED).time_to_live(WINDOW).build(),
            hashing: Room::new(HASHING, metrics.share(HASHING.kind)),
            attempts: Flights::new(ATTEMPTS, metrics.share(HASHING.kind)),
            metrics,
        }
    }

    /// Whether these are the users of that configuration.
    pub(crate) fn are(&self, access: &Access) -> bool {
        self.access == *access
    }

    /// The user behind an `Authorization` header.
    pub(crate) async fn login(
        self: &Arc<Self>,
        header: Option<&HeaderValue>,
        peer: IpAddr,
    ) -> Result<Arc<str>, Refusal> {
        let credential = basic(header).ok_or(Refusal::Login)?;
        let print = account_print(&self.key, &credential);
        if let Some(user) = self.verified.get(&print) {
            return Ok(user);
        }
        let attempt = || {
            let users = Arc::clone(self);
            async move { users.attempt(credential, print, peer).await }
        };
        self.attempts.join(&Party::new(peer, None), print, attempt).await.unwrap_or(Err(Refusal::Busy))
    }

    /// Verifies a login, if there were not too many wrong ones lately.
    async fn attempt(&self, credential: Account, print: [u8; 32], peer: IpAddr) -> Result<Arc<str>, Refusal> {
        // Counted as failures until proven otherwise: a burst of guesses must not pass while the first is computed.
        let suspects = [Suspect::Address(network(peer)), Suspect::User(self.name_print(&credential.username))];
        let counters = suspects.map(|suspect| self.failures.get_with(suspect, Arc::default));
        let attempts = counters.each_ref().map(|counter| counter.fetch_add(1, Ordering::Relaxed));
        if attempts[0] >= PER_ADDRESS || attempts[1] >= PER_USER {
            for counter in &counters {
                counter.fetch_sub(1, Ordering::Relaxed);
            }
            self.metrics.authentication("limited");
            return Err(Refusal::LoginLimited { retry_after: WINDOW });
        }
        let user: Arc<str> = credential.username.as_str().into();
        let right = self.verify(credential, Party::new(peer, None)).await;
        // One that was not checked is no failure either.
        if !matches!(right, Ok(false)) {
            for counter in &counters {
                counter.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if !right? {
            self.metrics.authentication("failed");
            return Err(Refusal::Login);
        }
        self.metrics.authentication("ok");
        self.verified.insert(print, Arc::clone(&user));
        Ok(user)
    }

    async fn verify(&self, credential: Account, party: Party) -> Result<bool, Refusal> {
        let known = self.hashes.get(&credential.username);
        let (exists, hash) = (known.is_some(), known.or(self.decoy.as_ref()).cloned());
        let Some(hash) = hash else { return Ok(false) };
        let permit = self.hashing.enter(party).await.map_err(|_| Refusal::Busy)?;
        let compute = move || {
            let _permit = permit;
            bcrypt::verify(&credential.password, hash.reveal()).unwrap_or(false)
        };
        Ok(tokio::task::spawn_blocking(compute).await.unwrap_or(false) && exists)
    }

    fn name_print(&self, name: &str) -> [u8; 32] {
        account_print(&self.key, &Account { username: name.to_owned(), password: String::new() })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderValue;
    use pierhead_config::{Access, Secret};

    use super::{PER_ADDRESS, Refusal, Users};
    use crate::admin::metrics::Metrics;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn users() -> Arc<Users> {
        let hash = bcrypt::hash("secret", 4).unwrap();
        let access = Access { users: vec![("ann".to_owned(), Secret::new(hash))] };
        Arc::new(Users::new(access, Arc::new(Metrics::new().unwrap())))
    }

    fn header(user: &str, password: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).unwrap()
    }

    #[tokio::test]
    async fn logs_in() {
        let users = users();
        assert_eq!(users.login(Some(&header("ann", "secret")), HERE).await.unwrap().as_ref(), "ann");
        for wrong in [header("ann", "wrong"), header("bob", "secret"), HeaderValue::from_static("Bearer x")] {
            assert!(matches!(users.login(Some(&wrong), HERE).await, Err(Refusal::Login)), "{wrong:?}");
        }
        assert!(matches!(users.login(None, HERE).await, Err(Refusal::Login)));
    }

    #[tokio::test]
    async fn guessing_is_limited_and_a_verified_login_is_not() {
        let users = users();
        assert!(users.login(Some(&header("ann", "secret")), HERE).await.is_ok());
        for guess in 0..PER_ADDRESS {
            let result = users.login(Some(&header("ann", &guess.to_string())), HERE).await;
            assert!(matches!(result, Err(Refusal::Login)), "{guess}");
        }
        let result = users.login(Some(&header("bob", "x")), HERE).await;
        assert!(matches!(result, Err(Refusal::LoginLimited { .. })));
        assert!(users.login(Some(&header("ann", "secret")), HERE).await.is_ok());
        let elsewhere = IpAddr::from([192, 0, 2, 1]);
        assert!(matches!(users.login(Some(&header("ann", "x")), elsewhere).await, Err(Refusal::Login)));
    }

    #[tokio::test]
    async fn the_same_login_many_times_at_once_is_one_attempt() {
        let users = users();
        let logins = (0..5 * PER_ADDRESS).map(|_| {
            let users = Arc::clone(&users);
            tokio::spawn(async move { users.login(Some(&header("ann", "secret")), HERE).await })
        });
        for login in logins.collect::<Vec<_>>() {
            assert_eq!(login.await.unwrap().unwrap().as_ref(), "ann");
        }
    }
}
