//! What to do about a request, given what is known and what time it is. Pure.
//!
//! A tag is the only mutable fact in the cache, so every question of freshness is decided here.

use std::time::{Duration, SystemTime};

use pierhead_config::{OfflinePolicy, Registry};
use pierhead_registry::client::ClientError;

use super::outcome::StaleReason;
use super::verifier::Verdict;

/// What is known about something that may change: when upstream last confirmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// When upstream last said so.
    pub(crate) checked: SystemTime,
}

/// What to do about a tag or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The known answer is good.
    Serve,
    /// There is a known answer; ask upstream whether it still holds.
    Check,
    /// Nothing is known; ask upstream.
    Fetch,
    /// Nothing is known, and nobody may be asked.
    Refuse,
}

/// How far a moment is from now. One that lies ahead, because the clock went backwards, is no fresher than one that is
/// as long ago: otherwise it would count as fresh until the clock has caught up, for years perhaps.
fn age(now: SystemTime, moment: SystemTime) -> Duration {
    now.duration_since(moment).unwrap_or_else(|ahead| ahead.duration())
}

/// Decides about a mutable fact.
pub(crate) fn decide(known: Option<Known>, now: SystemTime, ttl: Duration, immutable: bool, offline: bool) -> Plan {
    match known {
        Some(_) if offline || immutable => Plan::Serve,
        Some(known) if age(now, known.checked) < ttl => Plan::Serve,
        Some(_) => Plan::Check,
        None if offline => Plan::Refuse,
        None => Plan::Fetch,
    }
}

/// What to do about a known answer that upstream did not confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unconfirmed {
    /// Serve it all the same, marked.
    ServeStale(StaleReason),
    /// Pass on that there is no such thing, and forget the known answer.
    Forget,
    /// Pass on what upstream said to this request. The known answer stays: it may still hold for another request.
    PassOn,
    /// Pass on that upstream failed.
    Fail,
}

/// Decides about a known answer when asking upstream gave an error. The rule:
///
/// - Nothing known is forgotten on less than a GET's 404 from the upstream that is responsible for it
///   ([`ClientError::NotFound`]), said to a caller who is authorised: to others a 404 may mean "not for you".
/// - Any other answer is one to this request alone: a refusal, a rejected request.
/// - A failure says nothing about the known answer. A refusal of the edge's own account is a failure.
/// - What upstream no longer confirms goes out when the policy says so, and only to a caller whom upstream authorised: recently, or
///   earlier where that counts while upstream fails. A no is never overlooked without a recent yes.
pub(crate) fn unconfirmed(error: &ClientError, authorisation: Authorisation, policy: Policy) -> Unconfirmed {
    let fresh = authorisation == Authorisation::Fresh;
    let failed = |reason| match authorisation {
        Authorisation::Fresh | Authorisation::AskElseKnown if policy.stale_if_error => Unconfirmed::ServeStale(reason),
        _ => Unconfirmed::Fail,
    };
    match error {
        error if error.is_answer() && fresh && policy.keep_deleted => Unconfirmed::ServeStale(StaleReason::Deleted),
        ClientError::NotFound { .. } if fresh => Unconfirmed::Forget,
        ClientError::NotFound { .. }
        | ClientError::Unauthorized { .. }
        | ClientError::Forbidden { .. }
        | ClientError::Rejected { .. } => Unconfirmed::PassOn,
        ClientError::RateLimited { .. } => failed(StaleReason::RateLimited),
        ClientError::AccountRefused { .. } => failed(StaleReason::AccountRefused),
        ClientError::Unconfirmed { .. } | ClientError::Unavailable { .. } | ClientError::Invalid { .. } => {
            failed(StaleReason::UpstreamFailed)
        }
    }
}

/// What the configuration says about known answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// `stale_if_error`
    pub(crate) stale_if_error: bool,
    /// `keep_deleted`
    pub(crate) keep_deleted: bool,
}

impl From<&Registry> for Policy {
    fn from(registry: &Registry) -> Policy {
        Policy { stale_if_error: registry.stale_if_error, keep_deleted: registry.keep_deleted }
    }
}

/// Whether a registry's failure to give referrers means that it has no referrers API. Registries without one answer with all kinds
/// of statuses, or with a page (notation#659); clients go on with the tag `sha256-<hex>` after a 404 alone. `own_query`: the
/// client asked for a page or more than a filter, so a rejection may be about that.
pub(crate) fn has_no_referrers(error: &ClientError, own_query: bool) -> bool {
    match error {
        ClientError::Rejected { status: 405 | 501, .. } => true,
        ClientError::Rejected { .. } => !own_query,
        ClientError::Unavailable { status, .. } => status.is_some(),
        ClientError::Invalid { .. } => true,
        ClientError::NotFound { .. }
        | ClientError::Unconfirmed { .. }
        | ClientError::Unauthorized { .. }
        | ClientError::Forbidden { .. }
        | ClientError::AccountRefused { .. }
        | ClientError::RateLimited { .. } => false,
    }
}

/// What a caller may have of what is known, by what upstream said to it before. Where all callers see what the edge's own account
/// sees, the edge is the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Authorisation {
    /// Upstream said yes, recently enough.
    Fresh,
    /// Upstream must be asked; if it cannot be, the earlier yes counts.
    AskElseKnown,
    /// Upstream must be asked.
    Ask,
    /// Nobody may be asked, and that means no.
    Refuse,
}

/// Decides whether a caller is authorised for a repository. `yes` is when upstream last said so, and `doubted` until when
/// a yes means little.
pub(crate) fn authorise(
    yes: Option<SystemTime>,
    doubted: SystemTime,
    now: SystemTime,
    ttl: Duration,
    policy: OfflinePolicy,
    offline: bool,
) -> Authorisation {
    match (yes, policy) {
        (Some(yes), _) if age(now, yes) < ttl && yes > doubted => Authorisation::Fresh,
        (Some(_), OfflinePolicy::AllowKnown) if offline => Authorisation::Fresh,
        (Some(_), OfflinePolicy::AllowKnown) => Authorisation::AskElseKnown,
        _ if offline => Authorisation::Refuse,
        _ => Authorisation::Ask,
    }
}

/// The same by what the caller's token says; `None`: nothing, and what upstream said counts. A token that has run out
/// says that nothing counts which upstream said to it before; nor does it where another repository may have been meant.
pub(crate) fn by_token(verdict: Verdict, offline: bool) -> Option<Authorisation> {
    match verdict {
        Verdict::Granted => Some(Authorisation::Fresh),
        Verdict::Expired | Verdict::OtherRepository if offline => Some(Authorisation::Refuse),
        Verdict::Expired | Verdict::OtherRepository => Some(Authorisation::Ask),
        Verdict::NotGranted | Verdict::Unverified => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use pierhead_config::{AuthMode, Globs, OfflinePolicy, Registry, Source, UpstreamEndpoint, UpstreamSettings};
    use pierhead_registry::client::ClientError;

    use super::{
        Authorisation, Known, Plan, Policy, StaleReason, Unconfirmed, Verdict, authorise, by_token, decide,
        has_no_referrers, unconfirmed,
    };

    const MINUTE: Duration = Duration::from_secs(60);

    /// A registry with defaults, for the tables of this room.
    pub(in crate::edge) fn registry(name: &str) -> Registry {
        Registry {
            name: name.to_owned(),
            hosts: Vec::new(),
            default: true,
            library: name == "docker.io",
            upstream: UpstreamSettings {
                source: Source::Upstream(vec![UpstreamEndpoint {
                    url: "http://127.0.0.1:1".parse().unwrap(),
                    ca: None,
                    client_certificate: None,
                    repository_prefix: None,
                    credentials: None,
                }]),
                credentials: None,
                realms: Vec::new(),
                redirects_to: Vec::new(),
                connect_timeout: MINUTE,
                first_byte_timeout: MINUTE,
                idle_timeout: MINUTE,
                retries: 0,
                resume_for: MINUTE,
                cool_down: MINUTE,
                connections: 4,
                parallel_above: u64::MAX,
                max_manifest_size: 1 << 20,
            },
            auth: AuthMode::Shared,
            authorization_ttl: MINUTE,
            offline_policy: OfflinePolicy::Deny,
            token_keys: None,
            tag_ttl: MINUTE,
            negative_ttl: MINUTE,
            revalidate_budget: MINUTE,
            immutable_tags: Globs::default(),
            stale_if_error: true,
            keep_deleted: false,
            allow: Globs::default(),
            deny: Globs::default(),
            pin: Globs::default(),
            max_share: 80,
            rate: None,
        }
    }

    #[test]
    fn freshness() {
        let now = SystemTime::UNIX_EPOCH + 100 * MINUTE;
        let at = |minute: u32| Some(Known { checked: SystemTime::UNIX_EPOCH + minute * MINUTE });
        for (known, immutable, offline, expected) in [
            (at(100), false, false, Plan::Serve),
            (at(96), false, false, Plan::Serve),
            (at(95), false, false, Plan::Check),
            (at(0), false, false, Plan::Check),
            (at(101), false, false, Plan::Serve),
            (at(105), false, false, Plan::Check),
            (at(900), false, false, Plan::Check),
            (at(0), true, false, Plan::Serve),
            (at(0), false, true, Plan::Serve),
            (None, false, false, Plan::Fetch),
            (None, true, false, Plan::Fetch),
            (None, false, true, Plan::Refuse),
        ] {
            assert_eq!(decide(known, now, 5 * MINUTE, immutable, offline), expected, "{known:?} {immutable} {offline}");
        }
    }

    /// Every error that a client of a registry gives.
    fn errors() -> [ClientError; 9] {
        let (registry, host, status) = (|| "r".to_owned(), || "h".to_owned(), Some(500));
        let reason = String::new;
        [
            ClientError::NotFound { registry: registry() },
            ClientError::Unauthorized { registry: registry() },
            ClientError::Forbidden { registry: registry() },
            ClientError::Rejected { registry: registry(), status: 400, content_type: None, body: Bytes::new() },
            ClientError::Unconfirmed { registry: registry(), status: 404 },
            ClientError::AccountRefused { registry: registry(), host: host(), status: 401 },
            ClientError::RateLimited { registry: registry(), host: host(), retry_after: MINUTE },
            ClientError::Unavailable { registry: registry(), host: host(), status, reason: reason() },
            ClientError::Invalid { registry: registry(), host: host(), status, reason: reason() },
        ]
    }

    #[test]
    fn nothing_is_forgotten_on_less_than_a_404_to_who_may_ask() {
        use Unconfirmed::{Fail, Forget, PassOn, ServeStale};
        let deleted = ServeStale(StaleReason::Deleted);
        let (limited, failed) = (ServeStale(StaleReason::RateLimited), ServeStale(StaleReason::UpstreamFailed));
        let account = ServeStale(StaleReason::AccountRefused);
        // By policy and authorisation; the errors in their order.
        for (stale_if_error, keep_deleted, authorisation, expected) in [
            (
                true,
                false,
                Authorisation::Fresh,
                [Forget, PassOn, PassOn, PassOn, failed, account, limited, failed, failed],
            ),
            (false, false, Authorisation::Fresh, [Forget, PassOn, PassOn, PassOn, Fail, Fail, Fail, Fail, Fail]),
            (
                true,
                true,
                Authorisation::Fresh,
                [deleted, deleted, deleted, deleted, failed, account, limited, failed, failed],
            ),
            (false, true, Authorisation::Fresh, [deleted, deleted, deleted, deleted, Fail, Fail, Fail, Fail, Fail]),
            (
                true,
                false,
                Authorisation::AskElseKnown,
                [PassOn, PassOn, PassOn, PassOn, failed, account, limited, failed, failed],
            ),
            (false, false, Authorisation::AskElseKnown, [PassOn, PassOn, PassOn, PassOn, Fail, Fail, Fail, Fail, Fail]),
            (
                true,
                true,
                Authorisation::AskElseKnown,
                [PassOn, PassOn, PassOn, PassOn, failed, account, limited, failed, failed],
            ),
            (true, true, Authorisation::Ask, [PassOn, PassOn, PassOn, PassOn, Fail, Fail, Fail, Fail, Fail]),
            (true, true, Authorisation::Refuse, [PassOn, PassOn, PassOn, PassOn, Fail, Fail, Fail, Fail, Fail]),
        ] {
            let policy = Policy { stale_if_error, keep_deleted };
            for (error, expected) in errors().iter().zip(expected) {
                assert_eq!(unconfirmed(error, authorisation, policy), expected, "{error} {authorisation:?} {policy:?}");
            }
        }
    }

    #[test]
    fn a_registry_without_referrers() {
        let registry = || "r".to_owned();
        let rejected =
            |status| ClientError::Rejected { registry: registry(), status, content_type: None, body: Bytes::new() };
        for (status, own_query, expected) in
            [(400, false, true), (400, true, false), (405, true, true), (501, true, true), (416, false, true)]
        {
            assert_eq!(has_no_referrers(&rejected(status), own_query), expected, "{status} {own_query}");
        }
        let [not_found, unauthorized, forbidden, _, unconfirmed, account, limited, failed, invalid] = errors();
        for error in [failed, invalid] {
            assert!(has_no_referrers(&error, true), "{error}");
        }
        for error in [not_found, unauthorized, forbidden, unconfirmed, account, limited] {
            assert!(!has_no_referrers(&error, false), "{error}");
        }
        let (host, reason) = (String::new(), String::new());
        let dead = ClientError::Unavailable { registry: registry(), host, status: None, reason };
        assert!(!has_no_referrers(&dead, false));
    }

    #[test]
    fn authorisations() {
        let now = SystemTime::UNIX_EPOCH + 100 * MINUTE;
        let (recent, old, ahead) = (Some(now - MINUTE), Some(now - 50 * MINUTE), Some(now + 50 * MINUTE));
        use OfflinePolicy::{AllowKnown, Deny};
        for (yes, policy, offline, expected) in [
            (recent, Deny, false, Authorisation::Fresh),
            (recent, Deny, true, Authorisation::Fresh),
            (old, Deny, false, Authorisation::Ask),
            (old, Deny, true, Authorisation::Refuse),
            (ahead, Deny, false, Authorisation::Ask),
            (ahead, Deny, true, Authorisation::Refuse),
            (old, AllowKnown, false, Authorisation::AskElseKnown),
            (old, AllowKnown, true, Authorisation::Fresh),
            (None, AllowKnown, false, Authorisation::Ask),
            (None, AllowKnown, true, Authorisation::Refuse),
        ] {
            let since = SystemTime::UNIX_EPOCH;
            assert_eq!(
                authorise(yes, since, now, 5 * MINUTE, policy, offline),
                expected,
                "{yes:?} {policy:?} {offline}"
            );
        }
        // What callers show changed since.
        for (yes, policy, expected) in [
            (recent, Deny, Authorisation::Ask),
            (recent, AllowKnown, Authorisation::AskElseKnown),
            (Some(now), Deny, Authorisation::Fresh),
        ] {
            let since = now - MINUTE;
            assert_eq!(authorise(yes, since, now, 5 * MINUTE, policy, false), expected, "{yes:?} {policy:?}");
        }
    }

    #[test]
    fn tokens() {
        for (verdict, offline, expected) in [
            (Verdict::Granted, false, Some(Authorisation::Fresh)),
            (Verdict::Granted, true, Some(Authorisation::Fresh)),
            (Verdict::Expired, false, Some(Authorisation::Ask)),
            (Verdict::Expired, true, Some(Authorisation::Refuse)),
            (Verdict::OtherRepository, false, Some(Authorisation::Ask)),
            (Verdict::OtherRepository, true, Some(Authorisation::Refuse)),
            (Verdict::NotGranted, false, None),
            (Verdict::NotGranted, true, None),
            (Verdict::Unverified, false, None),
        ] {
            assert_eq!(by_token(verdict, offline), expected, "{verdict:?} {offline}");
        }
    }
}
