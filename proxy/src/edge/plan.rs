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
    /// Pass on what upstream said, and forget the known answer.
    Forget,
    /// Pass on that upstream failed.
    Refuse,
}

/// Decides about a known answer when asking upstream gave an error.
pub(crate) fn unconfirmed(error: &ClientError, registry: &Registry) -> Unconfirmed {
    match error {
        error if error.is_answer() && registry.keep_deleted => Unconfirmed::ServeStale(StaleReason::Deleted),
        ClientError::Rejected { .. } => Unconfirmed::Refuse,
        error if error.is_answer() => Unconfirmed::Forget,
        _ if !registry.stale_if_error => Unconfirmed::Refuse,
        ClientError::RateLimited { .. } => Unconfirmed::ServeStale(StaleReason::RateLimited),
        _ => Unconfirmed::ServeStale(StaleReason::UpstreamFailed),
    }
}

/// What a caller of a passthrough registry gets, by what upstream said to it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    use pierhead_config::{AuthMode, Globs, OfflinePolicy, Registry, Source, UpstreamEndpoint, UpstreamSettings};
    use pierhead_registry::client::ClientError;

    use super::{
        Authorisation, Known, Plan, StaleReason, Unconfirmed, Verdict, authorise, by_token, decide, unconfirmed,
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
                }]),
                credentials: None,
                realms: Vec::new(),
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

    #[test]
    fn errors() {
        let name = || "r".to_owned();
        let not_found = ClientError::NotFound { registry: name() };
        let forbidden = ClientError::Forbidden { registry: name() };
        let (host, status, reason) = (String::new(), None, String::new());
        let down = ClientError::Unavailable { registry: name(), host: host.clone(), status, reason: reason.clone() };
        let nonsense = ClientError::Invalid { registry: name(), host: host.clone(), status, reason };
        let limited = ClientError::RateLimited { registry: name(), host, retry_after: MINUTE };
        for (error, stale_if_error, keep_deleted, expected) in [
            (&not_found, true, false, Unconfirmed::Forget),
            (&not_found, true, true, Unconfirmed::ServeStale(StaleReason::Deleted)),
            (&forbidden, true, false, Unconfirmed::Forget),
            (&forbidden, false, true, Unconfirmed::ServeStale(StaleReason::Deleted)),
            (&down, true, false, Unconfirmed::ServeStale(StaleReason::UpstreamFailed)),
            (&down, false, true, Unconfirmed::Refuse),
            (&nonsense, true, false, Unconfirmed::ServeStale(StaleReason::UpstreamFailed)),
            (&limited, true, false, Unconfirmed::ServeStale(StaleReason::RateLimited)),
            (&limited, false, false, Unconfirmed::Refuse),
        ] {
            let registry = Registry { stale_if_error, keep_deleted, ..registry("r") };
            assert_eq!(unconfirmed(error, &registry), expected, "{error} {stale_if_error} {keep_deleted}");
        }
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
