//! Who callers are, and what they may do.
//!
//! [`Auth`] is what the rest of the origin asks: it logs in, decides, issues tokens and verifies them. What follows from what is known of a
//! caller is decided in [`rights`] and [`grants`], without a database.

mod caller;
mod credential;
mod grants;
mod guesses;
mod keyring;
mod logins;
mod names;
mod passwords;
mod rights;
mod rotation;
mod scopes;
mod seal;
mod secrets;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::caller_by_token as tests_caller;
mod tokens;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use http::HeaderValue;
use moka::sync::Cache;
use parking_lot::RwLock;
use pierhead_config::{OriginAuth, Secret};
use pierhead_registry::oci::{Resource, Scope};
use pierhead_registry::token::{Access, Claims, KeySet, TOKEN_LIMIT};

pub(crate) use caller::Caller;
pub(crate) use credential::Shown;
pub(crate) use guesses::{FAILURES, PLACES};
pub(crate) use keyring::KeyringError;
pub(crate) use logins::LoginError;
pub(crate) use names::{Name, NameError, RobotName};
pub(crate) use passwords::{PasswordError, Passwords};
pub(crate) use rights::{NamespaceRights, RepositoryRights};
pub(crate) use scopes::{ScopeError, TokenScope, TokenScopes};
pub(crate) use seal::RobotSeal;
pub(crate) use secrets::{hash, password, token, uuid};
pub(crate) use tokens::{Issued, LEEWAY, Unverified};

use crate::meta::{self, Account, AccountKind, Facts, Meta, MetaError, Millis, Repository, Superuser, Viewer};
use keyring::{KeyRules, Keyring};
use logins::Logins;
use tokens::Tokens;

/// Decisions about repositories that are younger than their tokens, as many as are remembered.
const REMEMBERED: u64 = 20_000;

/// Why nobody can be let in at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    /// No hashes of passwords.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// No keys.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No database.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl AuthError {
    /// Whether the disk of the database is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, AuthError::Meta(MetaError::Full(_)) | AuthError::Keyring(KeyringError::Meta(MetaError::Full(_))))
    }
}

/// What seals the tokens of robots, if they are kept.
async fn seal(meta: &Meta, config: &OriginAuth) -> Result<Arc<RobotSeal>, MetaError> {
    let key = if config.show_robot_tokens { Some(meta.robot_key().await?) } else { None };
    Ok(Arc::new(RobotSeal::new(key.as_deref())))
}

/// Accounts, rights and tokens.
pub(crate) struct Auth {
    meta: Meta,
    passwords: Arc<Passwords>,
    logins: Logins,
    tokens: Tokens,
    /// What tokens, by their own names, are worth in repositories that were made later.
    later: Cache<(String, i64), RepositoryRights>,
    anonymous_pulls: AtomicBool,
    robots: RwLock<Arc<RobotSeal>>,
}

impl Auth {
    /// Reads the keys of tokens, and makes the first if there is none. `hostname`: what clients call this registry.
    pub(crate) async fn open(meta: Meta, hostname: &str, config: &OriginAuth) -> Result<Auth, AuthError> {
        let passwords = Arc::new(Passwords::new()?);
        let keyring = Keyring::open(meta.clone(), KeyRules::of(config), meta::now()).await?;
        Ok(Auth {
            robots: RwLock::new(seal(&meta, config).await?),
            logins: Logins::open(meta.clone(), Arc::clone(&passwords), config.failed_logins).await?,
            passwords,
            tokens: Tokens::new(keyring, hostname.to_owned()),
            later: Cache::builder().max_capacity(REMEMBERED).time_to_live(config.token_lifetime).build(),
            anonymous_pulls: AtomicBool::new(config.anonymous_pulls),
            meta,
        })
    }

    /// Who shows this `Authorization` header, or this name and password.
    pub(crate) async fn login(&self, shown: &Shown, peer: IpAddr) -> Result<Caller, LoginError> {
        self.logins.login(shown, peer, meta::now()).await
    }

    /// Goes over to another configuration. An error changes nothing of it. Tokens that were issued keep their time.
    pub(crate) async fn change(&self, config: &OriginAuth) -> Result<(), AuthError> {
        let robots = seal(&self.meta, config).await?;
        self.tokens.keyring().change(KeyRules::of(config), meta::now()).await?;
        *self.robots.write() = robots;
        self.logins.set_allowed(config.failed_logins);
        self.anonymous_pulls.store(config.anonymous_pulls, Ordering::Relaxed);
        Ok(())
    }

    fn anonymous_pulls(&self) -> bool {
        self.anonymous_pulls.load(Ordering::Relaxed)
    }

    /// What seals the tokens of robots.
    pub(crate) fn robots(&self) -> Arc<RobotSeal> {
        Arc::clone(&self.robots.read())
    }

    /// What a password is kept as.
    pub(crate) async fn hash_password(&self, password: Secret) -> Result<String, PasswordError> {
        self.passwords.hash(password).await
    }

    /// What the token of a request to the registry API says.
    pub(crate) async fn verify(&self, header: Option<&HeaderValue>) -> Result<Arc<Claims>, Unverified> {
        self.tokens.verify(header, SystemTime::now()).await
    }

    /// What a request that was not let in is answered with: where to get a token, for what. `base` is this registry as
    /// the client reached it, such as `https://registry.example.com`; `scope` what it needed, as `repository:a/b:pull`; `error` what
    /// was wrong with the token that it brought, such as `insufficient_scope`.
    pub(crate) fn challenge(&self, base: &str, scope: Option<&str>, error: Option<&str>) -> String {
        let mut challenge = format!("Bearer realm=\"{base}/v2/auth\",service=\"{}\"", self.tokens.audience());
        for (name, value) in [("scope", scope), ("error", error)] {
            if let Some(value) = value {
                challenge.push_str(&format!(",{name}=\"{value}\""));
            }
        }
        challenge
    }

    /// What clients call this registry: the service of its tokens.
    pub(crate) fn service(&self) -> &str {
        self.tokens.audience()
    }

    /// A token for a caller, with as much of these scopes as it may have.
    pub(crate) async fn issue(&self, caller: &Caller, scopes: &[Scope]) -> Result<Issued, LoginError> {
        let (mut access, mut refused): (Vec<Access>, Vec<String>) = (Vec::new(), Vec::new());
        // Clients that push ask for the same repository several times.
        let mut known: HashMap<&str, (RepositoryRights, Millis)> = HashMap::new();
        for scope in scopes {
            let granted = match &scope.resource {
                Resource::Repository { name, .. } => {
                    let (rights, created) = match known.get(name.as_str()) {
                        Some(known) => *known,
                        None => {
                            let (facts, rights) = self.repository(caller, name.as_str()).await?;
                            (rights, facts.repository.map_or(0, |repository| repository.created))
                        }
                    };
                    known.insert(name.as_str(), (rights, created));
                    grants::repository(scope, rights, created)
                }
                Resource::Other { .. } if !caller.may_list() => None,
                Resource::Other { .. } if caller.id().is_some() || self.anonymous_pulls() => grants::registry(scope),
                Resource::Other { .. } => None,
            };
            if let (None, Resource::Repository { name, .. }) = (&granted, &scope.resource)
                && !refused.iter().any(|refused| refused == name.as_str())
            {
                refused.push(name.as_str().to_owned());
            }
            access.extend(granted.filter(|granted| !access.contains(granted)));
        }
        let sign = |access, refused| {
            let issued = self.tokens.issue(caller.account(), (access, refused), SystemTime::now());
            issued.map_err(|error| LoginError::Broken(error.to_string()))
        };
        let mut issued = sign(access.clone(), refused)?;
        if issued.token.len() > TOKEN_LIMIT {
            // What is granted counts more.
            issued = sign(access, Vec::new())?;
        }
        if issued.token.len() > TOKEN_LIMIT { Err(LoginError::TooMuch) } else { Ok(issued) }
    }

    /// The public keys of tokens.
    pub(crate) fn keys(&self) -> Arc<KeySet> {
        self.tokens.keyring().public()
    }

    /// Makes the next key when it is time, and learns of those that other nodes made. To be done about once a minute.
    pub(crate) async fn refresh_keys(&self) -> Result<(), KeyringError> {
        self.tokens.keyring().refresh(meta::now()).await
    }

    /// Whether there is a key to sign with.
    pub(crate) fn can_sign(&self) -> bool {
        self.tokens.keyring().signing(meta::now()).is_ok()
    }

    /// The account behind a token, as it is now: anonymous when the token is, or when the account is gone.
    pub(crate) async fn bearer(&self, claims: &Claims) -> Result<Caller, MetaError> {
        if claims.sub.is_empty() {
            return Ok(Caller::anonymous());
        }
        let issued = i64::try_from(claims.iat).unwrap_or(i64::MAX).saturating_add(1).saturating_mul(1000);
        // An account that was made later under the same name is another one. Tokens of earlier versions do not say the number.
        let is_meant =
            |account: &Account| claims.account.map_or(account.created < issued, |number| number == account.id);
        let account = self.meta.account(&claims.sub).await?.filter(|account| account.enabled && is_meant(account));
        let Some(account) = account else { return Ok(Caller::anonymous()) };
        if let Some(owner) = account.owner_id
            && !self.meta.account_by_id(owner).await?.is_some_and(|owner| owner.enabled)
        {
            return Ok(Caller::anonymous());
        }
        Ok(Caller::known(account))
    }

    /// What the bearer of a token may do in a repository that was made after the token was issued: its name may have meant another
    /// when the token was. It is decided when the token first comes, and holds from then on as what the token says does elsewhere.
    /// `None`: the repository was there before, and what the token says holds.
    pub(crate) async fn rights_in_later(
        &self,
        claims: &Claims,
        repository: &Repository,
    ) -> Result<Option<RepositoryRights>, MetaError> {
        if !tokens::may_precede(claims, repository.created) {
            return Ok(None);
        }
        let key = (claims.jti.clone(), repository.id);
        if let Some(rights) = self.later.get(&key) {
            return Ok(Some(rights));
        }
        let caller = self.bearer(claims).await?;
        let (facts, rights) = self.repository(&caller, &repository.name).await?;
        // Who may do nothing yet may ask again.
        if rights.pull && facts.repository.is_some_and(|found| found.id == repository.id) {
            self.later.insert(key, rights);
        }
        Ok(Some(rights))
    }

    /// What is known of a caller and a repository, by its whole name, and what follows.
    pub(crate) async fn repository(&self, caller: &Caller, name: &str) -> Result<(Facts, RepositoryRights), MetaError> {
        let facts = self.meta.facts(caller.id(), name).await?;
        let membership = rights::Membership {
            exists: facts.namespace.is_some(),
            own: is_own(caller, facts.namespace.as_ref()),
            team: facts.team,
        };
        let shown = facts.repository.as_ref().map(|repository| rights::Shown {
            public: repository.visibility == meta::Visibility::Public,
            state: repository.state,
        });
        let mut rights = rights::repository(caller.asking(self.anonymous_pulls()), membership, facts.granted, shown);
        if let Some(scopes) = caller.scopes() {
            let public = shown.is_some_and(|shown| shown.public);
            rights = scopes.repository(rights, shown.is_some(), public);
        }
        Ok((facts, rights))
    }

    /// A user or organisation, and what a caller may do in its namespace.
    pub(crate) async fn namespace(
        &self,
        caller: &Caller,
        name: &str,
    ) -> Result<(Option<Account>, NamespaceRights), MetaError> {
        let account = self.meta.account(name).await?.filter(|account| account.kind != AccountKind::Robot);
        let team = match (&account, caller.id()) {
            (Some(account), Some(id)) => self.meta.team_role(account.id, id).await?,
            _ => None,
        };
        let own = is_own(caller, account.as_ref());
        let membership = rights::Membership { exists: account.is_some(), own, team };
        let mut rights = rights::namespace(caller.asking(self.anonymous_pulls()), membership);
        if let Some(scopes) = caller.scopes() {
            rights = scopes.namespace(rights, own, caller.superuser() != Superuser::No);
        }
        Ok((account, rights))
    }

    /// Through whose eyes a caller sees lists of repositories; `None`: there is nothing to be seen.
    pub(crate) fn viewer(&self, caller: &Caller) -> Option<Viewer> {
        match (caller.id(), caller.superuser()) {
            (_, Superuser::ReadOnly | Superuser::Full) => Some(Viewer::Everything),
            (Some(id), Superuser::No) => Some(Viewer::Account(id)),
            (None, Superuser::No) => self.anonymous_pulls().then_some(Viewer::Anonymous),
        }
    }
}

/// Whether a namespace is the caller's. A robot's is that of its owner, and not the robot's.
fn is_own(caller: &Caller, namespace: Option<&Account>) -> bool {
    namespace.is_some_and(|namespace| caller.id() == Some(namespace.id))
}
