//! `/v2/`, the first request of most clients. Podman, Skopeo and Docker's own image store learn only from its answer whether
//! and how to log in, so its answer decides whether they pull at all.
//!
//! The rule: a ping is about the registry that it names, by `?ns=` or by the Host header, else about the default registry.
//!
//! | that registry has | answer |
//! |---|---|
//! | `auth: shared` | 200 |
//! | `auth: passthrough` | 401 with a Basic challenge; with a `pool`, the answer of its servers |
//!
//! One case is left: the ping names none, the default registry is shared (or there is none), and a passthrough registry can
//! be reached by its path. A path does not show in a ping. Docker without an account gives up at a challenge, and then pulls
//! docker.io past this edge; so it gets 200. Clients of the containers/image library (Podman, Skopeo, Buildah, CRI-O) go on
//! without an account, and need the challenge to show one; so they are challenged. They are known by the header
//! [`VERSION_HEADER`], which they alone send with a request.
//!
//! While the servers of a pool are away, its edge answers a ping with a challenge, for its clients have to show their accounts to it:
//!
//! | the ping shows | and its registry let in before, in any repository | answer |
//! |---|---|---|
//! | an account | that user, only with other passwords | 401 |
//! | an account | that account, or not that user | 200 |
//! | nothing; the client gives up at a challenge | callers without an account alone (`allow_known`) | 200 |
//! | nothing | anything else | 401 with a Basic challenge |

use std::ops::ControlFlow;
use std::sync::Arc;

use pierhead_config::{AuthMode, OfflinePolicy, Registry};
use pierhead_registry::client::{Account, Credential};

use super::Edge;
use super::credential::{self, Caller};
use super::outcome::Outcome;
use super::passage::{Otherwise, Passage};
use super::refusal::Refusal;
use super::resolve::{Found, Visit};
use super::respond::is_read;
use super::scope::Upstream;
use super::served::{Content, Refused, Served};

/// The request header by which clients of containers/image are known.
const VERSION_HEADER: &str = "docker-distribution-api-version";

/// Which kinds of registries a path can lead to. A name with a port fits into no path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByPath {
    /// At least one that everybody may pull from.
    shared: bool,
    /// At least one that wants the caller's own account.
    passthrough: bool,
}

impl ByPath {
    /// Of these registries.
    pub(super) fn of<'a>(registries: impl IntoIterator<Item = &'a Registry>) -> ByPath {
        let mut kinds = ByPath::default();
        for registry in registries.into_iter().filter(|registry| !registry.name.contains(':')) {
            match registry.auth {
                AuthMode::Shared => kinds.shared = true,
                AuthMode::Passthrough => kinds.passthrough = true,
            }
        }
        kinds
    }
}

/// Whether a ping is answered with a challenge. `named` and `default`: whether that registry, if there is one, wants the
/// caller's own account. `goes_on`: the client pulls on without an account when it is challenged. Pure.
fn is_challenged(named: Option<bool>, default: Option<bool>, by_path: ByPath, goes_on: bool) -> bool {
    match named.or(default) {
        Some(true) => true,
        Some(false) if named.is_some() => false,
        Some(false) => by_path.passthrough && goes_on,
        None => by_path.passthrough && (goes_on || !by_path.shared),
    }
}

/// A ping that no server of the origin answers.
pub(crate) struct LonePing {
    upstream: Arc<Upstream>,
    account: Option<Account>,
    /// Whether the client has no account, and gives up at a challenge.
    gives_up: bool,
    /// The answer where nothing is known of callers.
    own: Result<Served, Refused>,
}

/// Whether a registry has let in an account before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SeenAccount {
    /// Nothing.
    #[default]
    Unknown,
    /// The user, and not with this password.
    OtherPassword,
    /// The account.
    Known,
}

impl SeenAccount {
    fn look(&mut self, known: &[u8; 32], account: &[u8; 32], user: Option<&[u8; 32]>) -> ControlFlow<()> {
        if known == account {
            *self = SeenAccount::Known;
            return ControlFlow::Break(());
        }
        if Some(known) == user {
            *self = SeenAccount::OtherPassword;
        }
        ControlFlow::Continue(())
    }
}

/// Which kinds of callers a registry has let in before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SeenPublic {
    /// It is not known to have let in anybody.
    #[default]
    None,
    /// Callers without an account.
    Only,
    /// An account. Its client needs the challenge.
    Accounts,
}

impl SeenPublic {
    fn look(&mut self, everybody: bool) -> ControlFlow<()> {
        if everybody {
            *self = SeenPublic::Only;
            return ControlFlow::Continue(());
        }
        *self = SeenPublic::Accounts;
        ControlFlow::Break(())
    }
}

impl Edge {
    /// Answers a ping. At the front door of a passthrough registry its servers answer.
    pub(super) async fn ping(&self, visit: &Visit<'_>, trace: &mut super::Trace) -> Result<Found, Refused> {
        let named = self.routes.ping(visit.query.ns.as_deref(), visit.host).or(visit.door);
        let own = if is_read(&visit.request.method) { self.own_ping(visit) } else { Err(Refusal::Method.into()) };
        let Some(upstream) = named.and_then(|named| self.origin(named)).filter(|origin| origin.is_passthrough()) else {
            return own.map(Found::Served);
        };
        trace.registry = Some(Arc::clone(&upstream.name));
        let alone = LonePing {
            upstream: Arc::clone(upstream),
            account: credential::basic(visit.authorization),
            gives_up: credential::is_nothing(visit.authorization)
                && !visit.request.headers.contains_key(VERSION_HEADER),
            own,
        };
        // What is known is served while the origin is away, and no client gets to ask for it without a ping.
        if self.offline || !upstream.is_reachable() {
            return self.answer_alone(alone).await.map(Found::Served);
        }
        let passage = self.passage(upstream, visit)?;
        Ok(Found::Passage(Passage { otherwise: Some(Otherwise::Ping(Box::new(alone))), ..passage }))
    }

    /// Answers a ping while the origin is away, by what is known of its callers.
    pub(super) async fn answer_alone(&self, ping: LonePing) -> Result<Served, Refused> {
        let (key, registry) = (&self.caller_key, &ping.upstream.name);
        if let (Ok(_), Some(account)) = (&ping.own, ping.account) {
            let caller = Caller::new(key, Some(Credential::Account(account)));
            let look =
                move |seen: &mut SeenAccount, known: &[u8; 32]| seen.look(known, &caller.id, caller.user.as_ref());
            if self.cache.callers(registry, look).await == SeenAccount::OtherPassword {
                return Err(Refusal::WrongPassword.into());
            }
        }
        let challenged = matches!(ping.own, Err(Refused { refusal: Refusal::Login, .. }));
        if challenged && ping.gives_up && ping.upstream.config.offline_policy == OfflinePolicy::AllowKnown {
            let everybody = [Caller::public(key).id, Caller::of_origin(key, None, true).id];
            let look = move |seen: &mut SeenPublic, known: &[u8; 32]| seen.look(everybody.contains(known));
            if self.cache.callers(registry, look).await == SeenPublic::Only {
                return Ok(Served::new(Content::Ping, Outcome::None));
            }
        }
        ping.own
    }

    /// The answer to a ping that is not the origin's. A challenged client that has no account sends none (or empty ones) and
    /// is then served as an anonymous caller; registries with `auth: shared` look at none of it.
    fn own_ping(&self, visit: &Visit<'_>) -> Result<Served, Refused> {
        let wants = |registry: usize| self.registries.get(registry).is_some_and(|registry| registry.is_passthrough());
        let named = self.routes.ping(visit.query.ns.as_deref(), visit.host).map(wants);
        let goes_on = visit.request.headers.contains_key(VERSION_HEADER);
        let challenged = is_challenged(named, self.routes.default_registry().map(wants), self.by_path, goes_on);
        // A token is one of an origin's that is away.
        let token = || self.has_origin && visit.authorization.is_some_and(credential::is_other);
        if challenged && credential::basic(visit.authorization).is_none() && !token() {
            return Err(Refusal::Login.into());
        }
        Ok(Served::new(Content::Ping, Outcome::None))
    }
}

#[cfg(test)]
mod tests {
    use pierhead_config::{AuthMode, Registry};

    use super::super::plan::tests::registry;
    use super::{ByPath, SeenAccount, SeenPublic, is_challenged};

    const SHARED: Option<bool> = Some(false);
    const OWN: Option<bool> = Some(true);

    #[test]
    fn a_ping_is_about_the_registry_that_it_names_else_about_the_default() {
        let (none, shared) = (ByPath::default(), ByPath { shared: true, passthrough: false });
        let own = ByPath { shared: false, passthrough: true };
        let both = ByPath { shared: true, passthrough: true };
        for (named, default, by_path, docker, podman) in [
            (SHARED, OWN, own, false, false),
            (SHARED, None, both, false, false),
            (OWN, SHARED, shared, true, true),
            (OWN, None, none, true, true),
            (None, OWN, both, true, true),
            (None, SHARED, shared, false, false),
            // The quickstart: the passthrough registry has a port in its name.
            (None, SHARED, none, false, false),
            (None, SHARED, both, false, true),
            (None, SHARED, own, false, true),
            (None, None, both, false, true),
            (None, None, own, true, true),
            (None, None, shared, false, false),
        ] {
            let case = format!("{named:?} {default:?} {by_path:?}");
            assert_eq!(is_challenged(named, default, by_path, false), docker, "Docker: {case}");
            assert_eq!(is_challenged(named, default, by_path, true), podman, "Podman: {case}");
        }
    }

    #[test]
    fn a_password_is_wrong_where_only_others_are_known() {
        let (account, user, other) = ([1; 32], [2; 32], [3; 32]);
        for (known, expected) in [
            (&[][..], SeenAccount::Unknown),
            (&[other], SeenAccount::Unknown),
            (&[user], SeenAccount::OtherPassword),
            (&[other, user, other], SeenAccount::OtherPassword),
            (&[user, account], SeenAccount::Known),
            (&[account, user, user], SeenAccount::Known),
        ] {
            let mut seen = SeenAccount::default();
            let _ = known.iter().try_for_each(|known| seen.look(known, &account, Some(&user)));
            assert_eq!(seen, expected, "{known:?}");
        }
    }

    #[test]
    fn a_registry_with_accounts_challenges() {
        for (everybody, expected) in [
            (&[][..], SeenPublic::None),
            (&[true], SeenPublic::Only),
            (&[true, false, true], SeenPublic::Accounts),
            (&[false, true], SeenPublic::Accounts),
        ] {
            let mut seen = SeenPublic::default();
            let _ = everybody.iter().try_for_each(|everybody| seen.look(*everybody));
            assert_eq!(seen, expected, "{everybody:?}");
        }
    }

    #[test]
    fn a_name_with_a_port_fits_into_no_path() {
        let of = |name: &str, auth| Registry { auth, ..registry(name) };
        let hub = of("docker.io", AuthMode::Shared);
        let own = of("127.0.0.1:5000", AuthMode::Passthrough);
        assert_eq!(ByPath::of([&hub, &own]), ByPath { shared: true, passthrough: false });
        let named = of("own.example.com", AuthMode::Passthrough);
        assert_eq!(ByPath::of([&named]), ByPath { shared: false, passthrough: true });
    }
}
