//! Looks out for an endpoint that stopped answering, so that no request has to.
//!
//! It asks for `/v2/`, and then asks the token service it is sent to, without which the endpoint is of no use: at first soon, then ever
//! more seldom, down to once in a cool-down. Any answer will do. There is one lookout an endpoint, started by whoever found
//! it dead, and it ends with the endpoint's return or the client's end.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use tokio::time::{Instant, sleep};

use super::endpoint::Endpoint;
use super::failure::Failure;
use super::pauses::Kind;
use super::reach::Aim;
use super::schemes::{Scheme, SchemeKey};
use super::upstream::{Asking, Line, Upstream};

/// A restart is over within moments.
const FIRST: Duration = Duration::from_millis(100);

/// Starts the lookout for an endpoint whose breaker has just opened.
pub(super) fn start(upstream: &Arc<Upstream>, index: usize) {
    let cool_down = upstream.settings.cool_down;
    let upstream = Arc::downgrade(upstream);
    tokio::spawn(async move {
        let mut pause = FIRST.min(cool_down);
        loop {
            sleep(pause).await;
            let Some(upstream) = upstream.upgrade() else { return };
            let endpoint = &upstream.endpoints[index];
            // A body that was being resumed may have found out first.
            if !endpoint.breaker.is_open() {
                return;
            }
            if answers(&upstream, endpoint).await {
                if endpoint.breaker.succeeded(Instant::now()) {
                    tracing::info!(registry = upstream.name(), host = endpoint.host(), "address answers again");
                }
                return;
            }
            pause = pause.saturating_mul(2).min(cool_down);
        }
    });
}

async fn answers(upstream: &Upstream, endpoint: &Endpoint) -> bool {
    let ask = async |url, line| {
        let asking = Asking {
            line,
            method: &Method::GET,
            target: None,
            kind: Kind::Other,
            account: None,
            aim: Aim::Other,
            patient: false,
        };
        upstream.request(endpoint, &asking, &url, &HeaderMap::new()).await
    };
    let is_dead = |failure| matches!(failure, Failure::Dead(_) | Failure::Silent(_));
    let response = match ask(endpoint.base(), Line::Api).await {
        Ok(response) => response,
        Err(failure) => return !is_dead(failure),
    };
    let lines = response.headers().get_all(WWW_AUTHENTICATE);
    let key = SchemeKey { repository: String::new(), list: false };
    match upstream.choose(endpoint, lines.iter().filter_map(|line| line.to_str().ok()), &key) {
        Ok(Scheme::Bearer { realm, .. }) => {
            let line = upstream.line_to(endpoint, &realm.url);
            !ask(realm.url.clone(), line).await.is_err_and(is_dead)
        }
        _ => true,
    }
}
