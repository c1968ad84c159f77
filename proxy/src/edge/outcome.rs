//! What a look in the cache came to, and the line that the access log gets of it.
//!
//! An outcome says where the answer came from, not whether the client liked it: a 404 that was remembered is a hit.
//! Everything that did not come the plain way carries its reason, so that a log line explains itself.

use serde::Serialize;

use pierhead_service::logging::Time;

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// From the cache, without asking anybody.
    Hit,
    /// From upstream, on the way into the cache.
    Miss,
    /// From the cache, though upstream could not confirm it.
    Stale(StaleReason),
    /// From the cache, confirmed by upstream just now.
    Revalidated,
    /// From upstream, past the cache.
    Bypass(BypassReason),
    /// The cache was not asked: a ping, a health check, a refusal.
    None,
}

/// Why an answer may be out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StaleReason {
    /// Upstream takes longer than the budget; it is still being asked.
    Revalidating,
    /// Upstream cannot be reached, or answers nonsense.
    UpstreamFailed,
    /// Upstream wants to be left alone.
    RateLimited,
    /// Upstream refuses the account that the configuration gives this edge.
    AccountRefused,
    /// Upstream says it is gone or forbidden, and `keep_deleted` is set.
    Deleted,
}

/// Why the cache was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BypassReason {
    /// The store is full, failing, or too small for this.
    Uncached,
    /// No pull: passed on to the servers of a pool.
    Forwarded,
}

impl Outcome {
    /// The word, as a metric's label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Miss => "miss",
            Outcome::Stale(_) => "stale",
            Outcome::Revalidated => "revalidated",
            Outcome::Bypass(_) => "bypass",
            Outcome::None => "none",
        }
    }

    /// The reason, for the log.
    pub(crate) fn reason(self) -> Option<&'static str> {
        match self {
            Outcome::Stale(StaleReason::Revalidating) => Some("revalidating"),
            Outcome::Stale(StaleReason::UpstreamFailed) => Some("upstream failed"),
            Outcome::Stale(StaleReason::RateLimited) => Some("rate limited"),
            Outcome::Stale(StaleReason::AccountRefused) => Some("account refused"),
            Outcome::Stale(StaleReason::Deleted) => Some("deleted"),
            Outcome::Bypass(BypassReason::Uncached) => Some("uncached"),
            Outcome::Bypass(BypassReason::Forwarded) => Some("forwarded"),
            Outcome::Hit | Outcome::Miss | Outcome::Revalidated | Outcome::None => None,
        }
    }

    /// Whether the client must be warned that the answer may be out of date.
    pub(crate) fn is_stale(self) -> bool {
        matches!(self, Outcome::Stale(_))
    }
}

/// What was asked for, as a metric's label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `manifests/…`
    Manifest,
    /// `blobs/…`
    Blob,
    /// `tags/list`, `referrers/…`
    List,
    /// Everything else.
    #[default]
    Other,
}

impl Kind {
    /// The word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Manifest => "manifest",
            Kind::Blob => "blob",
            Kind::List => "list",
            Kind::Other => "other",
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// One request in the access log. Never a credential, never a query.
#[derive(Debug, Serialize)]
pub(crate) struct AccessLine<'a> {
    /// When the request's header had arrived, as RFC 3339 in UTC.
    pub(crate) time: Time,
    /// As in the answer's `X-Request-Id`.
    pub(crate) id: &'a str,
    /// The client's address.
    pub(crate) client: std::net::IpAddr,
    /// Which listener took it.
    pub(crate) listener: &'a str,
    /// `HTTP/1.1`, `HTTP/2`
    pub(crate) protocol: &'static str,
    /// As sent.
    pub(crate) method: &'a str,
    /// The registry that it named, configured or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) registry: Option<&'a str>,
    /// The repository in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repository: Option<&'a str>,
    /// Tag or digest; `tags` or `referrers/<digest>` for lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<&'a str>,
    /// Of a request that names no repository that could be read: what it asked for instead, cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<&'a str>,
    /// What of it.
    pub(crate) kind: &'static str,
    /// [`Outcome`]
    pub(crate) outcome: &'static str,
    /// Why, for outcomes that have a reason, and for refusals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
    /// Whose servers it was forwarded to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<&'a str>,
    /// Which one answered, or was asked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<&'a str>,
    /// How often it was tried again.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) retries: u32,
    /// What was wrong with it, where there is no answer or no whole one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<&'a str>,
    /// Of the answer; 499 when the client went away before there was one.
    pub(crate) status: u16,
    /// Body bytes that were sent.
    pub(crate) bytes: u64,
    /// Whether the answer was cut short, by either side.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) aborted: bool,
    /// From the request's header to the first byte of the answer.
    pub(crate) ttfb_ms: f64,
    /// From the request's header to the last byte of the answer.
    pub(crate) total_ms: f64,
    /// Who logged in, or whose token it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<&'a str>,
    /// What the caller's token says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<&'static str>,
    /// The subject of the certificate that the client showed, cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<&'a str>,
    /// `User-Agent`, cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_agent: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::SystemTime;

    use super::{AccessLine, Outcome, StaleReason};
    use pierhead_service::logging::Time;

    #[test]
    fn every_field_is_documented() {
        let line = AccessLine {
            time: Time(SystemTime::UNIX_EPOCH),
            id: "",
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            listener: "",
            protocol: "",
            method: "",
            registry: Some(""),
            repository: Some(""),
            reference: Some(""),
            path: Some(""),
            kind: "",
            outcome: "",
            reason: Some(""),
            pool: Some(""),
            server: Some(""),
            retries: 1,
            error: Some(""),
            status: 0,
            bytes: 0,
            aborted: true,
            ttfb_ms: 0.0,
            total_ms: 0.0,
            user: Some(""),
            token: Some(""),
            certificate: Some(""),
            user_agent: Some(""),
        };
        let line = serde_json::to_value(&line).unwrap();
        let fields: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        let table = include_str!("../../../docs/operating.md").split("## The log").nth(1).unwrap();
        let table = table.split("## ").next().unwrap();
        let documented = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(documented.collect::<BTreeSet<_>>(), fields);
    }

    #[test]
    fn stale_says_why() {
        let outcome = Outcome::Stale(StaleReason::Revalidating);
        assert_eq!((outcome.as_str(), outcome.reason(), outcome.is_stale()), ("stale", Some("revalidating"), true));
    }
}
