//! The account that the configuration gives an endpoint: whether it works, and when to try it again if not.
//!
//! Invariant: while the account is refused there is no login a request. One tries it now and then, or at once when the
//! file of its password has changed; all others fail at once. That is logged when it begins and when it
//! ends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::failure::Failure;
use super::{Account, AccountSettings};

/// The first pause between logins of a refused account.
const FIRST: Duration = Duration::from_secs(1);
/// For how long a login that worked proves that the account works.
const PROVEN: Duration = Duration::from_secs(60);
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
    pub(super) trying: tokio::sync::Mutex<()>,
}

struct State {
    account: Option<Arc<Account>>,
    refused: Option<Refused>,
    proven: Option<Instant>,
    looked: Option<Instant>,
}

struct Refused {
    what: AccountRefusal,
    next: Instant,
    pause: Duration,
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

    /// Leave to log in now. While the account is refused, one caller in a while gets it.
    pub(super) fn admit(&self, now: Instant) -> Result<(), Failure> {
        match &mut self.lock().refused {
            Some(refused) if now < refused.next => {
                Err(Failure::account_refused(&refused.what.host, refused.what.status))
            }
            Some(refused) => {
                refused.next = now + refused.pause;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The account was refused.
    pub(super) fn refused(&self, host: &str, status: u16, now: Instant) -> Failure {
        let mut state = self.lock();
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
        state.refused = Some(Refused { what, next: now + pause, pause });
        Failure::account_refused(host, status)
    }

    /// A login worked.
    pub(super) fn worked(&self, now: Instant) {
        let mut state = self.lock();
        state.proven = Some(now);
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
        if let Some(refused) = &mut state.refused {
            refused.next = now;
        }
        tracing::info!(registry = self.registry, "the password file holds another password");
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
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

    use super::{Account, AccountSettings, FIRST, Login};

    fn login(file: Option<&std::path::Path>) -> Login {
        let account = Account { username: "edge".to_owned(), password: "old".to_owned() };
        let settings = AccountSettings { account, password_file: file.map(std::path::Path::to_owned) };
        Login::new("r", Some(settings), Duration::from_secs(30))
    }

    #[test]
    fn a_refused_account_is_tried_ever_more_seldom() {
        let (login, mut now) = (login(None), Instant::now());
        assert!(login.admit(now).is_ok());
        login.worked(now);
        assert!(login.is_proven(now));
        let mut pause = FIRST;
        for _ in 0..10 {
            login.refused("auth.test", 401, now);
            assert!(!login.is_proven(now));
            assert_eq!(login.refusal().unwrap().status, 401);
            assert!(login.admit(now + pause / 2).is_err());
            now += pause;
            assert!(login.admit(now).is_ok(), "one");
            assert!(login.admit(now).is_err(), "and no other");
            pause = (pause * 2).min(Duration::from_secs(30));
        }
        login.worked(now);
        assert_eq!(login.refusal(), None);
        assert!(login.admit(now).is_ok());
    }

    #[tokio::test]
    async fn a_renewed_password_is_tried_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "old\n").unwrap();
        let (login, now) = (login(Some(&file)), Instant::now());
        login.refused("auth.test", 401, now);
        assert!(!login.renew(now).await);
        std::fs::write(&file, "new\n").unwrap();
        assert!(!login.renew(now).await, "looked at a moment ago");
        let later = now + Duration::from_secs(2);
        login.refused("auth.test", 401, later);
        assert!(login.renew(later).await);
        assert_eq!(login.account().unwrap().password, "new");
        assert!(login.admit(later).is_ok());
    }
}
