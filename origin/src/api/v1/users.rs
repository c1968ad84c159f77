//! The caller, other users as anybody may know them, and what the caller starred.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::{ApiError, Failures};
use super::extract::{At, Named, Sent, Who};
use super::organizations::EMAIL_LIMIT;
use crate::api::Origin;
use crate::auth::Shown;
use crate::meta::{AccountEdit, AccountKind, Action, Superuser, TeamRole, now};
use crate::text::line;
use pierhead_config::Secret;

/// The caller.
#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    anonymous: bool,
    username: String,
    email: Option<String>,
    verified: bool,
    is_me: bool,
    can_create_repo: bool,
    super_user: bool,
    global_readonly_super_user: bool,
    tag_expiration_s: u64,
    organizations: Vec<MyOrganization>,
}

/// An organisation that the caller is in.
#[derive(Serialize, ToSchema)]
pub(super) struct MyOrganization {
    name: String,
    can_create_repo: bool,
    is_org_admin: bool,
    public: bool,
}

/// A user as anybody may know it.
#[derive(Serialize, ToSchema)]
pub(super) struct UserBrief {
    anonymous: bool,
    username: String,
    is_robot: bool,
}

/// What changes of the caller.
#[derive(Deserialize, ToSchema)]
pub(super) struct MyEdit {
    /// For people to write to.
    email: Option<String>,
    /// Another password.
    #[schema(min_length = 8, max_length = 1024, format = Password)]
    password: Option<String>,
    /// With `password`: the one before.
    #[schema(format = Password)]
    current_password: Option<String>,
}

/// A repository to star.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewStar {
    #[schema(example = "acme")]
    namespace: String,
    #[schema(example = "app")]
    repository: String,
}

/// A repository that was starred.
#[derive(Serialize, ToSchema)]
pub(super) struct Star {
    namespace: String,
    repository: String,
}

/// The caller.
#[utoipa::path(get, path = "/api/v1/user", operation_id = "getLoggedInUser", tag = "user",
    responses((status = 200, body = Me), Failures))]
pub(super) async fn me(State(origin): State<Arc<Origin>>, who: Who) -> Result<Json<Me>, ApiError> {
    Ok(Json(view(&origin, &who).await?))
}

async fn view(origin: &Origin, who: &Who) -> Result<Me, ApiError> {
    let id = who.account()?.id;
    let account = origin.meta.account_by_id(id).await?.ok_or(ApiError::NotFound("user"))?;
    let organizations = origin.meta.organizations_of(account.id).await?;
    let organizations = organizations.into_iter().map(|(organization, role)| MyOrganization {
        name: organization.name,
        can_create_repo: role >= TeamRole::Creator,
        is_org_admin: role == TeamRole::Admin,
        public: false,
    });
    let is_user = account.kind == AccountKind::User;
    Ok(Me {
        anonymous: false,
        username: account.name,
        email: account.email,
        verified: true,
        is_me: true,
        can_create_repo: is_user,
        super_user: is_user && account.superuser == Superuser::Full,
        global_readonly_super_user: is_user && account.superuser == Superuser::ReadOnly,
        tag_expiration_s: origin.live().tag_expiration.as_secs(),
        organizations: organizations.collect(),
    })
}

/// Change the caller's address or password.
#[utoipa::path(put, path = "/api/v1/user", operation_id = "changeUserDetails", tag = "user",
    request_body = MyEdit, responses((status = 200, body = Me), Failures))]
pub(super) async fn edit(
    State(origin): State<Arc<Origin>>,
    axum::extract::Extension(asked): axum::extract::Extension<Arc<crate::api::asked::Asked>>,
    who: Who,
    Sent(sent): Sent<MyEdit>,
) -> Result<Json<Me>, ApiError> {
    let account = who.user()?;
    let mut edit = AccountEdit::default();
    let mut kinds = Vec::new();
    if let Some(password) = sent.password {
        // What a client remembered must not be enough to keep its owner out.
        let before = sent.current_password.ok_or_else(|| ApiError::invalid("current_password is needed"))?;
        let again = origin.auth.login(&Shown::account(&account.name, &before), asked.peer).await?;
        who.may(again.id() == Some(account.id))?;
        edit.password = Some(origin.auth.hash_password(Secret::new(password)).await?);
        kinds.push("account_change_password");
    }
    if let Some(email) = sent.email {
        edit.email = Some(Some(line(email, EMAIL_LIMIT)?));
        kinds.push("account_change_email");
    }
    if !kinds.is_empty() {
        let change = origin.meta.change().await?;
        change.edit_account(account.id, edit).await?;
        for kind in kinds {
            let log = Action::in_namespace(kind, &account.name, json!({}));
            change.log(&who.performer, log, now()).await?;
        }
        change.commit().await?;
    }
    Ok(Json(view(&origin, &who).await?))
}

/// A user, for those who are logged in. A robot is its owner's business.
#[utoipa::path(get, path = "/api/v1/users/{username}", operation_id = "getUserInformation", tag = "user",
    params(("username" = String, Path, example = "ann")), responses((status = 200, body = UserBrief), Failures))]
pub(super) async fn show(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(username): At<String>,
) -> Result<Json<UserBrief>, ApiError> {
    who.account()?;
    let found = origin.meta.account(&username).await?.filter(|account| account.kind == AccountKind::User);
    let account = found.ok_or(ApiError::NotFound("user"))?;
    Ok(Json(UserBrief { anonymous: false, username: account.name, is_robot: false }))
}

/// Star a repository.
#[utoipa::path(post, path = "/api/v1/user/starred", operation_id = "createStar", tag = "user",
    request_body = NewStar, responses((status = 201, body = Star), Failures))]
pub(super) async fn star(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Sent(new): Sent<NewStar>,
) -> Result<(StatusCode, Json<Star>), ApiError> {
    let at = Named { namespace: new.namespace, repository: new.repository };
    starring(&origin, &who, &at, true).await?;
    Ok((StatusCode::CREATED, Json(Star { namespace: at.namespace, repository: at.repository })))
}

/// Star a repository no more.
#[utoipa::path(delete, path = "/api/v1/user/starred/{namespace}/{repository}", operation_id = "deleteStar", tag = "user",
    params(Named), responses((status = 204), Failures))]
pub(super) async fn unstar(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
) -> Result<StatusCode, ApiError> {
    starring(&origin, &who, &at, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn starring(origin: &Origin, who: &Who, at: &Named, starred: bool) -> Result<(), ApiError> {
    let account = who.user()?;
    let repository = origin.repository_for(who, at, |rights| rights.pull).await?;
    let change = origin.meta.change().await?;
    change.star(account.id, repository.id, starred).await?;
    change.commit().await?;
    Ok(())
}
