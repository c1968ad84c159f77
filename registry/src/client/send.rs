//! One request to one endpoint, redirects followed.
//!
//! Redirects are followed here and not by the HTTP client, because of what must not go along: past the endpoint's own
//! origin a request carries neither credential nor token nor client certificate, and does not get them back when a
//! further redirect returns. The number of hops is limited, and https never becomes http. How the next request is written
//! stands in [`super::target`], and where it may lead at all is for [`super::reach`] to say.
//!
//! Labels of an answer, such as `Content-Encoding`, refuse nothing: identity was asked for, and the digest or the JSON of
//! the body decides.

use std::time::Instant;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response};

use super::endpoint::Endpoint;
use super::exchange::Caller;
use super::failure::{Failure, Rejection, host_of};
use super::pauses::Kind;
use super::reach::Aim;
use super::target::{Target, redirect};
use super::upstream::{Asking, Line, Upstream, sent_again, sent_at};
use super::verdict::{self, Verdict};

/// Real registries redirect once or twice. Go's clients follow nine.
pub(super) const REDIRECTS: usize = 10;

/// What a registry says about a rejected request is read this far.
const REJECTION_LIMIT: u64 = 64 * 1024;

/// What is asked of a repository, at whichever endpoint.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// GET or HEAD.
    pub(super) method: Method,
    /// Below the repository's own.
    pub(super) path: String,
    /// Without the `?`.
    pub(super) query: Option<String>,
    /// Everything but the authorization.
    pub(super) headers: HeaderMap,
    /// The body of a blob: on a connection of its own.
    pub(super) blob: bool,
    /// Whose pauses it takes part in.
    pub(super) kind: Kind,
    /// Whether a digest proves what comes back.
    pub(super) aim: Aim,
    /// When it began: a token that came later is as good as can be.
    pub(super) since: Instant,
}

impl Call {
    /// Whether it asks for a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Tags | Kind::Referrers)
    }
}

/// The header of an answer, its body still to come.
pub(super) struct Answer {
    /// Of the last hop.
    pub(super) response: Response,
    /// Whether that was past the endpoint's own origin.
    pub(super) foreign: bool,
    /// When the last request to the endpoint itself was sent.
    pub(super) sent: tokio::time::Instant,
    /// Whether the endpoint itself has answered one of the requests by 429 before: it has accepted the authorization.
    pub(super) limited: bool,
    /// Of the last hop.
    host: String,
    method: Method,
}

impl Upstream {
    /// Fails unless an answer carries what was asked for.
    pub(super) async fn accept(&self, answer: Answer) -> Result<Response, Failure> {
        let Answer { response, foreign, host, method, .. } = answer;
        let status = response.status();
        let number = status.as_u16();
        let from = if foreign { "the redirect's target answered" } else { "status" };
        let failure = match verdict::judge(&method, status, foreign) {
            Verdict::Success => return Ok(response),
            Verdict::Absent => Failure::NotFound,
            Verdict::Unproven => Failure::Unconfirmed(number),
            Verdict::Unauthorized => Failure::Unauthorized,
            Verdict::Forbidden => Failure::Forbidden,
            Verdict::Rejected => {
                let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
                let content_type = content_type.map(str::to_owned);
                let body = self.read_beginning(response, REJECTION_LIMIT).await;
                Failure::Rejected(Rejection { status: number, content_type, body })
            }
            Verdict::Expired => Failure::expired(format!("{from} {number}")),
            Verdict::Transient => Failure::broken(format!("{from} {number}")),
            Verdict::Useless => Failure::invalid(format!("{from} {number}, which has no meaning here")),
        };
        Err(failure.at(&host, Some(number)))
    }

    /// Sends `call` with `authorization`, and follows where it leads.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        call: &Call,
        caller: &Caller,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut headers = call.headers.clone();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        caller.cause.trail.write(&mut headers);
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        let mut line = if call.blob { Line::Body } else { Line::Api };
        let mut visited = vec![Target::from(endpoint.within(&caller.repository, &call.path, call.query.as_deref()))];
        let mut foreign = false;
        let mut account = caller.account_at(endpoint);
        let (mut sent, mut limited) = (tokio::time::Instant::now(), false);
        // A mirror before the registry is not waited for, nor a HEAD where a GET decides.
        let patient = endpoint.last && !matches!(call.kind, Kind::ManifestHead | Kind::BlobHead);
        loop {
            let Some(Target { url, exact }) = visited.last() else { return Err(Failure::invalid("no address")) };
            let target = exact.as_ref();
            let asking =
                Asking { line, method: &call.method, target, kind: call.kind, account, aim: call.aim, patient };
            let result = self.request(endpoint, &asking, url, &headers).await;
            let response = result.map_err(|failure| if foreign { failure.abroad() } else { failure })?;
            if !foreign {
                sent = sent_at(&response);
                limited |= sent_again(&response);
            }
            let at = |failure: Failure| failure.at(&host_of(url), Some(response.status().as_u16()));
            let Some(target) = redirect(&response, url, &endpoint.url).map_err(at)? else {
                let host = host_of(url);
                return Ok(Answer { response, foreign, sent, limited, host, method: call.method.clone() });
            };
            if visited.contains(&target) {
                return Err(at(Failure::invalid("a redirect loop")));
            }
            if visited.len() > REDIRECTS {
                return Err(at(Failure::invalid(format!("more than {REDIRECTS} redirects"))));
            }
            if endpoint.is_foreign(&target.url) {
                foreign = true;
                line = Line::Foreign;
                headers.remove(AUTHORIZATION);
                account = None;
            }
            visited.push(target);
        }
    }
}
