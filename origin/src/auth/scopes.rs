//! Quay's scopes: what an application token may do, whatever its user may. Pure.
//!
//! Invariant: a scope only takes away. What a token may do is what its user may do, and of that what its scopes name; where a route
//! needs no scope, the rights below still bind. A token without scopes is of the time before them, or was made for clients that
//! only push and pull: it reads what its user may read, and changes repositories.

use std::fmt;
use std::str::FromStr;

use super::rights::{NamespaceRights, RepositoryRights};

/// Longest text of scopes that is read.
const TEXT_LIMIT: usize = 255;

/// One scope, in Quay's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenScope {
    /// Pull and see repositories.
    RepoRead,
    /// Push and change tags as well.
    RepoWrite,
    /// Change permissions and settings, and delete repositories as well.
    RepoAdmin,
    /// Create repositories.
    RepoCreate,
    /// Read the user's own account.
    UserRead,
    /// Change the user's own account and robots, and create organisations.
    UserAdmin,
    /// Organisations: robots, teams, members, default permissions.
    OrgAdmin,
    /// What the user may do as a superuser.
    SuperUser,
}

impl TokenScope {
    /// All of them, in the order in which they are written.
    pub(crate) const ALL: [TokenScope; 8] = [
        TokenScope::RepoRead,
        TokenScope::RepoWrite,
        TokenScope::RepoAdmin,
        TokenScope::RepoCreate,
        TokenScope::UserRead,
        TokenScope::UserAdmin,
        TokenScope::OrgAdmin,
        TokenScope::SuperUser,
    ];

    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            TokenScope::RepoRead => "repo:read",
            TokenScope::RepoWrite => "repo:write",
            TokenScope::RepoAdmin => "repo:admin",
            TokenScope::RepoCreate => "repo:create",
            TokenScope::UserRead => "user:read",
            TokenScope::UserAdmin => "user:admin",
            TokenScope::OrgAdmin => "org:admin",
            TokenScope::SuperUser => "super:user",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The scope and those that it includes.
    fn bits(self) -> u8 {
        match self {
            TokenScope::RepoWrite => self.bit() | TokenScope::RepoRead.bits(),
            TokenScope::RepoAdmin => self.bit() | TokenScope::RepoWrite.bits(),
            TokenScope::UserAdmin => self.bit() | TokenScope::UserRead.bits(),
            _ => self.bit(),
        }
    }
}

/// Why a text names no scopes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScopeError {
    /// One that is not known: as in Quay, none of the others holds then.
    #[error(
        "there is no scope {0:?}; the scopes are repo:read, repo:write, repo:admin, repo:create, user:read, user:admin, org:admin and super:user"
    )]
    Unknown(String),
    /// A text with no scope in it would be a token that may do nothing.
    #[error("name at least one scope, or leave `scopes` out")]
    None,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenScopes(u8);

impl TokenScopes {
    /// What a token without scopes may change.
    pub(crate) const UNNAMED: TokenScopes = TokenScopes(0b1111 | 1 << TokenScope::UserRead as u8);

    /// Whether this is among them.
    pub(crate) fn has(self, scope: TokenScope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether any of these is among them.
    pub(crate) fn has_any(self, scopes: &[TokenScope]) -> bool {
        scopes.iter().any(|scope| self.has(*scope))
    }

    /// What is left of rights in a repository. `public`: every account may pull it.
    pub(super) fn repository(self, rights: RepositoryRights, exists: bool, public: bool) -> RepositoryRights {
        let writes = self.has(TokenScope::RepoWrite);
        let admin = rights.admin && self.has(TokenScope::RepoAdmin);
        RepositoryRights {
            pull: rights.pull && (public || self.has(TokenScope::RepoRead)),
            // The push that makes a repository creates it.
            push: rights.push && writes && (exists || self.has(TokenScope::RepoCreate)),
            delete: rights.delete && writes,
            admin,
            inspect: rights.inspect && (admin || self.has(TokenScope::RepoAdmin)),
        }
    }

    /// What is left of rights in a namespace. `own`: it is the user's; `above`: its user is a superuser, and the token says so.
    pub(super) fn namespace(self, rights: NamespaceRights, own: bool, above: bool) -> NamespaceRights {
        let admin = if own { TokenScope::UserAdmin } else { TokenScope::OrgAdmin };
        let may = above || self.has(admin);
        NamespaceRights {
            view: rights.view && (may || self.has(TokenScope::RepoCreate)),
            create: rights.create && self.has(TokenScope::RepoCreate),
            admin: rights.admin && may,
        }
    }
}

impl FromStr for TokenScopes {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<TokenScopes, ScopeError> {
        let shortened = || text.chars().take(64).collect::<String>();
        if text.len() > TEXT_LIMIT {
            return Err(ScopeError::Unknown(shortened()));
        }
        let mut bits = 0;
        for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
            let known = TokenScope::ALL.into_iter().find(|scope| scope.as_str() == word);
            bits |= known.ok_or_else(|| ScopeError::Unknown(word.to_owned()))?.bits();
        }
        if bits == 0 { Err(ScopeError::None) } else { Ok(TokenScopes(bits)) }
    }
}

impl fmt::Display for TokenScopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<_> =
            TokenScope::ALL.into_iter().filter(|scope| self.has(*scope)).map(TokenScope::as_str).collect();
        f.write_str(&named.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_quay_reads_them() {
        for (text, expected) in [
            ("repo:read", Ok("repo:read")),
            ("repo:write", Ok("repo:read repo:write")),
            ("repo:admin,repo:create", Ok("repo:read repo:write repo:admin repo:create")),
            ("org:admin user:admin", Ok("user:read user:admin org:admin")),
            (" super:user , ", Ok("super:user")),
            ("repo:read repo:nothing", Err(ScopeError::Unknown("repo:nothing".to_owned()))),
            ("REPO:READ", Err(ScopeError::Unknown("REPO:READ".to_owned()))),
            ("", Err(ScopeError::None)),
            (" ,", Err(ScopeError::None)),
        ] {
            let read = text.parse::<TokenScopes>().map(|scopes| scopes.to_string());
            assert_eq!(read, expected.map(str::to_owned), "{text}");
        }
        assert!("x".repeat(TEXT_LIMIT + 1).parse::<TokenScopes>().is_err());
        let written = TokenScopes::UNNAMED.to_string();
        assert_eq!(written, "repo:read repo:write repo:admin repo:create user:read");
        assert_eq!(written.parse(), Ok(TokenScopes::UNNAMED));
    }

    #[test]
    fn scopes_only_take_away() {
        let all = RepositoryRights { pull: true, push: true, delete: true, admin: true, inspect: true };
        let letters = |rights: RepositoryRights| -> String {
            let each = [
                (rights.pull, 'r'),
                (rights.push, 'w'),
                (rights.delete, 'd'),
                (rights.admin, 'a'),
                (rights.inspect, 'i'),
            ];
            each.into_iter().filter_map(|(has, letter)| has.then_some(letter)).collect()
        };
        for (scopes, private, public, missing) in [
            ("repo:read", "r", "r", "r"),
            ("repo:write", "rwd", "rwd", "rd"),
            ("repo:admin", "rwdai", "rwdai", "rdai"),
            ("repo:create", "", "r", ""),
            ("repo:write repo:create", "rwd", "rwd", "rwd"),
            ("org:admin user:admin super:user", "", "r", ""),
        ] {
            let scopes: TokenScopes = scopes.parse().unwrap();
            assert_eq!(letters(scopes.repository(all, true, false)), private, "{scopes}");
            assert_eq!(letters(scopes.repository(all, true, true)), public, "{scopes}");
            assert_eq!(letters(scopes.repository(all, false, false)), missing, "{scopes}");
            assert_eq!(scopes.repository(RepositoryRights::default(), true, true), RepositoryRights::default());
        }
        let all = NamespaceRights { view: true, create: true, admin: true };
        for (scopes, own, above, expected) in [
            ("org:admin", false, false, (true, false, true)),
            ("org:admin", true, false, (false, false, false)),
            ("user:admin", true, false, (true, false, true)),
            ("user:admin", false, false, (false, false, false)),
            ("super:user", false, true, (true, false, true)),
            ("repo:create", false, false, (true, true, false)),
            ("repo:admin", false, false, (false, false, false)),
        ] {
            let scopes: TokenScopes = scopes.parse().unwrap();
            let left = scopes.namespace(all, own, above);
            assert_eq!((left.view, left.create, left.admin), expected, "{scopes} {own} {above}");
            assert_eq!(scopes.namespace(NamespaceRights::default(), own, above), NamespaceRights::default());
        }
    }
}
