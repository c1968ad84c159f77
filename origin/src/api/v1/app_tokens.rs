//! Application tokens of the caller: what to log in with where a password would be too much. Shown when made and never again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Failures};
use super::extract::{At, Sent, Wanted, Who};
use super::page::{DAY, LAST, date, flag};
use crate::api::Origin;
use crate::auth::{TokenScope, TokenScopes, hash, token, uuid};
use crate::meta::{Account, Action, AppToken, Millis, NewAppToken, Superuser, now};
use crate::text::line;

/// Longest title.
const TITLE_LIMIT: usize = 255;
/// Most tokens of a user.
const TOKENS: u64 = 1000;
/// What expires within this time expires soon.
const SOON: Millis = 7 * DAY;

/// A token that is to be.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewToken {
    /// What it is for.
    title: String,
    /// Seconds since the epoch; for ever when absent.
    expiration: Option<i64>,
    /// What it may do: Quay's scopes, separated by spaces or commas. Without scopes it reads what its user may read, and changes
    /// repositories.
    #[serde(alias = "scope")]
    #[schema(example = "repo:write repo:create")]
    scopes: Option<String>,
}

/// Which tokens to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TokenQuery {
    /// Only those that expire within a week.
    #[serde(default, deserialize_with = "flag")]
    expiring: bool,
}

/// Tokens.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenList {
    tokens: Vec<TokenView>,
    only_expiring: bool,
}

/// One token.
#[derive(Serialize, ToSchema)]
pub(super) struct OneToken {
    token: TokenView,
}

/// A token.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenView {
    uuid: String,
    title: String,
    created: String,
    last_accessed: Option<String>,
    expiration: Option<String>,
    /// What it may do, separated by spaces; absent for a token without scopes.
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<String>,
    /// Only when it was made just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_code: Option<String>,
}

impl TokenView {
    fn of(token: AppToken, token_code: Option<String>) -> TokenView {
        TokenView {
            uuid: token.uuid,
            title: token.title,
            created: date(token.created),
            last_accessed: token.last_accessed.map(date),
            expiration: token.expires.map(date),
            scopes: token.scopes,
            token_code,
        }
    }
}

fn about<'a>(kind: &'static str, account: &'a Account, title: &str) -> Action<'a> {
    Action::in_namespace(kind, &account.name, json!({ "app_specific_token_title": title }))
}

/// The caller's tokens.
#[utoipa::path(get, path = "/api/v1/user/apptoken", operation_id = "listAppTokens", tag = "appspecifictokens",
    params(TokenQuery), responses((status = 200, body = TokenList), Failures))]
pub(super) async fn list(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<TokenQuery>,
) -> Result<Json<TokenList>, ApiError> {
    let before = query.expiring.then(|| now() + SOON);
    let tokens = origin.meta.app_tokens(who.user()?.id, before, TOKENS).await?;
    let tokens = tokens.into_iter().map(|token| TokenView::of(token, None)).collect();
    Ok(Json(TokenList { tokens, only_expiring: query.expiring }))
}

/// Make a token. The answer is the only one with it.
#[utoipa::path(post, path = "/api/v1/user/apptoken", operation_id = "createAppToken", tag = "appspecifictokens",
    request_body = NewToken, responses((status = 200, body = OneToken), Failures))]
pub(super) async fn create(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Sent(new): Sent<NewToken>,
) -> Result<Json<OneToken>, ApiError> {
    let account = who.user()?;
    let title = line(new.title, TITLE_LIMIT)?;
    let expires = match new.expiration {
        Some(seconds) if (1..=LAST).contains(&seconds) => Some(seconds * 1000),
        Some(_) => return Err(ApiError::invalid("expiration is in seconds since the epoch")),
        None => None,
    };
    let scopes: Option<TokenScopes> = new.scopes.as_deref().map(str::parse).transpose()?;
    if scopes.is_some_and(|scopes| scopes.has(TokenScope::SuperUser)) && account.superuser == Superuser::No {
        return Err(ApiError::invalid("only superusers make tokens with the scope super:user"));
    }
    if origin.meta.app_tokens(account.id, None, TOKENS).await?.len() as u64 >= TOKENS {
        return Err(ApiError::invalid("there are too many tokens; delete some first"));
    }
    let secret = token();
    let scopes = scopes.map(|scopes| scopes.to_string());
    let row = NewAppToken { uuid: uuid(), account: account.id, title, hash: hash(&secret), expires, scopes };
    let change = origin.meta.change().await?;
    let made = change.create_app_token(row, now()).await?;
    who.done(change, about("create_app_specific_token", account, &made.title)).await?;
    Ok(Json(OneToken { token: TokenView::of(made, Some(secret.reveal().to_owned())) }))
}

async fn find(origin: &Origin, account: &Account, uuid: &str) -> Result<AppToken, ApiError> {
    origin.meta.app_token(account.id, uuid).await?.ok_or(ApiError::NotFound("token"))
}

/// A token of the caller.
#[utoipa::path(get, path = "/api/v1/user/apptoken/{token_uuid}", operation_id = "getAppToken", tag = "appspecifictokens",
    params(("token_uuid" = String, Path)), responses((status = 200, body = OneToken), Failures))]
pub(super) async fn show(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(uuid): At<String>,
) -> Result<Json<OneToken>, ApiError> {
    let found = find(&origin, who.user()?, &uuid).await?;
    Ok(Json(OneToken { token: TokenView::of(found, None) }))
}

/// Revoke a token.
#[utoipa::path(delete, path = "/api/v1/user/apptoken/{token_uuid}", operation_id = "revokeAppToken", tag = "appspecifictokens",
    params(("token_uuid" = String, Path)), responses((status = 204), Failures))]
pub(super) async fn revoke(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(uuid): At<String>,
) -> Result<StatusCode, ApiError> {
    let account = who.user()?;
    let found = find(&origin, account, &uuid).await?;
    let change = origin.meta.change().await?;
    if !change.delete_app_token(found.id).await? {
        return Err(ApiError::NotFound("token"));
    }
    who.done(change, about("revoke_app_specific_token", account, &found.title)).await?;
    Ok(StatusCode::NO_CONTENT)
}
