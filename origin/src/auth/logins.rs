//! Checking what callers show, and making guesses slow.
//!
//! Failures are counted in two places. In the memory of this node, by address, so that guessing cannot keep it busy; and
//! in the database, for all nodes together: after some wrong passwords in a row a name must wait, ever longer (`guesses.rs`).
//! Guesses that come all at once pass neither: at an address no more are checked at a time than may still be wrong there, and those
//! for one name one after the other, each looked at when its turn comes.
//! Whoever logged in lately with the right password still gets in: that login is remembered as a keyed hash that covers the
//! stored hash too, so a password that is changed anywhere is forgotten everywhere at once.
//!
//! Invariant: a name that nobody has, or that is an organisation's, is answered as one that somebody has, as slowly, and counted
//! as well. All of this memory is bounded, and that in the database too.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use moka::future::Cache;
use pierhead_config::Secret;
use pierhead_registry::token::TOKEN_LIMIT;
use pierhead_service::network::network;
use pierhead_service::shares::Party;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

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
/// Failures in a window after which an address must wait; also what is checked of it at a time.
const PER_ADDRESS: usize = 20;
/// Cells in the database for names at addresses, and as many for names at all of them.
const CELLS: i64 = 1 << 20;
/// How often it is written down that an address is known.
const KNOWN_INTERVAL: Millis = 24 * 3_600_000;
/// Addresses whose failures are counted in memory, and names at them that take turns.
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
    /// Who it is is known, and the token would be one that nobody takes.
    #[error("a token for all of this would have more than {TOKEN_LIMIT} bytes: ask for less at a time")]
    TooMuch,
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

/// An attempt, which has one of the places of its address. It gives it back, unless it was wrong: a place that is lost comes back with
/// the next window. So many may log in from one address at a time, and no burst of guesses is longer than a row of them.
struct Attempt {
    address: Arc<Address>,
    place: OwnedSemaphorePermit,
}

/// Who tries to log in from one address, in one window.
struct Address {
    places: Arc<Semaphore>,
    wrong: AtomicUsize,
}

impl Default for Address {
    fn default() -> Address {
        Address { places: Arc::new(Semaphore::new(PER_ADDRESS)), wrong: AtomicUsize::new(0) }
    }
}

impl Attempt {
    fn was_wrong(self) {
        self.place.forget();
        if self.address.wrong.fetch_add(1, Ordering::Relaxed) + 1 == PER_ADDRESS {
            // No place is left: those who wait for one hear of it.
            self.address.places.close();
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
    addresses: moka::sync::Cache<IpAddr, Arc<Address>>,
    /// Whose turn it is for a name at an address. Names are hashed: what is typed as a name may be a password.
    turns: moka::sync::Cache<Print, Arc<Mutex<()>>>,
    allowed: AtomicU32,
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
            addresses: moka::sync::Cache::builder().max_capacity(COUNTED).time_to_live(WINDOW).build(),
            turns: moka::sync::Cache::builder().max_capacity(COUNTED).time_to_idle(WINDOW).build(),
            allowed: AtomicU32::new(allowed),
        })
    }

    /// Another number of wrong passwords.
    pub(super) fn set_allowed(&self, allowed: u32) {
        self.allowed.store(allowed, Ordering::Relaxed);
    }

    /// Who shows this.
    pub(crate) async fn login(&self, shown: &Shown, peer: IpAddr, now: Millis) -> Result<Caller, LoginError> {
        match shown {
            Shown::Nothing => Ok(Caller::anonymous()),
            Shown::Nonsense => {
                self.attempt(peer).await?.was_wrong();
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
        let attempt = self.attempt(peer).await?;
        let turn = self.turns.get_with(self.prints.of(&[name.as_str(), &network(peer).to_string()]), Arc::default);
        let _turn = turn.lock().await;
        let cells = self.cells(name, peer);
        let since = guesses::since(account.and_then(|account| account.password_set), now);
        let known = self.meta.login_cells(cells).await?;
        if let Some(wait) = guesses::wait(known, self.allowed.load(Ordering::Relaxed), since, now) {
            return Err(LoginError::Limited(wait));
        }
        let hash = account.and_then(|account| account.password.as_deref());
        let right = self.passwords.verify(password.clone(), hash, Party::new(peer, None)).await?;
        if !right {
            attempt.was_wrong();
            let change = self.meta.change().await?;
            let [here, _] = known;
            let few = here.failures < guesses::FEW || here.failed.is_none_or(|at| at <= since);
            change.login_failed(if few { &cells } else { &cells[..1] }, since, now).await?;
            change.commit().await?;
            return Err(LoginError::Wrong);
        }
        if known[0].succeeded.is_none_or(|at| now.saturating_sub(at) > KNOWN_INTERVAL) {
            let change = self.meta.change().await?;
            change.login_succeeded(cells[0], now).await?;
            change.commit().await?;
        }
        if let Some(account) = account {
            noted(self.meta.account_used(account, now).await);
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
        // Nobody guesses a token, so many may use a name at once.
        let attempt = self.attempt(peer).await?;
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
        noted(self.meta.account_used(&robot, now).await);
        Ok(Caller::known(robot))
    }

    async fn application(&self, token: &Secret, peer: IpAddr, now: Millis) -> Result<Caller, LoginError> {
        let attempt = self.attempt(peer).await?;
        let found = self.meta.app_token_by_hash(&secrets::hash(token)).await?;
        let Some(found) = found.filter(|found| found.expires.is_none_or(|end| now < end)) else {
            attempt.was_wrong();
            return Err(LoginError::Wrong);
        };
        let account = self.meta.account_by_id(found.account_id).await?.ok_or(LoginError::Wrong)?;
        if !account.enabled {
            return Err(LoginError::Disabled);
        }
        // A scope that this version does not know must not widen the token.
        let scopes = found.scopes.as_deref().map(str::parse).transpose();
        let scopes = scopes.map_err(|_| LoginError::Broken("an application token has an unknown scope".to_owned()))?;
        noted(self.meta.app_token_used(&found, now).await);
        Ok(Caller::application(account, scopes))
    }

    /// Begins an attempt when there is a place, unless there were too many wrong ones lately.
    async fn attempt(&self, peer: IpAddr) -> Result<Attempt, LoginError> {
        let address = self.addresses.get_with(network(peer), Arc::default);
        let place = Arc::clone(&address.places).acquire_owned().await;
        Ok(Attempt { place: place.map_err(|_| LoginError::Limited(WINDOW))?, address })
    }
}

/// When an account was last used is worth a line, and no login's failure.
fn noted(outcome: Result<(), MetaError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot write down that somebody logged in");
    }
}
