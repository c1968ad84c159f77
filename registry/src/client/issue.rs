//! Having a token service issue a token, and finding out what its refusal means.
//!
//! Redirects are followed within the realm's origin only: elsewhere they would lead past the pinned realm. A refusal of
//! the configured account is a failure of this client, and a refusal of one scope to an account that works is an answer:
//! a login without a scope tells them apart.

use std::sync::Arc;
use std::time::Instant;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::endpoint::Endpoint;
use super::exchange::basic;
use super::failure::{Failure, host_of};
use super::pauses::Kind;
use super::reach::Aim;
use super::target::{Target, redirect};
use super::token::{ANSWER_LIMIT, Token, TokenKey};
use super::upstream::{Asking, Line, Upstream};

/// Most redirects of a token service.
const REDIRECTS: usize = 5;

impl Upstream {
    /// Has the token service issue a token.
    pub(super) async fn issue(self: &Arc<Self>, index: usize, key: &TokenKey) -> Result<Token, Failure> {
        let endpoint = &self.endpoints[index];
        let login = &endpoint.login;
        let now = tokio::time::Instant::now;
        // While it is open whether the account works, one tries it, and the others learn from that.
        let _turn = if key.own && !login.is_proven(now()) { Some(login.trying.lock().await) } else { None };
        if key.own {
            login.admit(now())?;
        }
        let host = host_of(&key.realm.url);
        let received = Instant::now();
        let response = self.ask_token_service(endpoint, key, Some(&key.scope)).await?;
        let status = response.status();
        match status.as_u16() {
            200 => {
                let token = Token::parse(&self.read(response, ANSWER_LIMIT).await?, received);
                if key.own {
                    login.worked(now());
                }
                token.map_err(|failure| failure.at(&host, Some(200)))
            }
            401 if key.own => Err(login.refused(&host, 401, now())),
            401 => Err(Failure::Unauthorized),
            403 if !key.own => Err(Failure::Forbidden),
            // Either of what was asked for, or of the account, or of the service itself.
            400 | 403 | 404 if key.own && login.is_proven(now()) => Err(refusal(status)),
            400 | 403 | 404 => {
                let response = self.ask_token_service(endpoint, key, None).await?;
                match response.status().as_u16() {
                    200 if key.own => {
                        login.worked(now());
                        Err(refusal(status))
                    }
                    200 => Err(refusal(status)),
                    status @ (401 | 403) if key.own => Err(login.refused(&host, status, now())),
                    401 | 403 => Err(refusal(status)),
                    _ => Err(useless(status, &host)),
                }
            }
            _ => Err(useless(status, &host)),
        }
    }

    /// Asks for a token, for `scope` or for none.
    async fn ask_token_service(
        &self,
        endpoint: &Endpoint,
        key: &TokenKey,
        scope: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut url = key.realm.url.clone();
        if key.realm.service.is_some() || scope.is_some() {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.realm.service {
                query.append_pair("service", service);
            }
            if let Some(scope) = scope {
                // Several are sent one by one, as Go's clients do.
                query.extend_pairs(scope.split(' ').map(|scope| ("scope", scope)));
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(account) = &key.account {
            headers.insert(AUTHORIZATION, basic(account)?);
        }
        let mut visited = vec![Target::from(url)];
        loop {
            let Some(Target { url, exact }) = visited.last() else { return Err(Failure::invalid("no token service")) };
            let line = self.line_to(endpoint, url);
            let (method, target, patient) = (&Method::GET, exact.as_ref(), endpoint.last);
            let asking = Asking { line, method, target, kind: Kind::Token, aim: Aim::Other, patient };
            let response = self.request(endpoint, &asking, url, &headers).await?;
            let at = |failure: Failure| failure.at(&host_of(url), Some(response.status().as_u16()));
            let Some(target) = redirect(&response, url, &key.realm.url).map_err(at)? else { return Ok(response) };
            if target.url.origin() != key.realm.url.origin() {
                let why = format!("the token service redirects to another origin, {}", host_of(&target.url));
                return Err(at(Failure::invalid(why)));
            }
            if visited.contains(&target) || visited.len() > REDIRECTS {
                return Err(at(Failure::invalid("the token service redirects without end")));
            }
            visited.push(target);
        }
    }

    /// Which way to a token service: that of the endpoint where it is the endpoint's or named by the configuration, and
    /// otherwise the one on which addresses are judged.
    pub(super) fn line_to(&self, endpoint: &Endpoint, url: &Url) -> Line {
        let listed = || self.settings.realms.iter().any(|entry| super::realm::is_listed(entry, url));
        if endpoint.is_foreign(url) && !listed() { Line::Foreign } else { Line::Api }
    }
}

/// A token service's no to one scope.
fn refusal(status: StatusCode) -> Failure {
    if status == StatusCode::FORBIDDEN { Failure::Forbidden } else { Failure::Unauthorized }
}

/// A token service that cannot be used.
fn useless(status: StatusCode, host: &str) -> Failure {
    let why = format!("the token service answered {}", status.as_u16());
    let failure = if status.is_server_error() { Failure::broken(why) } else { Failure::invalid(why) };
    failure.at(host, Some(status.as_u16()))
}
