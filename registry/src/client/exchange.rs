//! One request to one endpoint, authenticated as it wants to be.
//!
//! What an endpoint wants is learnt from its first 401 and remembered, so that later requests bring it at once. A
//! credential is only ever sent when it is asked for: Basic to the endpoint itself, or to its token service once the
//! realm was found to be its own.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode};

use super::challenge::{self, Challenge};
use super::endpoint::{Endpoint, Realm, Scheme};
use super::failure::Failure;
use super::realm;
use super::send::{Answer, Call};
use super::token::{ANSWER_LIMIT, Token, TokenKey};
use super::upstream::{Line, Upstream};
use super::{Account, Credential};

/// Unauthenticated, with a token, with a token after a refresh: more tries make nothing better.
const TRIES: usize = 3;

/// Who asks, and for what: that is what a token depends on.
#[derive(Clone)]
pub(super) struct Caller {
    /// `repository:<name>:pull`
    pub(super) scope: Arc<str>,
    /// `None` for anonymous.
    pub(super) credential: Option<Identity>,
}

/// As whom.
#[derive(Clone)]
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

impl Caller {
    fn account(&self) -> Option<&Arc<Account>> {
        match &self.credential {
            Some(Identity::Account(account)) => Some(account),
            Some(Identity::Verbatim(_)) | None => None,
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
    /// Sends `call` to the endpoint at `index` on behalf of `caller`. An answer has any status but 401 and 429.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        index: usize,
        call: &Call,
        caller: &Caller,
    ) -> Result<Answer, Failure> {
        let endpoint = &self.endpoints[index];
        let started = Instant::now();
        let mut shown = match (&caller.credential, endpoint.scheme()) {
            (Some(Identity::Verbatim(header)), _) => Shown::Verbatim(header.clone()),
            (_, Some(scheme)) => self.show(index, scheme, caller).await?,
            // The origin that we are the front of would get it anyway, and may be open to all and yet tell more to some.
            (Some(Identity::Account(account)), None) if endpoint.transport.is_some() => Shown::Basic(basic(account)?),
            (_, None) => Shown::Nothing,
        };
        for _ in 0..TRIES {
            let answer = self.send(endpoint, call, shown.header()).await?;
            if answer.response.status() != StatusCode::UNAUTHORIZED || answer.foreign {
                return Ok(answer);
            }
            match &shown {
                Shown::Nothing => {}
                Shown::Verbatim(_) => return Err(Failure::Unauthorized),
                Shown::Basic(_) if endpoint.scheme().is_some() => return Err(Failure::Unauthorized),
                Shown::Basic(_) => {}
                // One that was issued for this very request cannot have expired: it is the caller who is refused.
                Shown::Token(_, token) if token.received >= started => return Err(Failure::Unauthorized),
                Shown::Token(key, token) => self.tokens.forget(key, &token.header).await,
            }
            let lines = answer.response.headers().get_all(WWW_AUTHENTICATE);
            let scheme = self.choose(endpoint, lines.iter().filter_map(|line| line.to_str().ok()))?;
            endpoint.set_scheme(Some(scheme.clone()));
            if scheme == Scheme::Basic && (caller.account().is_none() || matches!(shown, Shown::Basic(_))) {
                return Err(Failure::Unauthorized);
            }
            shown = self.show(index, scheme, caller).await?;
        }
        Err(Failure::Unauthorized)
    }

    /// What to do about a challenge. A token is preferred, and a realm that is not the registry's is no reason to show
    /// the password in another way.
    pub(super) fn choose<'a>(
        &self,
        endpoint: &Endpoint,
        lines: impl Iterator<Item = &'a str>,
    ) -> Result<Scheme, Failure> {
        let challenges = challenge::parse(lines);
        for challenge in &challenges {
            if let Challenge::Bearer { realm, service } = challenge {
                let url =
                    realm::pin(&endpoint.url, realm, &self.settings.realms, |url| endpoint.carrier(url).is_some())
                        .map_err(|error| {
                            tracing::warn!(registry = self.name(), host = endpoint.host(), %error, "challenge refused");
                            Failure::invalid(error)
                        })?;
                return Ok(Scheme::Bearer(Arc::new(Realm { url, service: service.clone() })));
            }
        }
        if challenges.contains(&Challenge::Basic) { Ok(Scheme::Basic) } else { Err(Failure::Unauthorized) }
    }

    async fn show(self: &Arc<Self>, index: usize, scheme: Scheme, caller: &Caller) -> Result<Shown, Failure> {
        match scheme {
            Scheme::Basic => caller.account().map_or(Ok(Shown::Nothing), |account| basic(account).map(Shown::Basic)),
            Scheme::Bearer(realm) => {
                let key = TokenKey { realm, scope: Arc::clone(&caller.scope), account: caller.account().cloned() };
                let (upstream, wanted) = (Arc::clone(self), key.clone());
                let fetched = self.tokens.get(key.clone(), async move { upstream.issue(index, &wanted).await }).await;
                // Nothing was said about the caller, so the endpoint may have changed its mind: ask it anew the next time.
                let token = fetched.inspect_err(|failure| {
                    if !matches!(failure, Failure::Unauthorized | Failure::Forbidden | Failure::RateLimited(..)) {
                        self.endpoints[index].set_scheme(None);
                    }
                })?;
                Ok(Shown::Token(key, token))
            }
        }
    }

    /// Has the token service issue a token. Its redirects are not followed: they would lead past the pinned realm.
    async fn issue(&self, index: usize, key: &TokenKey) -> Result<Token, Failure> {
        let endpoint = &self.endpoints[index];
        let mut url = key.realm.url.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.realm.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &key.scope);
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(account) = &key.account {
            headers.insert(AUTHORIZATION, basic(account)?);
        }
        let received = Instant::now();
        let response = self.request(endpoint, Line::Api, &Method::GET, &url, &headers).await?;
        let status = response.status();
        match status {
            StatusCode::OK => Token::parse(&self.read(response, ANSWER_LIMIT).await?, received),
            StatusCode::FORBIDDEN => Err(Failure::Forbidden),
            StatusCode::UNAUTHORIZED => Err(Failure::Unauthorized),
            // Either of what was asked for, or of the service itself.
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                endpoint.set_scheme(None);
                Err(Failure::Unauthorized)
            }
            _ if status.is_server_error() => {
                Err(Failure::broken(format!("the token service answered {}", status.as_u16())))
            }
            _ => Err(Failure::invalid(format!("the token service answered {}", status.as_u16()))),
        }
    }
}

fn basic(account: &Account) -> Result<HeaderValue, Failure> {
    let encoded = STANDARD.encode(format!("{}:{}", account.username, account.password));
    let mut header = HeaderValue::try_from(format!("Basic {encoded}"))
        .map_err(|_| Failure::invalid("the credential cannot be sent"))?;
    header.set_sensitive(true);
    Ok(header)
}
