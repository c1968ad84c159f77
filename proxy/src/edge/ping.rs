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

use std::sync::Arc;

use pierhead_config::{AuthMode, Registry};

use super::Edge;
use super::credential;
use super::outcome::Outcome;
use super::passage::Passage;
use super::refusal::Refusal;
use super::resolve::{Found, Visit};
use super::respond::is_read;
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

impl Edge {
    /// Answers a ping. At the front door of a passthrough registry its servers answer.
    pub(super) fn ping(&self, visit: &Visit<'_>, trace: &mut super::Trace) -> Result<Found, Refused> {
        let named = self.routes.ping(visit.query.ns.as_deref(), visit.host).or(visit.door);
        let own = if is_read(&visit.request.method) { self.own_ping(visit) } else { Err(Refusal::Method.into()) };
        let Some(upstream) = named.and_then(|named| self.origin(named)).filter(|origin| origin.is_passthrough()) else {
            return own.map(Found::Served);
        };
        trace.registry = Some(Arc::clone(&upstream.name));
        // What is known is served while the origin is away, and no client gets to ask for it without a ping.
        if self.offline || !upstream.is_reachable() {
            return own.map(Found::Served);
        }
        let passage = self.passage(upstream, visit)?;
        Ok(Found::Passage(Passage { otherwise: Some(Box::new(own)), ..passage }))
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
    use super::{ByPath, is_challenged};

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
    fn a_name_with_a_port_fits_into_no_path() {
        let of = |name: &str, auth| Registry { auth, ..registry(name) };
        let hub = of("docker.io", AuthMode::Shared);
        let own = of("127.0.0.1:5000", AuthMode::Passthrough);
        assert_eq!(ByPath::of([&hub, &own]), ByPath { shared: true, passthrough: false });
        let named = of("own.example.com", AuthMode::Passthrough);
        assert_eq!(ByPath::of([&named]), ByPath { shared: false, passthrough: true });
    }
}
