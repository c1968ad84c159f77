//! Who may do what: a pure decision from what is known of the caller and of the thing.
//!
//! One rule a line, in [`repository`] and [`namespace`]; everything that asks goes through these two, the token service, the API and
//! the lists alike. What is not granted here is refused, so nothing must be said about strangers.

use crate::meta::{RepositoryState, Role, Superuser, TeamRole};

/// What a repository says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Whether everybody may pull.
    pub(crate) public: bool,
    /// Whether it takes pushes.
    pub(crate) state: RepositoryState,
}

/// Who asks, as far as it does not matter for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asking {
    /// Nobody who is known.
    pub(crate) anonymous: bool,
    /// Everywhere.
    pub(crate) superuser: Superuser,
    /// Whether those who are not known may pull what is public.
    pub(crate) anonymous_pulls: bool,
}

/// How a caller stands to a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    /// There is such a user or organisation.
    pub(crate) exists: bool,
    /// It is the caller's own.
    pub(crate) own: bool,
    /// The strongest of the teams that the caller is in.
    pub(crate) team: Option<TeamRole>,
}

/// What may be done in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamespaceRights {
    /// See who is in it.
    pub(crate) view: bool,
    /// Create repositories.
    pub(crate) create: bool,
    /// Everything.
    pub(crate) admin: bool,
}

/// What may be done with a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RepositoryRights {
    /// Pull it, and see its tags.
    pub(crate) pull: bool,
    /// Push to it: creates it where it does not exist.
    pub(crate) push: bool,
    /// Delete manifests and tags.
    pub(crate) delete: bool,
    /// Change who may do what, and what it is.
    pub(crate) admin: bool,
    /// See who may do what.
    pub(crate) inspect: bool,
}

/// What a caller may do in a namespace.
pub(crate) fn namespace(asking: Asking, membership: Membership) -> NamespaceRights {
    if asking.anonymous || !membership.exists {
        return NamespaceRights::default();
    }
    let superuser = asking.superuser == Superuser::Full;
    let admin = superuser || membership.own || membership.team == Some(TeamRole::Admin);
    let create = admin || membership.team == Some(TeamRole::Creator);
    let view = create || membership.team.is_some() || asking.superuser == Superuser::ReadOnly;
    NamespaceRights { view, create, admin }
}

/// What a caller may do with a repository. `granted` is the strongest role that a permission for the caller or for a team of the
/// caller gives; `shown` is `None` where there is no such repository.
pub(crate) fn repository(
    asking: Asking,
    membership: Membership,
    granted: Option<Role>,
    shown: Option<Shown>,
) -> RepositoryRights {
    let within = namespace(asking, membership);
    let Some(shown) = shown.filter(|shown| shown.state != RepositoryState::Deleted) else {
        // Who administrates the namespace may do everything that is to come. Others may only push: what was there before by that name,
        // and caches may still remember, was never theirs.
        let (push, all) = (within.create, within.admin);
        return RepositoryRights { pull: all, push, delete: all, admin: all, inspect: all };
    };
    let granted = if asking.anonymous { None } else { granted };
    let role = if within.admin { Some(Role::Admin) } else { granted };
    let public = shown.public && (!asking.anonymous || asking.anonymous_pulls);
    let written = role >= Some(Role::Write) && shown.state == RepositoryState::Normal;
    let admin = role == Some(Role::Admin);
    let reader = asking.superuser == Superuser::ReadOnly;
    RepositoryRights {
        pull: role.is_some() || public || reader,
        push: written,
        delete: written,
        admin,
        inspect: admin || reader,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Asking = Asking { anonymous: false, superuser: Superuser::No, anonymous_pulls: true };
    const ANONYMOUS: Asking = Asking { anonymous: true, ..KNOWN };
    const SUPERUSER: Asking = Asking { superuser: Superuser::Full, ..KNOWN };
    const READER: Asking = Asking { superuser: Superuser::ReadOnly, ..KNOWN };
    const STRANGER: Membership = Membership { exists: true, own: false, team: None };
    const OWNER: Membership = Membership { own: true, ..STRANGER };
    const NOWHERE: Membership = Membership { exists: false, ..STRANGER };

    fn member(role: TeamRole) -> Membership {
        Membership { team: Some(role), ..STRANGER }
    }

    fn letters(rights: RepositoryRights) -> String {
        [(rights.pull, 'r'), (rights.push, 'w'), (rights.delete, 'd'), (rights.admin, 'a'), (rights.inspect, 'i')]
            .into_iter()
            .filter_map(|(has, letter)| has.then_some(letter))
            .collect()
    }

    #[test]
    fn in_a_namespace() {
        for (asking, membership, expected) in [
            (ANONYMOUS, STRANGER, (false, false, false)),
            (KNOWN, STRANGER, (false, false, false)),
            (KNOWN, OWNER, (true, true, true)),
            (KNOWN, member(TeamRole::Member), (true, false, false)),
            (KNOWN, member(TeamRole::Creator), (true, true, false)),
            (KNOWN, member(TeamRole::Admin), (true, true, true)),
            (READER, STRANGER, (true, false, false)),
            (READER, member(TeamRole::Creator), (true, true, false)),
            (SUPERUSER, STRANGER, (true, true, true)),
            (SUPERUSER, NOWHERE, (false, false, false)),
            (KNOWN, NOWHERE, (false, false, false)),
        ] {
            let rights = namespace(asking, membership);
            assert_eq!((rights.view, rights.create, rights.admin), expected, "{asking:?} {membership:?}");
        }
    }

    #[test]
    fn with_a_repository() {
        let private = Some(Shown { public: false, state: RepositoryState::Normal });
        let public = Some(Shown { public: true, state: RepositoryState::Normal });
        let still = Some(Shown { public: false, state: RepositoryState::ReadOnly });
        let closed = Asking { anonymous_pulls: false, ..ANONYMOUS };
        for (asking, membership, granted, shown, expected) in [
            // Those who are not known.
            (ANONYMOUS, STRANGER, None, private, ""),
            (ANONYMOUS, STRANGER, None, public, "r"),
            (closed, STRANGER, None, public, ""),
            (ANONYMOUS, STRANGER, Some(Role::Admin), private, ""),
            (ANONYMOUS, STRANGER, None, None, ""),
            // Those who are known and nothing more.
            (KNOWN, STRANGER, None, private, ""),
            (KNOWN, STRANGER, None, public, "r"),
            (Asking { anonymous_pulls: false, ..KNOWN }, STRANGER, None, public, "r"),
            (KNOWN, STRANGER, None, None, ""),
            // Granted.
            (KNOWN, STRANGER, Some(Role::Read), private, "r"),
            (KNOWN, STRANGER, Some(Role::Write), private, "rwd"),
            (KNOWN, STRANGER, Some(Role::Admin), private, "rwdai"),
            (KNOWN, STRANGER, Some(Role::Write), still, "r"),
            (KNOWN, STRANGER, Some(Role::Admin), still, "rai"),
            // By being in the namespace.
            (KNOWN, OWNER, None, private, "rwdai"),
            (KNOWN, OWNER, None, None, "rwdai"),
            (KNOWN, OWNER, Some(Role::Read), private, "rwdai"),
            (KNOWN, OWNER, None, still, "rai"),
            (KNOWN, member(TeamRole::Member), None, private, ""),
            (KNOWN, member(TeamRole::Member), None, None, ""),
            (KNOWN, member(TeamRole::Member), Some(Role::Write), private, "rwd"),
            (KNOWN, member(TeamRole::Creator), None, private, ""),
            (KNOWN, member(TeamRole::Creator), None, None, "w"),
            (KNOWN, member(TeamRole::Admin), None, private, "rwdai"),
            (KNOWN, member(TeamRole::Admin), None, None, "rwdai"),
            // Everywhere.
            (READER, STRANGER, None, private, "ri"),
            (READER, STRANGER, None, None, ""),
            (READER, STRANGER, Some(Role::Write), private, "rwdi"),
            (SUPERUSER, STRANGER, None, private, "rwdai"),
            (SUPERUSER, STRANGER, None, still, "rai"),
            (SUPERUSER, STRANGER, None, None, "rwdai"),
            (SUPERUSER, NOWHERE, None, None, ""),
        ] {
            let rights = letters(repository(asking, membership, granted, shown));
            assert_eq!(rights, expected, "{asking:?} {membership:?} {granted:?} {shown:?}");
        }
    }
}
