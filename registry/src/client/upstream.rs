//! What all requests to one registry share, and the smallest thing done with it: one HTTP request, timed and reported.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Body, Method, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use url::Url;

use super::endpoint::{self, Endpoint};
use super::failure::{Failure, host_of};
use super::limit::{self, RateLimit};
use super::token::Tokens;
use super::transport::Transport;
use super::{BuildError, ClientError, Observer, Settings};

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

/// See the module.
pub(super) struct Upstream {
    /// As given.
    pub(super) settings: Settings,
    /// In the order of the settings.
    pub(super) endpoints: Vec<Endpoint>,
    /// Of all endpoints and callers.
    pub(super) tokens: Tokens,
    /// Of all endpoints and callers.
    pub(super) limit: RateLimit,
    /// One permit a body.
    pub(super) connections: Arc<Semaphore>,
    /// The same for bodies that are read as slowly as somebody else likes.
    pub(super) slow_connections: Arc<Semaphore>,
    /// Whoever watches.
    pub(super) observer: Arc<dyn Observer>,
}

impl Upstream {
    /// Reads the files that the settings name. Contacts nobody.
    pub(super) fn new(settings: Settings, observer: Arc<dyn Observer>) -> Result<Upstream, BuildError> {
        let settings = bounded(settings);
        let permits = settings.connections.clamp(1, Semaphore::MAX_PERMITS);
        let endpoints = settings.endpoints.iter().map(|endpoint| Endpoint::new(endpoint.clone(), &settings));
        Ok(Upstream {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            tokens: Tokens::new(),
            limit: RateLimit::default(),
            connections: Arc::new(Semaphore::new(permits)),
            slow_connections: Arc::new(Semaphore::new(permits)),
            observer,
            settings,
        })
    }

    /// The registry's name.
    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    /// One HTTP request, up to the header of its answer, which may have any status but 429.
    pub(super) async fn request(
        &self,
        endpoint: &Endpoint,
        line: Line,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let started = Instant::now();
        let request = async {
            if let Some(transport) = endpoint.carrier(url) {
                return carried(transport, method, url, headers).await;
            }
            let client = match line {
                Line::Api => &endpoint.api,
                Line::Body => &endpoint.body,
                Line::Foreign => &endpoint.foreign,
            };
            let request = client.request(method.clone(), url.clone()).headers(headers.clone());
            request.send().await.map_err(Failure::unanswered)
        };
        // Connecting, where it is needed, has a limit of its own within this one.
        let limit = self.settings.connect_timeout + self.settings.first_byte_timeout;
        let result = match timeout(limit, request).await {
            Ok(result) => result,
            Err(_) => Err(Failure::dead("no answer in time")),
        };
        let status = result.as_ref().ok().map(|response| response.status().as_u16());
        self.observer.request(status, started.elapsed());
        let (registry, host) = (self.name(), url.host_str().unwrap_or_default());
        match &result {
            Ok(_) => {
                tracing::debug!(registry, host, %method, status, elapsed = ?started.elapsed(), "upstream answered");
            }
            Err(failure) => tracing::debug!(registry, host, %method, %failure, "upstream did not answer"),
        }
        let response = result.map_err(|failure| failure.at(&host_of(url), None))?;
        if let Some(left) = limit::remaining(response.headers()) {
            self.observer.rate_limit_remaining(left);
        }
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            let wait = limit::retry_after(response.headers(), SystemTime::now());
            // What the origin behind us says to one of its users is none of the others' business.
            if endpoint.transport.is_none() {
                self.limit.wait(Instant::now(), wait);
                tracing::warn!(registry, host, seconds = wait.as_secs(), "upstream limits the rate of requests");
            }
            return Err(Failure::rate_limited(wait).at(&host_of(url), Some(429)));
        }
        Ok(response)
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

    /// No request goes out while upstream wants to be left in peace.
    pub(super) fn check_limit(&self, now: Instant) -> Result<(), ClientError> {
        match self.limit.left(now) {
            None => Ok(()),
            Some(left) => Err(Failure::rate_limited(left).into_error(self.name())),
        }
    }
}

/// One request by a transport, up to the header of its answer.
async fn carried(
    transport: &Arc<dyn Transport>,
    method: &Method,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let mut request = http::Request::new(());
    *request.uri_mut() = url.as_str().parse().map_err(Failure::invalid)?;
    *request.method_mut() = method.clone();
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
