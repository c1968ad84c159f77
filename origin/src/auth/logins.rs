//! Checking what callers show, and making guesses slow.
//!
//! Failures are counted in two places. In the memory of this node, before anything slow is done, so that guessing cannot keep it busy; and
//! in the database, for all nodes together: after some wrong passwords in a row a name must wait, ever longer (`guesses.rs`).
//! Whoever logged in lately with the right password still gets in: that login is remembered as a keyed hash that covers the
//! stored hash too, so a password that is changed anywhere is forgotten everywhere at once.
//!
//! Invariant: a name that nobody has, or that is an organisation's, is answered as one that somebody has, as slowly, and counted
//! as well. All of this memory is bounded, and that in the database too.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::future::Cache;
use pierhead_config::Secret;
use pierhead_service::network::network;

use super::caller::Caller;
use super::credential::Shown;
use super::guesses;
use super::names::{Name, RobotName};
use super::passwords::{PasswordError, Passwords};
use super::secrets::{self, Print, Prints};
use crate::meta::{Account, AccountKind, Meta, MetaError, Millis};

/// How long a login is remembered.
const REMEMBER: Duration = Duration::from_secs(600);
/// Failures in memory are counted over this long.
const WINDOW: Duration = Duration::from_secs(60);
/// Failures in a window after which an address must wait.
const PER_ADDRESS: u32 = 20;
/// Failures in a window after which a name must wait at an address, those included that are being checked.
const PER_PLACE: u32 = 50;
/// Cells in the database for names at addresses, and as many for names at all of them.
const CELLS: i64 = 1 << 20;
/// How often it is written down that an address is known.
const KNOWN_INTERVAL: Millis = 24 * 3_600_000;
/// Addresses, and names at them, whose failures are counted in memory.
const COUNTED: u64 = 20_000;
/// Logins that are remembered.
const REMEMBERED: u64 = 10_000;

/// Why somebody is not let in.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// No such account, or not its password.
    #[error("wrong user name, password or token")]
    Wrong,
    /// The right password of an account that may not be used.
    #[error("this account is disabled")]
    Disabled,
    /// Too many wrong ones lately.
    #[error("too many failed logins; wait for {} s", .0.as_secs().max(1))]
    Limited(Duration),
    /// Too many at a time.
    #[error("too many logins are being checked")]
    Busy,
    /// The database.
    #[error(transparent)]
    Meta(Arc<MetaError>),
    /// A fault of this program, or a hash in the database that is none.
    #[error("{0}")]
    Broken(String),
}

impl From<MetaError> for LoginError {
    fn from(error: MetaError) -> LoginError {
        LoginError::Meta(Arc::new(error))
    }
}

impl From<PasswordError> for LoginError {
    fn from(error: PasswordError) -> LoginError {
        match error {
            PasswordError::Length => LoginError::Wrong,
            PasswordError::Busy => LoginError::Busy,
            PasswordError::Broken(text) => LoginError::Broken(text),
        }
    }
}

/// Whose failures are counted. Names are hashed: what is typed as a name may be a password.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Suspect {
    Address(IpAddr),
    Place(Print),
}

/// An attempt. For its name it counts as a failure until it is known not to be one: a burst of guesses must not pass while the first
/// is computed. At its address it counts when it was wrong, for many may log in from one at a time.
struct Attempt {
    address: Arc<AtomicU32>,
    place: Option<Arc<AtomicU32>>,
}

impl Attempt {
    fn was_wrong(mut self) {
        self.address.fetch_add(1, Ordering::Relaxed);
        self.place = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Checks what callers show.
pub(crate) struct Logins {
    meta: Meta,
    passwords: Arc<Passwords>,
    prints: Prints,
    cells: Prints,
    remembered: Cache<Print, ()>,
    failures: moka::sync::Cache<Suspect, Arc<AtomicU32>>,
    allowed: u32,
}

impl Logins {
    /// `allowed`: wrong passwords in a row after which a name must wait at an address.
    pub(crate) async fn open(meta: Meta, passwords: Arc<Passwords>, allowed: u32) -> Result<Logins, MetaError> {
        let cells = Prints::keyed(&meta.login_key().await?);
        Ok(Logins {
            meta,
            passwords,
            prints: Prints::new(),
            cells,
            remembered: Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBER).build(),
            failures: moka::sync::Cache::builder().max_capacity(COUNTED).time_to_live(WINDOW).build(),
            allowed,
        })
    }

    /// Who shows this.
    pub(crate) async fn login(&self, shown: &Shown, peer: IpAddr, now: Millis) -> Result<Caller, LoginError> {
        match shown {
            Shown::Nothing => Ok(Caller::anonymous()),
            Shown::Nonsense => {
                self.attempt(peer, None)?.was_wrong();
                Err(LoginError::Wrong)
            }
            Shown::User(name, password) => self.user(name, password, peer, now).await,
            Shown::Robot(name, token) => self.robot(name, token, peer, now).await,
            Shown::Application(token) => self.application(token, peer, now).await,
        }
    }

    async fn user(&self, name: &Name, password: &Secret, peer: IpAddr, now: Millis) -> Result<Caller, LoginError> {
        let account = self.meta.account(name.as_str()).await?.filter(|account| account.kind == AccountKind::User);
        let hash = account.as_ref().and_then(|account| account.password.as_deref());
        let print = self.prints.of(&[name.as_str(), password.reveal(), hash.unwrap_or_default()]);
        if !self.remembered.contains_key(&print) {
            // The same login, brought many times at once, is one attempt.
            let checked = self.remembered.try_get_with(print, self.check(name, account.as_ref(), password, peer, now));
            checked.await.map_err(|error: Arc<LoginError>| LoginError::clone(&error))?;
        }
        match account {
            Some(account) if account.enabled => Ok(Caller::known(account)),
            Some(_) => Err(LoginError::Disabled),
            None => Err(LoginError::Wrong),
        }
    }

    async fn check(
        &self,
        name: &Name,
        account: Option<&Account>,
        password: &Secret,
        peer: IpAddr,
        now: Millis,
    ) -> Result<(), LoginError> {
        let attempt = self.attempt(peer, Some(name))?;
        let cells = self.cells(name, peer);
        let since = guesses::since(account.and_then(|account| account.password_set), now);
        let known = self.meta.login_cells(cells).await?;
        if let Some(wait) = guesses::wait(known, self.allowed, since, now) {
            return Err(LoginError::Limited(wait));
        }
        let hash = account.and_then(|account| account.password.as_deref());
        let right = self.passwords.verify(password.clone(), hash).await?;
        if !right {
            attempt.was_wrong();
            let change = self.meta.change().await?;
            change.login_failed(cells, since, now).await?;
            change.commit().await?;
            return Err(LoginError::Wrong);
        }
        if known[0].succeeded.is_none_or(|at| now.saturating_sub(at) > KNOWN_INTERVAL) {
            let change = self.meta.change().await?;
            change.login_succeeded(cells[0], now).await?;
            change.commit().await?;
        }
        if let Some(account) = account {
            self.meta.account_used(account, now).await?;
        }
        Ok(())
    }

    /// Where failures of a name are counted in the database: at this address, and at all.
    pub(super) fn cells(&self, name: &Name, peer: IpAddr) -> [i64; 2] {
        let cell = |parts: &[&str]| {
            let print = self.cells.of(parts);
            print[..8].iter().fold(0, |number: i64, byte| (number << 8 | i64::from(*byte)) % CELLS)
        };
        [cell(&[name.as_str(), &network(peer).to_string()]), CELLS + cell(&[name.as_str()])]
    }

    async fn robot(&self, name: &RobotName, token: &Secret, peer: IpAddr, now: Millis) -> Result<Caller, LoginError> {
        // Nobody guesses a token, so a name that many use at once is no reason to refuse it.
        let attempt = self.attempt(peer, None)?;
        let found = self.meta.account(name.as_str()).await?.filter(|account| account.kind == AccountKind::Robot);
        let right = |robot: &Account| {
            robot.token_hash.as_deref().is_some_and(|hash| secrets::same(hash, &secrets::hash(token)))
        };
        let Some(robot) = found.filter(right) else {
            attempt.was_wrong();
            return Err(LoginError::Wrong);
        };
        let owner = match robot.owner_id {
            Some(owner) => self.meta.account_by_id(owner).await?,
            None => None,
        };
        if !robot.enabled || owner.is_none_or(|owner| !owner.enabled) {
            return Err(LoginError::Disabled);
        }
        self.meta.account_used(&robot, now).await?;
        Ok(Caller::known(robot))
    }

    async fn application(&self, token: &Secret, peer: IpAddr, now: Millis) -> Result<Caller, LoginError> {
        let attempt = self.attempt(peer, None)?;
        let found = self.meta.app_token_by_hash(&secrets::hash(token)).await?;
        let Some(found) = found.filter(|found| found.expires.is_none_or(|end| now < end)) else {
            attempt.was_wrong();
            return Err(LoginError::Wrong);
        };
        let account = self.meta.account_by_id(found.account_id).await?.ok_or(LoginError::Wrong)?;
        if !account.enabled {
            return Err(LoginError::Disabled);
        }
        self.meta.app_token_used(&found, now).await?;
        Ok(Caller::application(account))
    }

    /// Begins an attempt, unless there were too many wrong ones lately.
    fn attempt(&self, peer: IpAddr, name: Option<&Name>) -> Result<Attempt, LoginError> {
        let counter = |suspect| self.failures.get_with(suspect, Arc::default);
        let address = counter(Suspect::Address(network(peer)));
        if address.load(Ordering::Relaxed) >= PER_ADDRESS {
            return Err(LoginError::Limited(WINDOW));
        }
        let place = |name: &Name| self.prints.of(&[name.as_str(), &network(peer).to_string()]);
        let place = name.map(|name| counter(Suspect::Place(place(name))));
        let before = place.as_ref().map_or(0, |place| place.fetch_add(1, Ordering::Relaxed));
        let attempt = Attempt { address, place };
        if before >= PER_PLACE { Err(LoginError::Limited(WINDOW)) } else { Ok(attempt) }
    }
}
