//! The token service: `GET /v2/auth` as Docker and Quay have it, the same as a form with POST, and the keys that tokens are verified by.
//!
//! A form comes whole: it was read before the request took its place (`whole`).
//!
//! Who shows nothing gets a token for what is public. Who shows something wrong gets none: a login that fails must be heard of.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use pierhead_registry::oci::{ErrorCode, Scope};
use serde::Serialize;
use url::form_urlencoded;

use super::Origin;
use super::asked::Asked;
use super::refusal::refusal;
use crate::auth::{Caller, LoginError, Shown};

/// How long those who verify tokens may keep the keys: the next one is published longer than that before it signs.
const KEYS_AGE: &str = "public, max-age=60";

/// How soon to come back when the database does not answer, or all hands are busy.
const SOON: u64 = 2;

/// The answer with a token.
#[derive(Serialize)]
struct Answer {
    token: String,
    /// The same again: clients know one name or the other.
    access_token: String,
    expires_in: u64,
    issued_at: String,
}

/// `/v2/auth`, and the keys.
pub(super) fn routes() -> Router<Arc<Origin>> {
    Router::new()
        .route("/v2/auth", get(ask).post(ask_by_form))
        .route("/keys/services/pierhead/keys", get(keys))
        .method_not_allowed_fallback(async || {
            refusal(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, "not with this method")
        })
}

async fn keys(State(origin): State<Arc<Origin>>) -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, KEYS_AGE)], origin.auth.keys().to_json()).into_response()
}

async fn ask(
    State(origin): State<Arc<Origin>>,
    Extension(asked): Extension<Arc<Asked>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let shown = Shown::read(headers.get(AUTHORIZATION));
    let query = query.unwrap_or_default();
    let scopes = values(query.as_bytes(), "scope");
    answer(&origin, &asked, &shown, &scopes).await
}

/// As OAuth 2 has it (RFC 6749, section 4.3), for clients that try this first.
async fn ask_by_form(
    State(origin): State<Arc<Origin>>,
    Extension(asked): Extension<Arc<Asked>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match shown(&body, &headers) {
        Ok(shown) => answer(&origin, &asked, &shown, &values(&body, "scope")).await,
        Err(message) => refusal(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message),
    }
}

/// What a form shows of who sends it. One that was meant as a login and is none is refused: a token for nobody would look like success.
fn shown(form: &[u8], headers: &HeaderMap) -> Result<Shown, &'static str> {
    let one = |name| values(form, name).into_iter().next().unwrap_or_default();
    let (username, password) = (one("username"), one("password"));
    match one("grant_type").as_str() {
        "password" if username.is_empty() => Err("grant_type=password needs a username"),
        "password" => Ok(Shown::account(&username, &password)),
        // Some send the form of one and the header of the other.
        "" if username.is_empty() && password.is_empty() => Ok(Shown::read(headers.get(AUTHORIZATION))),
        "" => Err("a username and password need grant_type=password"),
        _ => Err("only grant_type=password is known here"),
    }
}

fn values(form: &[u8], name: &str) -> Vec<String> {
    form_urlencoded::parse(form).filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}

async fn answer(origin: &Origin, asked: &Asked, shown: &Shown, scopes: &[String]) -> Response {
    let scopes = match Scope::parse_all(scopes.iter().map(String::as_str), origin.auth.service()) {
        Ok(scopes) => scopes,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid, &error.to_string()),
    };
    match token(origin, asked, shown, &scopes).await {
        Ok(answer) => {
            let body = serde_json::to_vec(&answer).unwrap_or_default();
            ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
        }
        Err(error) => refused(&error, origin.auth.service()),
    }
}

async fn token(origin: &Origin, asked: &Asked, shown: &Shown, scopes: &[Scope]) -> Result<Answer, LoginError> {
    let caller = login(origin, asked, shown).await?;
    if caller.account().is_none() && !origin.live().auth.anonymous_pulls {
        return Err(LoginError::Wrong);
    }
    let issued = origin.auth.issue(&caller, scopes).await?;
    Ok(Answer {
        access_token: issued.token.clone(),
        token: issued.token,
        expires_in: issued.expires_in.as_secs(),
        issued_at: humantime::format_rfc3339_seconds(issued.issued_at).to_string(),
    })
}

/// Finds out who shows this, and counts it.
pub(super) async fn login(origin: &Origin, asked: &Asked, shown: &Shown) -> Result<Caller, LoginError> {
    let outcome = origin.auth.login(shown, asked.peer).await;
    if *shown != Shown::Nothing {
        origin.metrics.authentication(shown.kind(), outcome.is_ok());
    }
    match &outcome {
        Ok(caller) => caller.name().into_iter().for_each(|name| asked.is_by(name)),
        Err(LoginError::Meta(_) | LoginError::Broken(_)) => {}
        Err(LoginError::Busy) => origin.metrics.gate("password").refused("queue_full"),
        // The name is left out: what is typed as a name may be a password.
        Err(error) => tracing::info!(client = %asked.peer, kind = shown.kind(), %error, "login refused"),
    }
    outcome
}

fn refused(error: &LoginError, service: &str) -> Response {
    let (status, code) = match error {
        LoginError::Wrong | LoginError::Disabled => (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized),
        LoginError::Limited(_) => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests),
        LoginError::TooMuch => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
        LoginError::Busy | LoginError::Meta(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
        LoginError::Broken(_) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unavailable),
    };
    let message = match error {
        LoginError::Meta(error) => {
            tracing::warn!(%error, "a login could not be checked");
            "the database is not available".to_owned()
        }
        LoginError::Broken(error) => {
            tracing::error!(error, "a login could not be checked");
            "internal error".to_owned()
        }
        other => other.to_string(),
    };
    let mut response = refusal(status, code, &message);
    let headers = response.headers_mut();
    match error {
        LoginError::Wrong | LoginError::Disabled => {
            if let Ok(challenge) = HeaderValue::from_str(&format!("Basic realm=\"{service}\"")) {
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
        }
        LoginError::TooMuch => {}
        LoginError::Limited(_) | LoginError::Busy | LoginError::Meta(_) | LoginError::Broken(_) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after(error)));
        }
    }
    response
}

/// When to come back, in seconds.
pub(super) fn retry_after(error: &LoginError) -> u64 {
    match error {
        LoginError::Limited(wait) => wait.as_secs() + 1,
        _ => SOON,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_that_is_none_is_not_taken_for_nobody() {
        let basic = HeaderValue::from_static("Basic YW5uOng=");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, basic)]);
        let (ann, nothing) = (Shown::account("ann", "x"), HeaderMap::new());
        for (form, headers, expected) in [
            ("grant_type=password&username=ann&password=x", &nothing, Some(ann.clone())),
            ("scope=repository:a/b:pull", &nothing, Some(Shown::Nothing)),
            ("scope=repository:a/b:pull", &headers, Some(ann)),
            ("username=ann&password=x", &nothing, None),
            ("username=ann", &nothing, None),
            ("password=x", &nothing, None),
            ("grant_type=password", &nothing, None),
            ("grant_type=password&password=x", &headers, None),
            ("grant_type=refresh_token&refresh_token=x", &nothing, None),
        ] {
            assert_eq!(shown(form.as_bytes(), headers).ok(), expected, "{form}");
        }
    }
}
