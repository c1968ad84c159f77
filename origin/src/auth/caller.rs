//! Who a caller turned out to be.

use std::sync::Arc;

use super::rights::Asking;
use super::scopes::{TokenScope, TokenScopes};
use crate::meta::{Account, AccountKind, Performer, Superuser};

/// How an account logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// By its own password or token.
    Itself,
    /// By an application token, with scopes if it has any.
    Application(Option<TokenScopes>),
}

/// An account that logged in, or an anonymous caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    account: Option<Arc<Account>>,
    by: By,
}

impl Caller {
    /// Nobody who is known.
    pub(crate) fn anonymous() -> Caller {
        Caller { account: None, by: By::Itself }
    }

    /// A user or robot.
    pub(crate) fn known(account: Account) -> Caller {
        Caller { account: Some(Arc::new(account)), by: By::Itself }
    }

    /// A user, by an application token.
    pub(crate) fn application(account: Account, scopes: Option<TokenScopes>) -> Caller {
        Caller { by: By::Application(scopes), ..Caller::known(account) }
    }

    /// Whether the caller shows an application token, and not a password.
    pub(crate) fn is_by_application(&self) -> bool {
        matches!(self.by, By::Application(_))
    }

    /// The scopes of the caller's application token. `None`: it shows none, or one without scopes.
    pub(crate) fn scopes(&self) -> Option<TokenScopes> {
        match self.by {
            By::Application(scopes) => scopes,
            By::Itself => None,
        }
    }

    /// The account behind it.
    pub(crate) fn account(&self) -> Option<&Account> {
        self.account.as_deref()
    }

    /// Its number.
    pub(crate) fn id(&self) -> Option<i64> {
        self.account.as_ref().map(|account| account.id)
    }

    /// Its name.
    pub(crate) fn name(&self) -> Option<&str> {
        self.account.as_ref().map(|account| account.name.as_str())
    }

    /// What it may everywhere. Robots are never superusers, and an application token must name the scope.
    pub(crate) fn superuser(&self) -> Superuser {
        match self.account() {
            Some(account) if account.kind == AccountKind::User && self.names(TokenScope::SuperUser) => {
                account.superuser
            }
            _ => Superuser::No,
        }
    }

    /// Whether a token of the registry API for this caller may list repositories. Such a token does not carry scopes, so it must not
    /// show more than they do.
    pub(super) fn may_list(&self) -> bool {
        let hidden = self.account().is_some_and(|account| account.superuser != self.superuser());
        self.names(TokenScope::RepoRead) && (self.scopes().is_none() || !hidden)
    }

    fn names(&self, scope: TokenScope) -> bool {
        self.scopes().is_none_or(|scopes| scopes.has(scope))
    }

    /// What rights are decided by.
    pub(crate) fn asking(&self, anonymous_pulls: bool) -> Asking {
        Asking { anonymous: self.account.is_none(), superuser: self.superuser(), anonymous_pulls }
    }

    /// For the action log.
    pub(crate) fn performer(&self, ip: Option<String>) -> Performer {
        Performer { name: self.name().map(str::to_owned), ip }
    }
}
