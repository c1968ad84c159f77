//! One request to one endpoint, authenticated as it wants to be.
//!
//! What an endpoint wants is learnt from its 401s and remembered by repository, so that later requests bring it at once;
//! the challenge of the answer at hand always counts more than what was remembered. A credential is only ever sent when
//! it is asked for: Basic to the endpoint itself, or to its token service once the realm was found to be its own. What a
//! caller brings is for the registry itself, the last of the addresses, and not for a mirror before it.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::base::basic;
use super::challenge::{self, Challenge};
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::loops::Trail;
use super::realm;
use super::renewal::{self, Asks, Next, Whose};
use super::schemes::{Expected, Realm, Scheme, SchemeKey};
use super::send::{Answer, Call};
use super::token::{Token, TokenKey};
use super::upstream::{Upstream, hash};
use super::verdict::{self, AccountVerdict};
use super::{Account, Credential};
use crate::oci::RepositoryName;

/// Unauthenticated, with a token, with a token after a refresh, with another scope, with a token of its own: more tries make nothing
/// better.
const TRIES: usize = 5;

/// Who asks, and about which repository.
#[derive(Clone)]
pub(super) struct Caller {
    /// As clients name it.
    pub(super) repository: RepositoryName,
    /// `None`: the endpoint's own account, or anonymous where it has none.
    pub(super) credential: Option<Identity>,
    /// What made us ask.
    pub(super) cause: Cause,
}

/// Where the request came from that makes us ask.
#[derive(Clone, Default)]
pub(super) struct Cause {
    /// The client's address, for the token service of the origin that we are the front of.
    pub(super) address: Option<IpAddr>,
    /// The edges that it came through.
    pub(super) trail: Trail,
}

impl Caller {
    /// Whether both ask the same with the same right, from wherever.
    pub(super) fn asks_as(&self, other: &Caller) -> bool {
        self.repository == other.repository && self.credential == other.credential
    }

    /// The caller's account, as a hash, where it may be shown to this endpoint.
    pub(super) fn account_at(&self, endpoint: &Endpoint) -> Option<u64> {
        match self.credential.as_ref().filter(|_| endpoint.last)? {
            Identity::Account(account) => Some(hash(account)),
            Identity::Verbatim(header) => header.as_ref().map(hash),
        }
    }
}

/// As which caller.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Identity {
    Account(Arc<Account>),
    Verbatim(Option<HeaderValue>),
}

impl From<Credential> for Identity {
    fn from(credential: Credential) -> Identity {
        match credential {
            Credential::Account(account) => Identity::Account(Arc::new(account)),
            Credential::Verbatim(header) => Identity::Verbatim(header),
        }
    }
}

/// What an endpoint may be shown.
#[derive(Clone)]
enum Purse {
    Nothing,
    /// The endpoint's own account.
    Own(Arc<Account>),
    /// A caller's account.
    Callers(Arc<Account>),
    /// A caller's header.
    Verbatim(Option<HeaderValue>),
}

impl Purse {
    fn account(&self) -> Option<&Arc<Account>> {
        match self {
            Purse::Own(account) | Purse::Callers(account) => Some(account),
            Purse::Nothing | Purse::Verbatim(_) => None,
        }
    }
}

/// What a request shows.
enum Shown {
    Nothing,
    Verbatim(Option<HeaderValue>),
    Basic(HeaderValue),
    Token(TokenKey, Token),
}

impl Shown {
    fn header(&self) -> Option<&HeaderValue> {
        match self {
            Shown::Nothing => None,
            Shown::Verbatim(header) => header.as_ref(),
            Shown::Basic(header) => Some(header),
            Shown::Token(_, token) => Some(&token.header),
        }
    }
}

impl Upstream {
    /// Sends `call` to the endpoint at `index` on behalf of `caller`. An answer has any status but 429, and 401 only from
    /// a redirect's target.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        index: usize,
        call: &Call,
        caller: &Caller,
    ) -> Result<Answer, Failure> {
        let endpoint = &self.endpoints[index];
        let key = SchemeKey { repository: endpoint.repository(&caller.repository), list: call.is_list() };
        let purse = self.purse(endpoint, caller).await;
        // The endpoint's own 401 after all that could be done. To a HEAD it proves nothing.
        let refused = if call.method == Method::HEAD { Failure::Unconfirmed(401) } else { Failure::Unauthorized };
        // What was asked for when the thing that is shown was made.
        let mut answered = None;
        // How often a token was renewed.
        let mut renewals = 0;
        let mut shown = match (&purse, endpoint.schemes.expected(&key)) {
            (Purse::Verbatim(header), _) => Shown::Verbatim(header.clone()),
            (_, Some(expected)) => {
                answered = Some(expected.scheme().clone());
                self.show_expected(index, expected, &key, &purse, &caller.cause).await?
            }
            // The origin that we are the front of would get it anyway, and may be open to all and yet tell more to some.
            (_, None) if endpoint.transport.is_some() => {
                purse.account().map_or(Ok(Shown::Nothing), |account| basic(account).map(Shown::Basic))?
            }
            (_, None) => Shown::Nothing,
        };
        for _ in 0..TRIES {
            if let Shown::Token(_, token) = &shown {
                token.show();
            }
            let mut whose = Whose::Shared;
            let answer = match (self.send(endpoint, call, caller, shown.header()).await, &shown) {
                (Err(failure @ Failure::RateLimited(..)), Shown::Token(_, token)) => {
                    token.accept();
                    return Err(failure);
                }
                (answer, _) => answer?,
            };
            if let (true, Shown::Token(_, token)) = (answer.limited, &shown) {
                token.accept();
            }
            let status = answer.response.status();
            let lines = answer.response.headers().get_all(WWW_AUTHENTICATE).iter();
            let invalid = challenge::says_invalid_token(lines.filter_map(|line| line.to_str().ok()));
            let mut scheme = self.wanted(endpoint, call, &answer, &key, &purse, answered.is_some()).await?;
            if status != StatusCode::UNAUTHORIZED || answer.foreign {
                if let Some(scheme) = scheme {
                    match self.show(index, &scheme, &key, &purse, &caller.cause, Whose::Shared).await {
                        Ok(Shown::Nothing) => return Ok(answer),
                        Ok(other) => shown = other,
                        Err(Failure::Unauthorized | Failure::Forbidden) => return Ok(answer),
                        Err(failure) => return Err(failure),
                    }
                    endpoint.schemes.learn(key.clone(), scheme.clone());
                    answered = Some(scheme);
                    continue;
                }
                match (&shown, &purse) {
                    (Shown::Basic(_), Purse::Own(account)) => {
                        // The registry itself has redirected.
                        let status = if answer.foreign { StatusCode::FOUND } else { answer.response.status() };
                        match verdict::judge_account(status) {
                            AccountVerdict::Taken => endpoint.login.worked(account, answer.sent),
                            AccountVerdict::Refused if answered == Some(Scheme::Basic) => {
                                self.basic_refused(endpoint, account, &call.method, answer.sent).await?;
                            }
                            _ => {}
                        }
                    }
                    (Shown::Token(_, token), _) => token.accept(),
                    _ => {}
                }
                return Ok(answer);
            }
            match &shown {
                Shown::Verbatim(_) => return Err(refused),
                Shown::Basic(_) if matches!(scheme, None | Some(Scheme::Basic)) => {
                    if let Purse::Own(account) = &purse {
                        self.basic_refused(endpoint, account, &call.method, answer.sent).await?;
                    }
                    return Err(refused);
                }
                Shown::Token(token_key, token) => {
                    let next = renewal::decide(renewal::Refused {
                        asks: asked_again(scheme.as_ref(), answered.as_ref(), &key),
                        invalid,
                        fresh: token.received >= call.since,
                        accepted: token.was_accepted(),
                        shared: token.is_shared(),
                        head: call.method == Method::HEAD,
                        renewals,
                    });
                    match next {
                        Next::Refused => return Err(refused),
                        Next::Renew(renewed) => {
                            self.tokens.forget(token_key, &token.header).await;
                            scheme.clone_from(&answered);
                            (whose, renewals) = (renewed, renewals + 1);
                        }
                        Next::Follow => {}
                    }
                }
                Shown::Nothing | Shown::Basic(_) => {}
            }
            let Some(scheme) = scheme else { return Err(refused) };
            if scheme == Scheme::Basic && purse.account().is_none() {
                return Err(refused);
            }
            endpoint.schemes.learn(key.clone(), scheme.clone());
            shown = self.show(index, &scheme, &key, &purse, &caller.cause, whose).await?;
            answered = Some(scheme);
        }
        Err(refused)
    }

    /// What this endpoint may be shown on behalf of a caller.
    async fn purse(&self, endpoint: &Endpoint, caller: &Caller) -> Purse {
        match &caller.credential {
            None => {
                if endpoint.login.refusal().is_some() {
                    endpoint.login.renew(Instant::now()).await;
                }
                endpoint.login.account().map_or(Purse::Nothing, Purse::Own)
            }
            Some(_) if !endpoint.last => Purse::Nothing,
            Some(Identity::Account(account)) => Purse::Callers(Arc::clone(account)),
            Some(Identity::Verbatim(header)) => Purse::Verbatim(header.clone()),
        }
    }

    /// What an answer asks to be shown: by its challenge, or where it has none, what `/v2/` asks for. `asked`: whether anything was
    /// asked for before.
    async fn wanted(
        &self,
        endpoint: &Endpoint,
        call: &Call,
        answer: &Answer,
        key: &SchemeKey,
        purse: &Purse,
        asked: bool,
    ) -> Result<Option<Scheme>, Failure> {
        let status = answer.response.status();
        if answer.foreign {
            return Ok(None);
        }
        if status == StatusCode::UNAUTHORIZED {
            let lines = answer.response.headers().get_all(WWW_AUTHENTICATE);
            match self.choose(endpoint, lines.iter().filter_map(|line| line.to_str().ok()), key) {
                Err(Failure::Unauthorized) => {}
                scheme => return scheme.map(Some),
            }
        }
        let refused = match (purse, status.as_u16()) {
            (Purse::Verbatim(_), _) => false,
            (Purse::Nothing, status) => status == 401,
            (Purse::Own(_) | Purse::Callers(_), status) => matches!(status, 401 | 403 | 404),
        };
        if refused && !asked && call.method == Method::GET {
            self.scheme_of_base(endpoint, key).await
        } else {
            Ok(None)
        }
    }

    /// What to do about a challenge. A token is preferred, and a realm that is not the registry's is no reason to show
    /// the password in another way.
    pub(super) fn choose<'a>(
        &self,
        endpoint: &Endpoint,
        lines: impl Iterator<Item = &'a str>,
        key: &SchemeKey,
    ) -> Result<Scheme, Failure> {
        let challenges = challenge::parse(lines);
        for challenge in &challenges {
            if let Challenge::Bearer { realm, service, scope } = challenge {
                let url =
                    realm::pin(&endpoint.url, realm, &self.settings.realms, |url| endpoint.carrier(url).is_some())
                        .map_err(|error| {
                            tracing::warn!(registry = self.name(), host = endpoint.host(), %error, "challenge refused");
                            Failure::invalid(error).at(endpoint.host(), Some(401))
                        })?;
                let scope = scope.as_ref().filter(|scope| **scope != key.usual_scope());
                let realm = Arc::new(Realm { url, service: service.clone() });
                return Ok(Scheme::Bearer { realm, scope: scope.map(|scope| scope.as_str().into()) });
            }
        }
        if challenges.contains(&Challenge::Basic) { Ok(Scheme::Basic) } else { Err(Failure::Unauthorized) }
    }

    /// Shows what the endpoint is expected to want. Where that cannot be had the endpoint is asked without, so that its
    /// challenge tells what it wants now.
    async fn show_expected(
        self: &Arc<Self>,
        index: usize,
        expected: Expected,
        key: &SchemeKey,
        purse: &Purse,
        cause: &Cause,
    ) -> Result<Shown, Failure> {
        let learnt = matches!(expected, Expected::Learnt(_));
        let guessed = matches!(expected, Expected::Guessed(_));
        match self.show(index, expected.scheme(), key, purse, cause, Whose::Shared).await {
            Err(failure @ (Failure::RateLimited(..) | Failure::AccountRefused(_))) => Err(failure),
            Err(failure @ (Failure::Unauthorized | Failure::Forbidden)) if learnt => Err(failure),
            Err(failure @ (Failure::Dead(_) | Failure::Silent(_) | Failure::Astray(_))) if learnt => {
                // It may have moved: the next request asks.
                self.endpoints[index].schemes.forget(key);
                Err(failure)
            }
            // The next attempt may do better, and without a token it would only be sent here again.
            Err(failure @ Failure::Broken(_)) if learnt && !self.endpoints[index].schemes.failed(key) => Err(failure),
            Err(_) if learnt => {
                self.endpoints[index].schemes.forget(key);
                Ok(Shown::Nothing)
            }
            Err(_) if guessed => {
                self.endpoints[index].schemes.distrust();
                Ok(Shown::Nothing)
            }
            Err(_) => Ok(Shown::Nothing),
            shown => shown,
        }
    }

    async fn show(
        self: &Arc<Self>,
        index: usize,
        scheme: &Scheme,
        key: &SchemeKey,
        purse: &Purse,
        cause: &Cause,
        whose: Whose,
    ) -> Result<Shown, Failure> {
        let (realm, scope) = match scheme {
            Scheme::Basic => {
                let Some(account) = purse.account() else { return Ok(Shown::Nothing) };
                if matches!(purse, Purse::Own(_)) {
                    self.endpoints[index].login.admit(Instant::now())?;
                }
                return basic(account).map(Shown::Basic);
            }
            Scheme::Bearer { realm, scope } => (Arc::clone(realm), scope.clone()),
        };
        let scope = scope.unwrap_or_else(|| key.usual_scope().into());
        let own = matches!(purse, Purse::Own(_));
        let key = TokenKey { realm, scope, account: purse.account().cloned(), own };
        let token = match whose {
            Whose::Own => self.issue(index, &key, cause).await?,
            Whose::Shared => {
                let (upstream, wanted, cause) = (Arc::clone(self), key.clone(), cause.clone());
                self.tokens.get(key.clone(), async move { upstream.issue(index, &wanted, &cause).await }).await?
            }
        };
        Ok(Shown::Token(key, token))
    }
}

/// What a 401 asks for beside what was asked for before.
fn asked_again(now: Option<&Scheme>, before: Option<&Scheme>, key: &SchemeKey) -> Asks {
    match (now, before) {
        (None, _) => Asks::Nothing,
        (now, before) if now == before => Asks::Same,
        (Some(now), Some(before)) if now.asks_less_than(before, key) => Asks::Less,
        (Some(_), _) => Asks::Other,
    }
}
