//! Having a token service issue a token, and finding out what its refusal means.
//!
//! Redirects are followed within the realm's origin only: elsewhere they would lead past the pinned realm. A refusal of
//! the configured account is a failure of this client, and a refusal of one scope to an account that works is an answer:
//! a login without a scope tells them apart, or any other login that worked after the refused request was sent.
//!
//! Costs: a refused scope costs two requests where one would do to hear the refusal. Scopes that are refused at the same time share the
//! login without a scope.

use std::sync::Arc;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::Account;
use super::base::basic;
use super::endpoint::Endpoint;
use super::exchange::Cause;
use super::failure::{Failure, host_of};
use super::login::Since;
use super::pauses::Kind;
use super::reach::Aim;
use super::realm;
use super::send::REDIRECTS;
use super::target::{Target, redirect};
use super::token::{ANSWER_LIMIT, Token, TokenKey};
use super::upstream::{Asking, Line, Upstream, hash, sent_at};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Upstream {
    /// Has the token service issue a token.
    ///
    /// `cause` has the address of the client whose account it is. The origin that we are the front of is told, so that it slows down
    /// whoever guesses passwords, and nobody else.
    pub(super) async fn issue(self: &Arc<Self>, index: usize, key: &TokenKey, cause: &Cause) -> Result<Token, Failure> {
        let endpoint = &self.endpoints[index];
        let login = &endpoint.login;
        let own = key.account.as_deref().filter(|_| key.own);
        let mut turn = None;
        if own.is_some() {
            login.check(Instant::now())?;
            // While it is open whether the account works, one tries it, and the others learn from that.
            turn = login.turn_unless_proven().await;
            login.admit(Instant::now())?;
        }
        let host = host_of(&key.realm.url);
        let received = std::time::Instant::now();
        let response = self.ask_token_service(endpoint, key, Some(&key.scope), cause).await?;
        let (status, sent) = (response.status(), sent_at(&response));
        match (status.as_u16(), own) {
            (200..=299, _) => {
                let token = Token::parse(&self.read(response, ANSWER_LIMIT).await?, received);
                if let Some(account) = own {
                    login.worked(account, sent);
                }
                token.map_err(|failure| failure.at(&host, Some(status.as_u16())))
            }
            // Either of what was asked for, or of the account, or of the service itself.
            (400 | 401 | 403 | 404, Some(account)) => {
                drop(response);
                let _turn = match turn {
                    None => login.turn().await,
                    turn => turn,
                };
                Err(self.scope_refused(endpoint, key, account, status, sent, cause).await)
            }
            (401 | 403, None) => Err(refusal(status)),
            (400 | 404, None) => match self.ask_token_service(endpoint, key, None, cause).await?.status().as_u16() {
                200..=299 | 401 | 403 => Err(refusal(status)),
                _ => Err(useless(status, &host)),
            },
            _ => Err(useless(status, &host)),
        }
    }

    /// What it means that the endpoint's own account was refused a scope with `status`, in answer to a request from `sent`: whether
    /// the account itself is refused.
    async fn scope_refused(
        &self,
        endpoint: &Endpoint,
        key: &TokenKey,
        account: &Account,
        status: StatusCode,
        sent: Instant,
        cause: &Cause,
    ) -> Failure {
        let (login, host) = (&endpoint.login, host_of(&key.realm.url));
        match login.since(account, sent) {
            Since::Worked => return refusal(status),
            Since::Refused(failure) => return failure,
            Since::Unknown => {}
        }
        let response = match self.ask_token_service(endpoint, key, None, cause).await {
            Ok(response) => response,
            Err(failure) => return failure,
        };
        let (bare, bare_sent) = (response.status(), sent_at(&response));
        match bare.as_u16() {
            200..=299 => {
                login.worked(account, bare_sent);
                refusal(status)
            }
            401 | 403 => login.refused(account, &host, bare.as_u16(), bare_sent, Instant::now()),
            500..=599 => useless(bare, &host),
            // Some services want a scope: this login says nothing, and one of the last minute must do. One that answers with 400 or
            // 404 whether there is a scope or not says nothing at all.
            _ if matches!(status.as_u16(), 401 | 403) && login.is_proven(Instant::now()) => refusal(status),
            _ if status == StatusCode::UNAUTHORIZED => login.refused(account, &host, 401, sent, Instant::now()),
            _ => useless(status, &host),
        }
    }

    /// Asks for a token, for `scope` or for none.
    async fn ask_token_service(
        &self,
        endpoint: &Endpoint,
        key: &TokenKey,
        scope: Option<&str>,
        cause: &Cause,
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
        cause.trail.write(&mut headers);
        if let Some(account) = &key.account {
            headers.insert(AUTHORIZATION, basic(account)?);
        }
        if let Some(address) = cause.address.filter(|_| !key.own && endpoint.carrier(&url).is_some()) {
            headers.insert(FORWARDED_FOR, HeaderValue::try_from(address.to_string()).map_err(Failure::invalid)?);
        }
        let account = key.account.as_ref().filter(|_| !key.own).map(hash);
        let mut visited = vec![Target::from(url)];
        loop {
            let Some(Target { url, exact }) = visited.last() else { return Err(Failure::invalid("no token service")) };
            let line = self.line_to(endpoint, url);
            let (method, target, patient) = (&Method::GET, exact.as_ref(), endpoint.last);
            let asking = Asking { line, method, target, kind: Kind::Token, account, aim: Aim::Other, patient };
            let response = self.request(endpoint, &asking, url, &headers).await?;
            let at = |failure: Failure| failure.at(&host_of(url), Some(response.status().as_u16()));
            let Some(target) = redirect(&response, url, &key.realm.url).map_err(at)? else { return Ok(response) };
            if target.url.origin() != key.realm.url.origin() && !self.may_move(endpoint, &target.url) {
                let why = format!(
                    "the token service redirects to another origin, {}; where that is meant, name it in realms",
                    host_of(&target.url)
                );
                return Err(at(Failure::invalid(why)));
            }
            if visited.contains(&target) || visited.len() > REDIRECTS {
                return Err(at(Failure::invalid("the token service redirects without end")));
            }
            visited.push(target);
        }
    }

    /// Whether a token service may redirect there: where a challenge could have named it as well.
    fn may_move(&self, endpoint: &Endpoint, to: &Url) -> bool {
        realm::pin(&endpoint.url, to.as_str(), &self.settings.realms, |url| endpoint.carrier(url).is_some()).is_ok()
    }

    /// Which way to a token service: that of the endpoint where it is the endpoint's or named by the configuration, and
    /// otherwise the one on which addresses are judged.
    pub(super) fn line_to(&self, endpoint: &Endpoint, url: &Url) -> Line {
        let listed = || self.settings.realms.iter().any(|entry| realm::is_listed(entry, url));
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
    let is_transient = status.is_server_error() && status != StatusCode::LOOP_DETECTED;
    let failure = if is_transient { Failure::broken(why) } else { Failure::invalid(why) };
    failure.at(host, Some(status.as_u16()))
}
