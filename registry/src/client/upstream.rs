//! What all requests to one registry share, and the smallest thing done with it: one HTTP request, timed and reported.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use reqwest::header::{HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Body, Method, Response, StatusCode};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::endpoint::{self, Endpoint};
use super::exact;
use super::exchange::Caller;
use super::failing::Failing;
use super::failure::{Failure, host_of};
use super::loops;
use super::pages::Pages;
use super::pauses::{self, Kind, PATIENCE, PauseKey, Pauses};
use super::reach::{Aim, Unreachable};
use super::token::Tokens;
use super::transport::Transport;
use super::{BuildError, Observer, Settings};

/// The least wait that a client is asked for.
const SHORTEST: Duration = Duration::from_secs(1);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// Which of an endpoint's HTTP clients a request goes by, unless it goes by the endpoint's transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Everything but blobs.
    Api,
    /// Blobs.
    Body,
    /// Hosts that are not the endpoint's.
    Foreign,
}

/// When a request was sent, and whether it was sent before and limited; kept with its answer.
#[derive(Clone, Copy)]
struct Sent {
    at: Instant,
    again: bool,
}

/// When the request of this answer was sent: after the pauses that it waited for.
pub(super) fn sent_at(response: &Response) -> Instant {
    response.extensions().get::<Sent>().map_or_else(Instant::now, |sent| sent.at)
}

/// Whether the request of this answer is the second one: the first was answered by 429.
pub(super) fn sent_again(response: &Response) -> bool {
    response.extensions().get::<Sent>().is_some_and(|sent| sent.again)
}

/// How something is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    /// By which client.
    pub(super) line: Line,
    /// GET or HEAD.
    pub(super) method: &'a Method,
    /// Path and query as they are sent, where they are not those of the URL.
    pub(super) target: Option<&'a PathAndQuery>,
    /// Whose pauses it takes part in.
    pub(super) kind: Kind,
    /// The account of a caller that it shows, as a hash.
    pub(super) account: Option<u64>,
    /// Whether a digest proves what comes back.
    pub(super) aim: Aim,
    /// Whether it may wait for a pause to end.
    pub(super) patient: bool,
}

impl Asking<'_> {
    /// Whether where it leads is for the rule to say.
    fn is_judged(&self, endpoint: &Endpoint, url: &Url) -> bool {
        self.line == Line::Foreign && endpoint.is_foreign(url)
    }
}

/// What all requests to one registry share.
pub(super) struct Upstream {
    /// As given.
    pub(super) settings: Settings,
    /// In the order of the settings.
    pub(super) endpoints: Vec<Endpoint>,
    /// Of all endpoints and callers.
    pub(super) tokens: Tokens,
    /// Of all hosts.
    pub(super) pauses: Pauses,
    /// Of all lists.
    pub(super) pages: Pages,
    /// Of all blobs.
    pub(super) failing: Failing,
    /// Whoever watches.
    pub(super) observer: Arc<dyn Observer>,
}

impl Upstream {
    /// Reads the files that the settings name. Contacts nobody.
    pub(super) fn new(settings: Settings, observer: Arc<dyn Observer>) -> Result<Upstream, BuildError> {
        let settings = bounded(settings);
        let last = settings.endpoints.len().saturating_sub(1);
        let endpoints = settings.endpoints.iter().enumerate();
        let endpoints = endpoints.map(|(index, endpoint)| Endpoint::new(endpoint.clone(), &settings, index == last));
        Ok(Upstream {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            tokens: Tokens::new(),
            pauses: Pauses::new(),
            pages: Pages::new(),
            failing: Failing::new(),
            observer,
            settings,
        })
    }

    /// The registry's name.
    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    /// One HTTP request, up to the header of its answer, which may have any status but 429. A request that meets a
    /// pause waits for its turn, and one that gets a 429 is sent once more, where it may wait and the pause is short.
    pub(super) async fn request(
        &self,
        endpoint: &Endpoint,
        asking: &Asking<'_>,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let host = host_of(url);
        if asking.is_judged(endpoint, url) {
            endpoint.reach.check(url, asking.aim).await.map_err(|error| self.unreachable(&host, &error))?;
        }
        // What the origin behind us says to one of its users is none of the others' business.
        let shared = endpoint.carrier(url).is_none();
        let key = PauseKey { host, kind: asking.kind, account: asking.account };
        let patience = if asking.patient { PATIENCE } else { Duration::ZERO };
        let limited = |left: Duration| Failure::rate_limited(left.max(SHORTEST)).at(&key.host, Some(429));
        let mut again = asking.patient;
        loop {
            if shared {
                self.wait_for_turn(&key, patience).await.map_err(limited)?;
            }
            let sent = Instant::now();
            let mut response =
                self.once(endpoint, asking, url, headers).await.map_err(|failure| failure.at(&key.host, None))?;
            response.extensions_mut().insert(Sent { at: sent, again: again != asking.patient });
            if response.status() != StatusCode::TOO_MANY_REQUESTS {
                self.pauses.answered(&key, sent);
                if asking.is_judged(endpoint, url) {
                    let confirmed = endpoint.reach.confirm(url, response.remote_addr(), asking.aim);
                    confirmed.map_err(|error| self.unreachable(&key.host, &error))?;
                }
                return Ok(response);
            }
            let asked = pauses::retry_after(response.headers(), SystemTime::now());
            if !shared {
                return Err(limited(asked.unwrap_or(SHORTEST)));
            }
            let now = Instant::now();
            if self.pauses.limited(&key, hash(url.path()), sent, now, asked) {
                let seconds = asked.map(|asked| asked.as_secs());
                let (registry, host, kind) = (self.name(), &key.host, asking.kind);
                tracing::warn!(registry, host, ?kind, seconds, "upstream limits the rate of requests");
            }
            let left = self.pauses.left(&key, now);
            if !again || left > patience {
                return Err(limited(left));
            }
            again = false;
        }
    }

    /// Waits for a turn among the requests of a kind; an error is how long that would take where it is too long.
    async fn wait_for_turn(&self, key: &PauseKey, patience: Duration) -> Result<(), Duration> {
        loop {
            sleep(self.pauses.turn(key, Instant::now(), patience)?).await;
            // A pause that began meanwhile counts.
            if !self.pauses.is_stopped(key, Instant::now()) {
                return Ok(());
            }
        }
    }

    fn unreachable(&self, host: &str, error: &Unreachable) -> Failure {
        tracing::warn!(registry = self.name(), host, %error, "not connected to");
        Failure::invalid(error).at(host, None)
    }

    /// One HTTP request, timed and reported.
    async fn once(
        &self,
        endpoint: &Endpoint,
        asking: &Asking<'_>,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let started = Instant::now();
        // Connecting, where it is needed, has a limit of its own within this one.
        let limit = self.settings.connect_timeout + self.settings.first_byte_timeout;
        let mut request = std::pin::pin!(bare(endpoint, asking, url, headers));
        let result = match timeout(limit / 2, &mut request).await {
            Ok(result) => result,
            Err(_) => {
                // Is it the address that does not answer, or only this one thing that is slow? If the address answers
                // meanwhile, its breaker stays closed.
                let probe = async {
                    let own = url.origin() == endpoint.url.origin() && endpoint.transport.is_none();
                    if own && asking.kind != Kind::Other {
                        let asking = Asking { line: Line::Api, method: &Method::GET, target: None, ..*asking };
                        if bare(endpoint, &asking, &endpoint.base(), &HeaderMap::new()).await.is_ok() {
                            endpoint.breaker.succeeded(Instant::now());
                        }
                    }
                    std::future::pending().await
                };
                let waiting = async {
                    tokio::select! {
                        result = &mut request => result,
                        never = probe => never,
                    }
                };
                timeout(limit - limit / 2, waiting).await.unwrap_or_else(|_| Err(Failure::silent()))
            }
        };
        let status = result.as_ref().ok().map(|response| response.status().as_u16());
        self.observer.request(status, started.elapsed());
        let (registry, host, method) = (self.name(), url.host_str().unwrap_or_default(), asking.method);
        match &result {
            Ok(response) => {
                tracing::debug!(registry, host, %method, status, elapsed = ?started.elapsed(), "upstream answered");
                if let Some(left) = pauses::remaining(response.headers()) {
                    self.observer.rate_limit_remaining(left);
                }
            }
            Err(failure) => tracing::debug!(registry, host, %method, %failure, "upstream did not answer"),
        }
        result
    }

    /// For how long requests for a blob of an endpoint are stopped still; the shortest time where it can be asked for in several ways.
    pub(super) fn blob_pause(&self, index: usize, ways: &[Kind], caller: &Caller) -> Duration {
        let endpoint = &self.endpoints[index];
        let left = |kind: &Kind| {
            let (host, account) = (endpoint.host().to_owned(), caller.account_at(endpoint));
            let key = PauseKey { host, kind: *kind, account };
            self.pauses.left(&key, Instant::now())
        };
        ways.iter().map(left).min().unwrap_or_default()
    }

    /// Reads the beginning of a body, and no more than `limit` bytes. What comes broken or late is left out.
    pub(super) async fn read_beginning(&self, mut response: Response, limit: u64) -> Bytes {
        let mut body = BytesMut::new();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let reading = async {
            while body.len() < limit
                && let Ok(Some(piece)) = response.chunk().await
            {
                self.observer.received(piece.len() as u64);
                body.extend_from_slice(&piece);
            }
        };
        // Whether it came whole makes no difference.
        let _ = timeout(self.settings.idle_timeout, reading).await;
        body.truncate(limit);
        body.freeze()
    }

    /// Reads a whole body of at most `limit` bytes. These are small, so that besides every silence the whole is
    /// limited too: nobody may hold a caller by dripping a manifest.
    pub(super) async fn read(&self, mut response: Response, limit: u64) -> Result<Vec<u8>, Failure> {
        let idle = self.settings.idle_timeout;
        let reading = async {
            let mut body = Vec::new();
            loop {
                let piece = match timeout(idle, response.chunk()).await {
                    Ok(piece) => piece.map_err(|error| Failure::broken(super::failure::reason(error)))?,
                    Err(_) => return Err(Failure::broken("the body stopped coming")),
                };
                let Some(piece) = piece else { return Ok(body) };
                self.observer.received(piece.len() as u64);
                if (body.len() + piece.len()) as u64 > limit {
                    return Err(Failure::invalid(format!("the body is longer than {limit} bytes")));
                }
                body.extend_from_slice(&piece);
            }
        };
        let whole = (idle + self.settings.first_byte_timeout) * 4;
        timeout(whole, reading).await.unwrap_or_else(|_| Err(Failure::broken("the body came too slowly")))
    }
}

/// Sends a request, with this edge in its trail, by the way that leads to its URL.
async fn bare(endpoint: &Endpoint, asking: &Asking<'_>, url: &Url, headers: &HeaderMap) -> Result<Response, Failure> {
    let mut headers = headers.clone();
    loops::sign(&mut headers, endpoint.edge.as_ref());
    let headers = &headers;
    if let Some(transport) = endpoint.carrier(url) {
        return carried(transport, asking, url, headers).await;
    }
    let client = match (asking.line, asking.target) {
        (Line::Foreign, target) => return endpoint.foreign.send(asking.method, url, target, headers).await,
        (_, target @ Some(_)) => return endpoint.exact.send(asking.method, url, target, headers).await,
        (Line::Api, None) => &endpoint.api,
        (Line::Body, None) => &endpoint.body,
    };
    let request = client.request(asking.method.clone(), url.clone()).headers(headers.clone());
    request.send().await.map_err(Failure::unanswered)
}

/// A number in the place of a thing, for keys that must not hold a secret.
pub(super) fn hash(thing: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

/// One request by a transport, up to the header of its answer.
async fn carried(
    transport: &Arc<dyn Transport>,
    asking: &Asking<'_>,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let mut request = http::Request::new(());
    *request.uri_mut() = exact::uri(url, asking.target)?;
    *request.method_mut() = asking.method.clone();
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(endpoint::USER_AGENT));
    let response = transport.send(request).await?;
    Ok(response.map(Body::wrap_stream).into())
}

/// No time-out beyond a month, so that none overflows the clock.
fn bounded(mut settings: Settings) -> Settings {
    for time in [
        &mut settings.connect_timeout,
        &mut settings.first_byte_timeout,
        &mut settings.idle_timeout,
        &mut settings.resume_for,
        &mut settings.cool_down,
    ] {
        *time = (*time).min(MONTH);
    }
    settings
}
