//! Which scopes of an application token a request to the API needs: pure.
//!
//! Invariant: a token never does what is not named here. An operation that changes something and stands in no line is for callers that log
//! in with a password: a token that was lost must leave nothing behind but what its scopes say. So no token makes another.

use http::Method;

use super::error::ApiError;
use crate::auth::{Caller, TokenScope, TokenScopes};

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// No scope.
    Nothing,
    /// One of these.
    Any(&'static [TokenScope]),
    /// One of these by name: a token without scopes is not enough.
    Named(&'static [TokenScope]),
    /// A password, whatever the scopes.
    Password,
}

use TokenScope::{OrgAdmin, RepoAdmin, RepoCreate, RepoRead, RepoWrite, SuperUser, UserAdmin, UserRead};

/// Nothing, if the caller's token is enough for this operation; the rights of its user are asked elsewhere.
pub(super) fn check(caller: &Caller, method: &Method, path: &str) -> Result<(), ApiError> {
    if !caller.is_by_application() {
        return Ok(());
    }
    match (need(method, path), caller.scopes()) {
        (Need::Password, _) => Err(ApiError::InPerson),
        (Need::Nothing, _) => Ok(()),
        // A token without scopes reads what its user may read.
        (Need::Any(_), None) if method.is_safe() => Ok(()),
        (Need::Any(scopes), None) if TokenScopes::UNNAMED.has_any(scopes) => Ok(()),
        (Need::Any(scopes) | Need::Named(scopes), Some(held)) if held.has_any(scopes) => Ok(()),
        (Need::Any(scopes) | Need::Named(scopes), held) => {
            let names = scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" or ");
            Err(ApiError::Scope { needed: names, held: held.map(|held| held.to_string()) })
        }
    }
}

fn need(method: &Method, path: &str) -> Need {
    const ORGANIZATION: &str = "/api/v1/organization/{orgname}";
    const REPOSITORY: &str = "/api/v1/repository/{namespace}/{repository}";
    let reads = method.is_safe();
    if let Some(rest) = path.strip_prefix(ORGANIZATION) {
        return if rest.is_empty() && reads { Need::Nothing } else { Need::Any(&[OrgAdmin]) };
    }
    if let Some(rest) = path.strip_prefix(REPOSITORY) {
        return match rest {
            "" if reads => Need::Any(&[RepoRead]),
            "/tag" | "/tag/{tag}" | "/tag/{tag}/restore" => Need::Any(if reads { &[RepoRead] } else { &[RepoWrite] }),
            // What others may do outlives the token.
            rest if rest.starts_with("/permissions/") && !reads => Need::Named(&[RepoAdmin]),
            // Settings, logs, and the end of it.
            _ => Need::Any(&[RepoAdmin]),
        };
    }
    if path.starts_with("/api/v1/superuser/") {
        return Need::Any(&[SuperUser]);
    }
    match (path, reads) {
        ("/api/v1/organization", false) => Need::Any(&[UserAdmin, OrgAdmin]),
        ("/api/v1/repository", true) => Need::Any(&[RepoRead]),
        ("/api/v1/repository", false) => Need::Any(&[RepoCreate]),
        ("/api/v1/user", true) => Need::Any(&[UserRead]),
        ("/api/v1/user", false) => Need::Any(&[UserAdmin]),
        ("/api/v1/user/starred" | "/api/v1/user/starred/{namespace}/{repository}", _) => Need::Any(&[UserRead]),
        ("/api/v1/user/apptoken" | "/api/v1/user/apptoken/{token_uuid}", true) => Need::Any(&[UserAdmin]),
        ("/api/v1/users/{username}", true) => Need::Nothing,
        (path, _) if path.starts_with("/api/v1/user/robots") => Need::Any(&[UserAdmin]),
        ("/api/v1/user/logs" | "/api/v1/user/aggregatelogs", true) => Need::Any(&[UserAdmin]),
        _ => Need::Password,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tests_caller;

    /// Every operation and every scope: who adds an operation decides which scopes it needs.
    #[test]
    fn every_operation_needs_its_scopes() {
        let document = serde_json::to_value(super::super::described().into_openapi()).unwrap();
        let mut table = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
                let id = operation["operationId"].as_str().unwrap().to_owned();
                let enough = |scopes: Option<&str>| {
                    let caller = tests_caller(scopes.map(|scopes| scopes.parse().unwrap()));
                    check(&caller, &method, path).is_ok()
                };
                let scopes = TokenScope::ALL.into_iter().map(TokenScope::as_str).filter(|scope| enough(Some(scope)));
                let unnamed = enough(None).then_some("-");
                let named = unnamed.into_iter().chain(scopes).collect::<Vec<_>>().join(" ");
                table.push(format!("{id}: {named}").trim().to_owned());
            }
        }
        table.sort();
        let expected: Vec<&str> = TABLE.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(table, expected, "{table:#?}");
    }

    /// The operation, and what is enough for it; `-` is a token without scopes.
    const TABLE: &str = include_str!("required.txt");
}
