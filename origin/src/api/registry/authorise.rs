//! Whether a request's token lets it do what it asks for.
//!
//! A token says the names of repositories, and a name can come to mean another one while the token lives. So what it says is
//! believed of a repository that was there before it; of one that was made later, its bearer may do what a token issued now would say.

use std::sync::Arc;

use axum::http::HeaderMap;
use http::header::AUTHORIZATION;
use pierhead_registry::oci::RepositoryName;
use pierhead_registry::token::Claims;

use super::refusal::Refusal;
use crate::api::Origin;
use crate::auth::{RepositoryRights, Unverified};
use crate::meta::{MetaError, Repository, RepositoryState};
use crate::registry::RegistryError;

/// What a request needs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Right<'a> {
    /// To be let in at all.
    Ping,
    /// To list repositories.
    Catalog,
    /// To read a repository.
    Pull(&'a RepositoryName),
    /// To write to it.
    Push(&'a RepositoryName),
    /// To write to it what another holds.
    Mount {
        /// Where it is written to.
        to: &'a RepositoryName,
        /// Where it is.
        from: &'a RepositoryName,
    },
    /// To delete from it.
    Delete(&'a RepositoryName),
}

/// A token that grants enough.
pub(super) struct Granted {
    claims: Arc<Claims>,
    repository: Option<Repository>,
}

impl Granted {
    /// What it says.
    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The repository that it is about, if there is one.
    pub(super) fn repository(&self) -> Option<&Repository> {
        self.repository.as_ref()
    }

    /// Whose it is, if anybody's.
    pub(super) fn name(&self) -> Option<&str> {
        Some(self.claims.sub.as_str()).filter(|name| !name.is_empty())
    }
}

impl Right<'_> {
    /// As a scope of tokens ("Docker Registry v2 authentication"). A push begins by looking what is there already.
    pub(super) fn scope(&self) -> Option<String> {
        match self {
            Right::Ping => None,
            Right::Catalog => Some("registry:catalog:*".to_owned()),
            Right::Pull(name) => Some(format!("repository:{name}:pull")),
            Right::Push(name) => Some(format!("repository:{name}:pull,push")),
            // One text for both, as docker-registry has it: clients ask for all of it at once.
            Right::Mount { to, from } => Some(format!("repository:{to}:pull,push repository:{from}:pull")),
            Right::Delete(name) => Some(format!("repository:{name}:delete")),
        }
    }

    fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Right::Ping | Right::Catalog => None,
            Right::Pull(name) | Right::Push(name) | Right::Delete(name) | Right::Mount { to: name, .. } => Some(name),
        }
    }

    fn is_among(&self, rights: RepositoryRights) -> bool {
        match self {
            Right::Ping | Right::Catalog => true,
            Right::Pull(_) => rights.pull,
            Right::Push(_) | Right::Mount { .. } => rights.push,
            Right::Delete(_) => rights.delete,
        }
    }

    fn is_in(&self, claims: &Claims) -> bool {
        match self {
            Right::Ping => true,
            Right::Catalog => claims.access.iter().any(|access| {
                access.kind == "registry"
                    && access.name == "catalog"
                    && access.actions.iter().any(|action| action == "*")
            }),
            // Who pushes looks what is there already, also where the push is what makes the repository.
            Right::Pull(name) => claims.allows(name.as_str(), "pull") || claims.allows(name.as_str(), "push"),
            Right::Push(name) => claims.allows(name.as_str(), "push"),
            Right::Mount { to, from } => {
                // A client that has not asked for the other repository asks on a challenge. One that has asked and may not gets no
                // second challenge, for that would end its push.
                claims.allows(to.as_str(), "push") && claims.names(from.as_str())
            }
            Right::Delete(name) => claims.allows(name.as_str(), "delete"),
        }
    }
}

/// Verifies the token of a request, and that it means the repository that has the name now.
pub(super) async fn authorise(origin: &Origin, headers: &HeaderMap, right: Right<'_>) -> Result<Granted, Refusal> {
    let claims = match origin.auth.verify(headers.get(AUTHORIZATION)).await {
        Ok(claims) => claims,
        Err(Unverified::Missing) => {
            return Err(Refusal::challenge(right.scope(), None, "a token is needed".to_owned()));
        }
        Err(error) => return Err(Refusal::challenge(right.scope(), Some("invalid_token"), error.to_string())),
    };
    match meant(origin, &claims, right).await? {
        Meant::Nothing if right.is_in(&claims) => Ok(Granted { claims, repository: None }),
        Meant::Repository(found) => Ok(Granted { claims, repository: Some(found) }),
        Meant::Nothing | Meant::Other => {
            if is_read_only(origin, &claims, right).await? {
                return Err(RegistryError::ReadOnly.into());
            }
            let message = "the token does not grant this".to_owned();
            Err(Refusal::challenge(right.scope(), Some("insufficient_scope"), message))
        }
    }
}

/// Whether a change is refused for the repository's state, and not for the token: none grants it now. Only who may read learns of it.
async fn is_read_only(origin: &Origin, claims: &Claims, right: Right<'_>) -> Result<bool, MetaError> {
    let (Right::Push(name) | Right::Delete(name) | Right::Mount { to: name, .. }) = right else { return Ok(false) };
    let readable = meant(origin, claims, Right::Pull(name)).await?;
    Ok(matches!(readable, Meant::Repository(found) if found.state == RepositoryState::ReadOnly))
}

/// What a right is about, to a token.
pub(super) enum Meant {
    /// Nothing that is there.
    Nothing,
    /// This one, in which it grants the right.
    Repository(Repository),
    /// One in which it does not.
    Other,
}

/// What a token means by the name that stands in a right.
pub(super) async fn meant(origin: &Origin, claims: &Claims, right: Right<'_>) -> Result<Meant, MetaError> {
    let Some(name) = right.repository().filter(|_| right.is_in(claims)) else { return Ok(Meant::Nothing) };
    let Some(found) = origin.meta.repository(name.as_str()).await? else { return Ok(Meant::Nothing) };
    let rights = origin.auth.rights_in_later(claims, &found).await?;
    Ok(if rights.is_none_or(|rights| right.is_among(rights)) { Meant::Repository(found) } else { Meant::Other })
}

#[cfg(test)]
mod tests {
    use pierhead_registry::token::Access;

    use super::*;

    #[test]
    fn each_right_needs_its_own_grant() {
        let name: RepositoryName = "a/b".parse().unwrap();
        let other: RepositoryName = "a/c".parse().unwrap();
        let access = |kind: &str, name: &str, actions: &[&str]| Access {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.iter().map(|action| (*action).to_owned()).collect(),
            created: None,
        };
        for (granted, right, enough) in [
            (access("repository", "a/b", &["pull"]), Right::Pull(&name), true),
            (access("repository", "a/b", &["pull"]), Right::Pull(&other), false),
            (access("repository", "a/b", &["pull"]), Right::Push(&name), false),
            (access("repository", "a/b", &["pull", "push"]), Right::Push(&name), true),
            (access("repository", "a/b", &["push"]), Right::Pull(&name), true),
            (access("repository", "a/b", &["pull", "push"]), Right::Delete(&name), false),
            (access("repository", "a/b", &["*"]), Right::Delete(&name), true),
            (access("registry", "catalog", &["*"]), Right::Catalog, true),
            (access("registry", "catalog", &["pull"]), Right::Catalog, false),
            (access("repository", "catalog", &["*"]), Right::Catalog, false),
            (access("repository", "a/b", &[]), Right::Ping, true),
            (access("repository", "a/b", &["push"]), Right::Mount { to: &name, from: &name }, true),
            (access("repository", "a/b", &["push"]), Right::Mount { to: &name, from: &other }, false),
            (access("repository", "a/c", &["pull"]), Right::Mount { to: &name, from: &other }, false),
        ] {
            let claims = Claims {
                iss: String::new(),
                sub: String::new(),
                aud: String::new(),
                exp: 0,
                nbf: 0,
                iat: 0,
                jti: String::new(),
                account: None,
                access: vec![granted.clone()],
                refused: Vec::new(),
            };
            assert_eq!(right.is_in(&claims), enough, "{granted:?} {right:?}");
        }
    }
}
