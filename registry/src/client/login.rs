//! The account that the configuration gives an endpoint: whether it works, and when to try it again if not.
//!
//! Invariants:
//! - While the account is refused there is no login a request. One request tries the account now and then, or at once when the
//!   file of its password has changed; all others fail at once. The log says when a refusal begins and when it ends.
//! - A login says something of the account as it was when the login was sent. So a refused request is the repository's own
//!   refusal only if a login that was sent after it worked.
//! - No request waits longer than [`MOMENT`] for the login of another one.
//!
//! Costs: each GET that is refused, and each token that is refused, costs one more login, which asks about the account alone.
//! Requests that are refused at the same time share that login.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::MutexGuard;
use tokio::time::{Instant, timeout};

use super::failure::Failure;
use super::{Account, AccountSettings};

/// The first pause between logins of a refused account.
const FIRST: Duration = Duration::from_secs(1);
/// For how long after a login that worked other logins take no turns.
const PROVEN: Duration = Duration::from_secs(60);
/// For how long a request waits for the login of another one, at most.
const MOMENT: Duration = Duration::from_secs(2);
/// How often the file of the password is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest password.
const PASSWORD_LIMIT: u64 = 64 * 1024;

/// That an account is refused, and by which host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRefusal {
    /// The registry's host or its token service's.
    pub host: String,
    /// What it answered.
    pub status: u16,
    /// Since when.
    pub since: SystemTime,
}

/// See the module.
pub(super) struct Login {
    registry: String,
    file: Option<PathBuf>,
    /// The longest pause between logins of a refused account.
    longest: Duration,
    state: Mutex<State>,
    /// Held during a login whose outcome is open, so that many callers do not all try a refused account at once.
    trying: tokio::sync::Mutex<()>,
}

/// What logins have shown of an account since a certain time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Nothing.
    Unknown,
    /// It works.
    Worked,
    /// It is refused.
    Refused(Failure),
}

struct State {
    account: Option<Arc<Account>>,
    refused: Option<Refused>,
    /// When the last login that worked was sent. `None` while the account is refused.
    proven: Option<Instant>,
    looked: Option<Instant>,
}

impl State {
    /// Another one may have been sent before the file of the password changed.
    fn is_current(&self, account: &Account) -> bool {
        self.account.as_deref() == Some(account)
    }

    fn worked_after(&self, sent: Instant) -> bool {
        self.proven.is_some_and(|proven| proven > sent)
    }
}

struct Refused {
    what: AccountRefusal,
    /// When the login that was refused was sent.
    sent: Instant,
    next: Instant,
    pause: Duration,
}

impl Refused {
    fn failure(&self) -> Failure {
        Failure::account_refused(&self.what.host, self.what.status)
    }
}

impl Login {
    /// Nothing is known of the account yet.
    pub(super) fn new(registry: &str, account: Option<AccountSettings>, longest: Duration) -> Login {
        let (account, file) = account.map_or((None, None), |settings| (Some(settings.account), settings.password_file));
        let state = State { account: account.map(Arc::new), refused: None, proven: None, looked: None };
        Login {
            registry: registry.to_owned(),
            file,
            longest: longest.max(FIRST),
            state: Mutex::new(state),
            trying: tokio::sync::Mutex::new(()),
        }
    }

    /// The account, if there is one.
    pub(super) fn account(&self) -> Option<Arc<Account>> {
        self.lock().account.clone()
    }

    /// Whether it is refused.
    pub(super) fn refusal(&self) -> Option<AccountRefusal> {
        self.lock().refused.as_ref().map(|refused| refused.what.clone())
    }

    /// Whether it worked lately.
    pub(super) fn is_proven(&self, now: Instant) -> bool {
        let state = self.lock();
        state.refused.is_none() && state.proven.is_some_and(|proven| now.duration_since(proven) < PROVEN)
    }

    /// What is known of the account from logins that were sent after `sent`.
    pub(super) fn since(&self, account: &Account, sent: Instant) -> Since {
        let state = self.lock();
        match &state.refused {
            _ if !state.is_current(account) => Since::Unknown,
            Some(refused) if refused.sent > sent => Since::Refused(refused.failure()),
            None if state.worked_after(sent) => Since::Worked,
            _ => Since::Unknown,
        }
    }

    /// The turn to log in. `None`: other logins took too long, and this one is sent beside them. What the account is worth may have
    /// changed during the wait.
    pub(super) async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        timeout(MOMENT, self.trying.lock()).await.ok()
    }

    /// The turn to log in while it is open whether the account works; `None` also where that is known.
    pub(super) async fn turn_unless_proven(&self) -> Option<MutexGuard<'_, ()>> {
        if self.is_proven(Instant::now()) {
            return None;
        }
        let turn = self.turn().await;
        turn.filter(|_| !self.is_proven(Instant::now()))
    }

    /// Fails while the account is refused and not to be tried yet.
    pub(super) fn check(&self, now: Instant) -> Result<(), Failure> {
        match &self.lock().refused {
            Some(refused) if now < refused.next => Err(refused.failure()),
            _ => Ok(()),
        }
    }

    /// Leave to log in now. While the account is refused, one caller in a while gets it.
    pub(super) fn admit(&self, now: Instant) -> Result<(), Failure> {
        match &mut self.lock().refused {
            Some(refused) if now < refused.next => Err(refused.failure()),
            Some(refused) => {
                refused.next = now + refused.pause;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A login that was sent at `sent` was refused: the failure of its request.
    pub(super) fn refused(&self, account: &Account, host: &str, status: u16, sent: Instant, now: Instant) -> Failure {
        let mut state = self.lock();
        if !state.is_current(account) || state.worked_after(sent) {
            // Another try shows the password that works.
            let why = format!("status {status} to an account that was taken meanwhile");
            return Failure::broken(why).at(host, Some(status));
        }
        state.proven = None;
        let known = state.refused.take();
        if known.is_none() {
            tracing::warn!(
                registry = self.registry,
                host,
                status,
                "upstream refuses the account in `credentials`; what is known is served stale until it works again"
            );
        }
        let (since, pause) = match known {
            Some(known) => (known.what.since, (known.pause * 2).min(self.longest)),
            None => (SystemTime::now(), FIRST),
        };
        let what = AccountRefusal { host: host.to_owned(), status, since };
        state.refused = Some(Refused { what, sent, next: now + pause, pause });
        Failure::account_refused(host, status)
    }

    /// A login that was sent at `sent` worked.
    pub(super) fn worked(&self, account: &Account, sent: Instant) {
        let mut state = self.lock();
        let outdated = state.refused.as_ref().is_some_and(|refused| refused.sent > sent);
        if outdated || !state.is_current(account) {
            return;
        }
        state.proven = state.proven.max(Some(sent));
        if state.refused.take().is_some() {
            tracing::info!(registry = self.registry, "upstream takes the account in `credentials` again");
        }
    }

    /// Reads the file of the password again, unless that was done a moment ago. True when it holds another password: then
    /// the account may be tried at once.
    pub(super) async fn renew(&self, now: Instant) -> bool {
        let Some(file) = &self.file else { return false };
        {
            let mut state = self.lock();
            if state.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_EVERY) {
                return false;
            }
            state.looked = Some(now);
        }
        // A file that is being replaced may be missing or empty for a moment: the old password stays.
        let Some(password) = read(file).await else { return false };
        let mut state = self.lock();
        let Some(account) = state.account.clone().filter(|account| account.password != password) else { return false };
        state.account = Some(Arc::new(Account { username: account.username.clone(), password }));
        state.proven = None;
        if let Some(refused) = &mut state.refused {
            refused.next = now;
        }
        tracing::info!(registry = self.registry, "the password file holds another password");
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(file: &Path) -> Option<String> {
    if tokio::fs::metadata(file).await.ok()?.len() > PASSWORD_LIMIT {
        return None;
    }
    let text = tokio::fs::read_to_string(file).await.ok()?;
    let password = text.trim_end_matches(['\r', '\n']);
    (!password.is_empty()).then(|| password.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Account, AccountSettings, FIRST, Failure, Login, MOMENT, Since};

    fn account(password: &str) -> Account {
        Account { username: "edge".to_owned(), password: password.to_owned() }
    }

    fn login(file: Option<&std::path::Path>) -> Login {
        let settings = AccountSettings { account: account("old"), password_file: file.map(std::path::Path::to_owned) };
        Login::new("r", Some(settings), Duration::from_secs(30))
    }

    #[test]
    fn a_refused_account_is_tried_ever_more_seldom() {
        let (login, mut now) = (login(None), Instant::now());
        assert!(login.admit(now).is_ok());
        login.worked(&account("old"), now);
        assert!(login.is_proven(now));
        let mut pause = FIRST;
        for _ in 0..10 {
            login.refused(&account("old"), "auth.test", 401, now, now);
            assert!(!login.is_proven(now));
            assert_eq!(login.refusal().unwrap().status, 401);
            assert!(login.admit(now + pause / 2).is_err());
            now += pause;
            assert!(login.admit(now).is_ok(), "one");
            assert!(login.admit(now).is_err(), "and no other");
            pause = (pause * 2).min(Duration::from_secs(30));
        }
        login.worked(&account("old"), now);
        assert_eq!(login.refusal(), None);
        assert!(login.admit(now).is_ok());
    }

    /// What counts is when a login was sent, and not in which order the answers came.
    #[test]
    fn the_login_that_was_sent_last_counts() {
        let (login, old, start) = (login(None), account("old"), Instant::now());
        let at = |second: u64| start + Duration::from_secs(second);
        let refused = || Since::Refused(Failure::account_refused("auth.test", 403));
        assert_eq!(login.since(&old, at(0)), Since::Unknown);
        login.worked(&old, at(5));
        for (sent, known) in [(4, Since::Worked), (5, Since::Unknown), (6, Since::Unknown)] {
            assert_eq!(login.since(&old, at(sent)), known, "{sent}");
        }
        // Sent before the login that worked.
        let late = login.refused(&old, "auth.test", 403, at(4), at(7));
        assert!(matches!(late, Failure::Broken(_)), "{late}");
        assert_eq!(login.refusal(), None);
        login.refused(&old, "auth.test", 403, at(6), at(7));
        // Sent before the login that was refused.
        login.worked(&old, at(5));
        for (sent, known) in [(4, refused()), (5, refused()), (6, Since::Unknown), (7, Since::Unknown)] {
            assert_eq!(login.since(&old, at(sent)), known, "{sent}");
        }
        // Of another password.
        login.worked(&account("new"), at(9));
        assert_eq!(login.since(&old, at(5)), refused());
        assert_eq!(login.since(&account("new"), at(5)), Since::Unknown);
        login.worked(&old, at(9));
        assert_eq!((login.since(&old, at(8)), login.refusal()), (Since::Worked, None));
        let other = login.refused(&account("new"), "auth.test", 403, at(10), at(10));
        assert!(matches!(other, Failure::Broken(_)) && login.refusal().is_none(), "{other}");
    }

    #[tokio::test(start_paused = true)]
    async fn many_wait_for_a_login_no_longer_than_one() {
        let login = std::sync::Arc::new(login(None));
        let (began, slow) = (Instant::now(), login.turn_unless_proven().await);
        assert!(slow.is_some());
        let wait = || {
            let login = std::sync::Arc::clone(&login);
            tokio::spawn(async move { (login.turn_unless_proven().await.is_some(), Instant::now()) })
        };
        for waiting in (0..20).map(|_| wait()).collect::<Vec<_>>() {
            let (turn, ended) = waiting.await.unwrap();
            assert!(!turn && ended < began + MOMENT * 2, "{:?}", ended - began);
        }
        // Once the account works the turns of those who wait are not taken one after the other.
        let waiting = wait();
        tokio::task::yield_now().await;
        login.worked(&account("old"), Instant::now());
        drop(slow);
        let (turn, ended) = waiting.await.unwrap();
        assert!(!turn && ended < began + MOMENT * 2);
        assert!(login.trying.try_lock().is_ok());
    }

    #[tokio::test]
    async fn a_renewed_password_is_tried_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "old\n").unwrap();
        let (login, now) = (login(Some(&file)), Instant::now());
        login.refused(&account("old"), "auth.test", 401, now, now);
        assert!(!login.renew(now).await);
        std::fs::write(&file, "new\n").unwrap();
        assert!(!login.renew(now).await, "looked at a moment ago");
        let later = now + Duration::from_secs(2);
        login.refused(&account("old"), "auth.test", 401, later, later);
        assert!(login.renew(later).await);
        assert_eq!(login.account().unwrap().password, "new");
        assert!(login.admit(later).is_ok());
    }
}
