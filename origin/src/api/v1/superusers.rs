//! For superusers: all users and organisations; making users, disabling them, taking them away.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use pierhead_config::Secret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Failures};
use super::extract::{At, Sent, Wanted, Who};
use super::organizations::{EMAIL_LIMIT, remove};
use super::page::{PAGE, after, cut, flag, token};
use super::repositories::Usage;
use crate::api::Origin;
use crate::auth::{Name, password};
use crate::meta::{Account, AccountEdit, AccountKind, Action, MetaError, NewAccount, Superuser, now};
use crate::text::line;

/// Which accounts to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AccountQuery {
    /// Those too that are disabled.
    #[serde(default = "yes", deserialize_with = "flag")]
    disabled: bool,
    /// Where to go on.
    next_page: Option<String>,
}

fn yes() -> bool {
    true
}

/// Users by name.
#[derive(Serialize, ToSchema)]
pub(super) struct UserList {
    users: Vec<UserView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page: Option<String>,
}

/// A user, as superusers see it.
#[derive(Serialize, ToSchema)]
pub(super) struct UserView {
    kind: &'static str,
    name: String,
    username: String,
    email: Option<String>,
    verified: bool,
    super_user: bool,
    global_readonly_super_user: bool,
    enabled: bool,
}

impl UserView {
    fn of(account: Account) -> UserView {
        UserView {
            kind: "user",
            username: account.name.clone(),
            name: account.name,
            email: account.email,
            verified: true,
            super_user: account.superuser == Superuser::Full,
            global_readonly_super_user: account.superuser == Superuser::ReadOnly,
            enabled: account.enabled,
        }
    }
}

/// A user that is to be.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewUser {
    #[schema(min_length = 2, max_length = 255, example = "ann")]
    username: String,
    email: Option<String>,
    /// One is made when absent.
    #[schema(min_length = 8, max_length = 1024, format = Password)]
    password: Option<String>,
}

/// A user that was made.
#[derive(Serialize, ToSchema)]
pub(super) struct MadeUser {
    username: String,
    email: Option<String>,
    /// Only when it was made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// What changes of a user.
#[derive(Deserialize, ToSchema)]
pub(super) struct UserEdit {
    #[schema(min_length = 8, max_length = 1024, format = Password)]
    password: Option<String>,
    email: Option<String>,
    enabled: Option<bool>,
}

/// Organisations by name.
#[derive(Serialize, ToSchema)]
pub(super) struct OrganizationList {
    organizations: Vec<OrganizationBrief>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page: Option<String>,
}

/// An organisation, as superusers see it.
#[derive(Serialize, ToSchema)]
pub(super) struct OrganizationBrief {
    name: String,
    email: Option<String>,
    quota_report: Usage,
}

fn about<'a>(kind: &'static str, account: &'a str) -> Action<'a> {
    Action::in_namespace(kind, account, json!({ "username": account }))
}

async fn page(
    origin: &Origin,
    kind: AccountKind,
    query: &AccountQuery,
) -> Result<(Vec<Account>, Option<String>), ApiError> {
    let place = after(query.next_page.as_deref())?;
    let enabled = if query.disabled { None } else { Some(true) };
    let rows = origin.meta.accounts(kind, enabled, Some(&place), u64::from(PAGE) + 1).await?;
    let (rows, more) = cut(rows, PAGE as usize);
    let next_page = rows.last().filter(|_| more).map(|row| token(&row.name));
    Ok((rows, next_page))
}

/// All users.
#[utoipa::path(get, path = "/api/v1/superuser/users", operation_id = "listAllUsers", tag = "superuser",
    params(AccountQuery), responses((status = 200, body = UserList), Failures))]
pub(super) async fn users(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<AccountQuery>,
) -> Result<Json<UserList>, ApiError> {
    who.sees_all()?;
    let (rows, next_page) = page(&origin, AccountKind::User, &query).await?;
    Ok(Json(UserList { users: rows.into_iter().map(UserView::of).collect(), next_page }))
}

/// Make a user.
#[utoipa::path(post, path = "/api/v1/superuser/users", operation_id = "createInstallUser", tag = "superuser",
    request_body = NewUser, responses((status = 200, body = MadeUser), Failures))]
pub(super) async fn create_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Sent(new): Sent<NewUser>,
) -> Result<Json<MadeUser>, ApiError> {
    who.does_all()?;
    let name = Name::of_new_account(&new.username)?;
    let email = new.email.map(|email| line(email, EMAIL_LIMIT)).transpose()?;
    let (password, made) = match new.password {
        Some(given) => (Secret::new(given), None),
        None => {
            let made = password();
            (made.clone(), Some(made.reveal().to_owned()))
        }
    };
    let hash = origin.auth.hash_password(password).await?;
    let account =
        NewAccount { email: email.clone(), password: Some(hash), ..NewAccount::new(name.as_str(), AccountKind::User) };
    let change = origin.meta.change().await?;
    change.create_account(account, now()).await.map_err(|error| match error {
        MetaError::Exists => ApiError::invalid("The username already exists"),
        other => other.into(),
    })?;
    who.done(change, about("user_create", name.as_str())).await?;
    Ok(Json(MadeUser { username: name.to_string(), email, password: made }))
}

async fn find(origin: &Origin, name: &str, kind: AccountKind) -> Result<Account, ApiError> {
    let found = origin.meta.account(name).await?.filter(|account| account.kind == kind);
    found.ok_or(ApiError::NotFound(if kind == AccountKind::User { "user" } else { "organization" }))
}

/// A user.
#[utoipa::path(get, path = "/api/v1/superuser/users/{username}", operation_id = "getInstallUser", tag = "superuser",
    params(("username" = String, Path, example = "ann")), responses((status = 200, body = UserView), Failures))]
pub(super) async fn user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(name): At<String>,
) -> Result<Json<UserView>, ApiError> {
    who.sees_all()?;
    Ok(Json(UserView::of(find(&origin, &name, AccountKind::User).await?)))
}

/// Change a user. Superusers are changed from the command line.
#[utoipa::path(put, path = "/api/v1/superuser/users/{username}", operation_id = "changeInstallUser", tag = "superuser",
    params(("username" = String, Path, example = "ann")), request_body = UserEdit, responses((status = 200, body = UserView), Failures))]
pub(super) async fn edit_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(name): At<String>,
    Sent(sent): Sent<UserEdit>,
) -> Result<Json<UserView>, ApiError> {
    who.does_all()?;
    let account = changeable(&origin, &name).await?;
    let mut edit = AccountEdit { enabled: sent.enabled, ..AccountEdit::default() };
    let mut kinds = Vec::new();
    if let Some(enabled) = sent.enabled {
        kinds.push(if enabled { "user_enable" } else { "user_disable" });
    }
    if let Some(password) = sent.password {
        edit.password = Some(origin.auth.hash_password(Secret::new(password)).await?);
        kinds.push("user_change_password");
    }
    if let Some(email) = sent.email {
        edit.email = Some(Some(line(email, EMAIL_LIMIT)?));
        kinds.push("user_change_email");
    }
    if !kinds.is_empty() {
        let change = origin.meta.change().await?;
        change.edit_account(account.id, edit).await?;
        for kind in kinds {
            change.log(&who.performer, about(kind, &name), now()).await?;
        }
        change.commit().await?;
    }
    Ok(Json(UserView::of(find(&origin, &name, AccountKind::User).await?)))
}

/// A user who is no superuser. Those are for the command line, so that nobody shuts the last door behind them.
async fn changeable(origin: &Origin, name: &str) -> Result<Account, ApiError> {
    let account = find(origin, name, AccountKind::User).await?;
    if account.superuser == Superuser::Full { Err(ApiError::Forbidden) } else { Ok(account) }
}

/// Take a user away, with all repositories and robots of the user.
#[utoipa::path(delete, path = "/api/v1/superuser/users/{username}", operation_id = "deleteInstallUser", tag = "superuser",
    params(("username" = String, Path, example = "ann")), responses((status = 204), Failures))]
pub(super) async fn delete_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(name): At<String>,
) -> Result<StatusCode, ApiError> {
    who.does_all()?;
    let account = changeable(&origin, &name).await?;
    remove(&origin, &who, &account, "user_delete").await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All organisations, with what they hold.
#[utoipa::path(get, path = "/api/v1/superuser/organizations", operation_id = "listAllOrganizations", tag = "superuser",
    params(AccountQuery), responses((status = 200, body = OrganizationList), Failures))]
pub(super) async fn organizations(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<AccountQuery>,
) -> Result<Json<OrganizationList>, ApiError> {
    who.sees_all()?;
    let (rows, next_page) = page(&origin, AccountKind::Organization, &query).await?;
    let mut organizations = Vec::with_capacity(rows.len());
    for row in rows {
        let quota_report = Usage::of(origin.meta.namespace_size(row.id).await?);
        organizations.push(OrganizationBrief { name: row.name, email: row.email, quota_report });
    }
    Ok(Json(OrganizationList { organizations, next_page }))
}

/// Take an organisation away, with all its repositories.
#[utoipa::path(delete, path = "/api/v1/superuser/organizations/{name}", operation_id = "deleteOrganization", tag = "superuser",
    params(("name" = String, Path, example = "acme")), responses((status = 204), Failures))]
pub(super) async fn delete_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(name): At<String>,
) -> Result<StatusCode, ApiError> {
    who.does_all()?;
    let organization = find(&origin, &name, AccountKind::Organization).await?;
    remove(&origin, &who, &organization, "org_delete").await?;
    Ok(StatusCode::NO_CONTENT)
}
