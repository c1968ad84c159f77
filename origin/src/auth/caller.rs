//! Who a caller turned out to be.

use std::sync::Arc;

use super::rights::Asking;
use crate::meta::{Account, AccountKind, Performer, Superuser};

/// Somebody who logged in, or nobody who is known.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    account: Option<Arc<Account>>,
    /// Whether it showed a token of an application, which may be lost without anybody's noticing.
    by_application: bool,
}

impl Caller {
    /// Nobody who is known.
    pub(crate) fn anonymous() -> Caller {
        Caller { account: None, by_application: false }
    }

    /// A user or robot.
    pub(crate) fn known(account: Account) -> Caller {
        Caller { account: Some(Arc::new(account)), by_application: false }
    }

    /// A user, by a token that an application has.
    pub(crate) fn application(account: Account) -> Caller {
        Caller { by_application: true, ..Caller::known(account) }
    }

    /// Whether it came by one.
    pub(crate) fn is_by_application(&self) -> bool {
        self.by_application
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

    /// What it may everywhere. Robots are never superusers.
    pub(crate) fn superuser(&self) -> Superuser {
        match self.account() {
            Some(account) if account.kind == AccountKind::User => account.superuser,
            _ => Superuser::No,
        }
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
