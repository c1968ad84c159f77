//! What handlers are given: who asks, names from the path, the query, and the body, each read whole and checked before a handler begins.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Path, Query, Request};
use bytes::Bytes;
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::error::ApiError;
use super::ignored::{Ignored, of_parameter, read};
use super::required;
use crate::api::Origin;
use crate::api::asked::Asked;
use crate::api::token::login;
use crate::auth::{Caller, NamespaceRights, RepositoryRights, Shown};
use crate::meta::{Account, AccountKind, Action, Change, Facts, Performer, Repository, Superuser, now};

/// Who asks.
pub(super) struct Who {
    /// What may be decided by.
    pub(super) caller: Caller,
    /// For the action log.
    pub(super) performer: Performer,
}

impl FromRequestParts<Arc<Origin>> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, origin: &Arc<Origin>) -> Result<Who, ApiError> {
        let asked = parts.extensions.get::<Arc<Asked>>().ok_or(ApiError::Internal)?;
        let shown = Shown::read(parts.headers.get(AUTHORIZATION));
        let caller = login(origin, asked, &shown).await?;
        let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        required::check(&caller, &parts.method, path)?;
        let performer = caller.performer(Some(asked.peer.to_string()));
        Ok(Who { caller, performer })
    }
}

impl Who {
    /// The account of who asks.
    pub(super) fn account(&self) -> Result<&Account, ApiError> {
        self.caller.account().ok_or_else(|| ApiError::Unauthorized("Requires authentication".to_owned()))
    }

    /// The same, of a person: robots have nothing of their own.
    pub(super) fn user(&self) -> Result<&Account, ApiError> {
        let account = self.account()?;
        if account.kind == AccountKind::User { Ok(account) } else { Err(ApiError::Forbidden) }
    }

    /// Makes a change so, with its line in the log.
    pub(super) async fn done(&self, change: Change, what: Action<'_>) -> Result<(), ApiError> {
        change.log(&self.performer, what, now()).await?;
        Ok(change.commit().await?)
    }

    /// Nothing, for who may do this; why not, for others.
    pub(super) fn may(&self, allowed: bool) -> Result<(), ApiError> {
        if allowed {
            return Ok(());
        }
        self.account()?;
        Err(ApiError::Forbidden)
    }

    /// Who may see everything.
    pub(super) fn sees_all(&self) -> Result<(), ApiError> {
        self.may(self.caller.superuser() != Superuser::No)
    }

    /// Who may do everything.
    pub(super) fn does_all(&self) -> Result<(), ApiError> {
        self.may(self.caller.superuser() == Superuser::Full)
    }
}

impl Origin {
    /// An organisation, and what the caller may do in it.
    pub(super) async fn organization(&self, who: &Who, name: &str) -> Result<(Account, NamespaceRights), ApiError> {
        let (account, rights) = self.auth.namespace(&who.caller, name).await?;
        let organization = account.filter(|account| account.kind == AccountKind::Organization);
        Ok((organization.ok_or(ApiError::NotFound("organization"))?, rights))
    }

    /// The same, for those who administrate it.
    pub(super) async fn administrated(&self, who: &Who, name: &str) -> Result<Account, ApiError> {
        who.account()?;
        let (organization, rights) = self.organization(who, name).await?;
        who.may(rights.admin)?;
        Ok(organization)
    }

    /// What is known of a repository, and what the caller may do with it.
    pub(super) async fn about(&self, who: &Who, at: &Named) -> Result<(Facts, RepositoryRights), ApiError> {
        Ok(self.auth.repository(&who.caller, &at.whole()).await?)
    }

    /// A repository, for those who may do what is asked. Others do not learn whether it is there.
    pub(super) async fn repository_for(
        &self,
        who: &Who,
        at: &Named,
        right: impl FnOnce(RepositoryRights) -> bool,
    ) -> Result<Repository, ApiError> {
        let (facts, rights) = self.about(who, at).await?;
        // Who may read it is told that it cannot be changed now, rather than that they may not.
        who.may(right(rights))?;
        facts.repository.ok_or(ApiError::NotFound("repository"))
    }
}

/// The name of a repository in a path.
#[derive(Clone, Debug, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Named {
    /// Whose.
    #[param(example = "acme")]
    pub(super) namespace: String,
    /// What it is called there.
    #[param(example = "app")]
    pub(super) repository: String,
}

impl Named {
    /// The whole name.
    pub(super) fn whole(&self) -> String {
        format!("{}/{}", self.namespace, self.repository)
    }
}

/// PostgreSQL has no text with a zero in it, and nothing is called so.
fn no_zeros(escaped: &str) -> Result<(), ApiError> {
    if escaped.contains("%00") { Err(ApiError::invalid("a zero byte is in no name")) } else { Ok(()) }
}

/// Names from the path.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<At<T>, ApiError> {
        no_zeros(parts.uri.path())?;
        let read: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        read.map(|Path(names)| At(names)).map_err(|_| ApiError::invalid("a name in the path is not valid UTF-8"))
    }
}

/// The query.
pub(super) struct Wanted<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Wanted<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Wanted<T>, ApiError> {
        no_zeros(parts.uri.query().unwrap_or_default())?;
        let read: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        read.map(|Query(wanted)| Wanted(wanted)).map_err(|error| ApiError::invalid(in_query(&error)))
    }
}

/// Which parameter is wrong, without what the parser says around it.
fn in_query(error: &QueryRejection) -> String {
    let said = std::error::Error::source(error).map_or_else(|| error.body_text(), ToString::to_string);
    format!("the query: {}", of_parameter(&said))
}

/// The body.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Sent<T>, ApiError> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let message = "what is sent here is application/json".to_owned();
            return Err(ApiError::Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let ignored = request.extensions().get::<Ignored>().cloned();
        let bytes = Bytes::from_request(request, state).await.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::Refused(StatusCode::PAYLOAD_TOO_LARGE, error.body_text()),
            _ => ApiError::invalid(error.body_text()),
        })?;
        let zero = br"\u0000";
        if bytes.windows(zero.len()).any(|window| window == zero) {
            return Err(ApiError::invalid("a zero byte is in no text"));
        }
        read(&bytes, ignored.as_ref()).map(Sent).map_err(ApiError::invalid)
    }
}
