//! Which registry and which repository a request names. Pure.
//!
//! First match wins: `?ns=` (containerd); the Host header (virtual hosts); the first path segment (podman, Docker with a
//! location); the default registry (Docker's `registry-mirrors`). A registry that is named and not served is refused,
//! never taken for a repository of the default one: the answer would be another image than the one that was asked for.
//!
//! A client may name the registry twice: BuildKit and containerd add `?ns=` to a mirror whose path has the registry's name
//! already. The name is then taken off the path. A repository can have that name as its own first part, except on
//! docker.io; so the other reading is kept as [`Route::otherwise`].

use std::collections::HashMap;

use pierhead_config::{Registry, Source};
use pierhead_registry::oci::RepositoryName;

use super::client::canonical_host;
use super::refusal::Refusal;

/// Longest query that is read.
const QUERY_LIMIT: usize = 2048;
/// Most parameters of a query.
const PARAMETERS: usize = 16;

/// How a request named its registry; links in answers name it the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addressed {
    /// `?ns=`
    Namespace,
    /// By the Host header.
    Host,
    /// As the first path segment.
    Path,
    /// Not at all.
    Default,
}

/// A registry (by its place in the configuration) and a repository in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Index into the configured registries.
    pub(crate) registry: usize,
    /// The repository, in upstream's words.
    pub(crate) repository: RepositoryName,
    /// The other way to read a name that begins with the registry's own: for pulls, when the registry has no `repository`.
    pub(crate) otherwise: Option<RepositoryName>,
    /// How it was named.
    pub(crate) addressed: Addressed,
}

/// What decides how the names of a registry's repositories are read.
#[derive(Clone, Copy, Debug, Default)]
struct Naming {
    /// One-part names lie below `library/`, and no repository's name begins with a host.
    library: bool,
    /// This edge is the front of the registry: what is pushed under a name is pulled under that name.
    front: bool,
}

/// All names of all registries.
pub(crate) struct Routes {
    names: HashMap<String, usize>,
    hosts: HashMap<String, usize>,
    naming: Vec<Naming>,
    default: Option<usize>,
}

impl Routes {
    /// Indexes the configured registries.
    pub(crate) fn new<'a>(registries: impl IntoIterator<Item = &'a Registry>) -> Routes {
        let mut routes = Routes { names: HashMap::new(), hosts: HashMap::new(), naming: Vec::new(), default: None };
        for (index, registry) in registries.into_iter().enumerate() {
            routes.names.insert(canonical_host(&registry.name).into_owned(), index);
            for host in &registry.hosts {
                routes.hosts.insert(canonical_host(host).into_owned(), index);
            }
            let front = matches!(registry.upstream.source, Source::Pool(_));
            routes.naming.push(Naming { library: registry.library, front });
            if registry.default {
                routes.default = Some(index);
            }
        }
        routes
    }

    /// The one registry that a request without a repository (`/v2/`) names; `None` when it may be about any.
    pub(crate) fn ping(&self, ns: Option<&str>, host: Option<&str>) -> Option<usize> {
        match ns {
            Some(ns) => self.by_namespace(ns),
            None => host.and_then(|host| self.by_host(host)),
        }
    }

    /// The default registry.
    pub(crate) fn default_registry(&self) -> Option<usize> {
        self.default
    }

    /// The registry whose front door a host is: its own, or else the default's.
    pub(crate) fn door(&self, host: Option<&str>) -> Option<usize> {
        host.and_then(|host| self.by_host(host)).or(self.default)
    }

    /// Finds the registry, and takes its name off the repository's. Whether it serves the repository (`allow`, `deny`) is
    /// for the caller to ask.
    pub(crate) fn route(&self, ns: Option<&str>, host: Option<&str>, name: &str) -> Result<Route, Refusal> {
        let (registry, addressed, rest) = self.find(ns, host, name).ok_or(Refusal::NotServed)?;
        let Naming { library, front } = self.naming.get(registry).copied().unwrap_or_default();
        // A registry that is not served here: no name on docker.io starts with one that has a dot or a colon.
        if addressed == Addressed::Default && library && rest.split_once('/').is_some_and(|(first, _)| is_host(first)) {
            return Err(Refusal::NotServed);
        }
        let short = rest.split_once('/').filter(|(first, _)| self.is_named(registry, first)).map(|(_, short)| short);
        let (first, second) = match (addressed, short) {
            (Addressed::Namespace, Some(short)) if library => (short, None),
            (Addressed::Namespace, Some(short)) => (short, Some(rest)),
            (Addressed::Host, Some(short)) if !front => (rest, Some(short)),
            _ => (rest, None),
        };
        let repository = |name: &str| match name.contains('/') || !library {
            true => name.parse(),
            false => format!("library/{name}").parse(),
        };
        let otherwise = second.and_then(|name| repository(name).ok());
        Ok(Route { registry, repository: repository(first).map_err(Refusal::Name)?, otherwise, addressed })
    }

    /// Whether a first part of a path can only be meant as a registry's host, and it is this registry's.
    fn is_named(&self, registry: usize, first: &str) -> bool {
        is_host(first) && self.by_namespace(first) == Some(registry)
    }

    fn find<'n>(&self, ns: Option<&str>, host: Option<&str>, name: &'n str) -> Option<(usize, Addressed, &'n str)> {
        if let Some(ns) = ns {
            return Some((self.by_namespace(ns)?, Addressed::Namespace, name));
        }
        if let Some(registry) = host.and_then(|host| self.by_host(host)) {
            return Some((registry, Addressed::Host, name));
        }
        if let Some((first, rest)) = name.split_once('/')
            && let Some(registry) = self.by_name(first)
        {
            return Some((registry, Addressed::Path, rest));
        }
        self.default.map(|registry| (registry, Addressed::Default, name))
    }

    fn by_namespace(&self, ns: &str) -> Option<usize> {
        self.by_name(ns).or_else(|| self.by_host(ns))
    }

    /// With the port of HTTPS a registry is the one without.
    fn by_name(&self, name: &str) -> Option<usize> {
        let name = canonical_host(name);
        let without = || self.names.get(name.strip_suffix(":443")?);
        self.names.get(&*name).or_else(without).copied()
    }

    fn by_host(&self, host: &str) -> Option<usize> {
        if self.hosts.is_empty() {
            return None;
        }
        // With its port where the configuration names one, else without.
        let host = canonical_host(host);
        let without = || {
            let (name, port) = host.rsplit_once(':')?;
            port.bytes().all(|c| c.is_ascii_digit()).then(|| self.hosts.get(name))?
        };
        self.hosts.get(&*host).or_else(without).copied()
    }
}

/// Whether a first part of a path is a host's name and not one of a namespace: clients tell the two apart by this.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':'])
}

/// The parts of a query that mean something here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// `ns`: the registry.
    pub(crate) ns: Option<String>,
    /// Everything else (`n`, `last`, `artifactType`, upstream's own): what a list is to hold. Sorted and escaped anew,
    /// so that equal wishes read equal.
    pub(crate) list: Option<String>,
}

impl Query {
    /// Reads a query.
    pub(crate) fn parse(query: Option<&str>) -> Result<Query, Refusal> {
        let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(Query::default()) };
        if query.len() > QUERY_LIMIT {
            return Err(Refusal::Query);
        }
        let (mut ns, mut list) = (None, Vec::new());
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if value.contains(char::REPLACEMENT_CHARACTER) || list.len() == PARAMETERS {
                return Err(Refusal::Query);
            }
            if name == "ns" {
                ns = Some(value.into_owned()).filter(|ns| !ns.is_empty());
            } else {
                list.push((name, value));
            }
        }
        list.sort();
        let written = (!list.is_empty())
            .then(|| url::form_urlencoded::Serializer::new(String::new()).extend_pairs(list).finish());
        Ok(Query { ns, list: written })
    }
}

/// A path with its query, but for these parameters. The rest stays as it was written.
pub(crate) fn without(parameters: &[&str], path: &str, query: &str) -> String {
    let is_dropped = |pair: &str| {
        let name = url::form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name);
        name.is_some_and(|name| parameters.contains(&&*name))
    };
    let rest: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !is_dropped(pair)).collect();
    if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) }
}

/// A path of the registry API without the first part of its name, which is `first`; `None` where the path writes that in another way.
pub(crate) fn without_first(path: &str, first: &str) -> Option<String> {
    let rest = path.strip_prefix("/v2/")?.strip_prefix(first)?;
    rest.starts_with('/').then(|| format!("/v2{rest}"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Addressed, Naming, Query, Refusal, Routes};

    fn routes(default: Option<usize>) -> Routes {
        Routes {
            names: HashMap::from([
                ("docker.io".to_owned(), 0),
                ("registry.local:5000".to_owned(), 1),
                ("quay.io".to_owned(), 2),
                ("front.io".to_owned(), 3),
            ]),
            hosts: HashMap::from([
                ("quay.example.com".to_owned(), 2),
                ("local.example.com:8443".to_owned(), 1),
                ("front.example.com".to_owned(), 3),
            ]),
            naming: vec![
                Naming { library: true, front: false },
                Naming::default(),
                Naming::default(),
                Naming { library: false, front: true },
            ],
            default,
        }
    }

    #[test]
    fn first_match_wins() {
        for (ns, host, name, expected) in [
            (
                Some("docker.io"),
                Some("quay.example.com"),
                "library/alpine",
                Some((0, "library/alpine", Addressed::Namespace)),
            ),
            (Some("docker.io"), None, "alpine", Some((0, "library/alpine", Addressed::Namespace))),
            (Some("quay.example.com"), None, "a/b", Some((2, "a/b", Addressed::Namespace))),
            (Some("unknown.io"), Some("quay.example.com"), "docker.io/a", None),
            (None, Some("quay.example.com"), "docker.io/a", Some((2, "docker.io/a", Addressed::Host))),
            (None, Some("QUAY.example.com:443"), "a", Some((2, "a", Addressed::Host))),
            (None, Some("local.example.com:8443"), "a", Some((1, "a", Addressed::Host))),
            (None, Some("local.example.com"), "a", Some((0, "library/a", Addressed::Default))),
            (None, Some("quay.example.com."), "a", Some((2, "a", Addressed::Host))),
            (None, Some("Quay.Example.com.:443"), "a", Some((2, "a", Addressed::Host))),
            (None, Some("quay.example.com:"), "a", Some((2, "a", Addressed::Host))),
            (None, Some("local.example.com.:08443"), "a", Some((1, "a", Addressed::Host))),
            (Some("quay.io."), None, "a", Some((2, "a", Addressed::Namespace))),
            (Some("QUAY.io:443"), None, "a", Some((2, "a", Addressed::Namespace))),
            (Some("quay.io:5000"), None, "a", None),
            (Some("quay.example.com.:443"), None, "a", Some((2, "a", Addressed::Namespace))),
            (None, Some("edge"), "quay.io:443/a", Some((2, "a", Addressed::Path))),
            (None, Some("edge"), "docker.io/alpine", Some((0, "library/alpine", Addressed::Path))),
            (None, Some("edge"), "docker.io/grafana/grafana", Some((0, "grafana/grafana", Addressed::Path))),
            (None, None, "registry.local:5000/a", Some((1, "a", Addressed::Path))),
            (None, None, "grafana/grafana", Some((0, "grafana/grafana", Addressed::Default))),
            (None, None, "unknown.io/a", None),
            (None, None, "unknown:5000/a", None),
        ] {
            let route = routes(Some(0)).route(ns, host, name).ok();
            let route = route.as_ref().map(|route| (route.registry, route.repository.as_str(), route.addressed));
            assert_eq!(route, expected, "{ns:?} {host:?} {name}");
        }
    }

    /// moby/buildkit#3427: the registry's name stands in the path and in `?ns=`.
    #[test]
    fn a_registry_that_is_named_twice() {
        for (ns, host, name, expected, otherwise) in [
            (Some("docker.io"), None, "docker.io/library/app", "library/app", None),
            (Some("docker.io"), None, "docker.io/app", "library/app", None),
            (Some("docker.io"), None, "DOCKER.IO.:443/app", "library/app", None),
            (Some("docker.io:443"), None, "docker.io/team/app", "team/app", None),
            (Some("quay.io"), None, "quay.io/team/app", "team/app", Some("quay.io/team/app")),
            (Some("quay.io"), None, "quay.example.com/team/app", "team/app", Some("quay.example.com/team/app")),
            (Some("quay.example.com"), None, "quay.io/team/app", "team/app", Some("quay.io/team/app")),
            (Some("registry.local:5000"), None, "registry.local:5000/app", "app", None),
            (Some("front.io"), None, "front.io/app", "app", Some("front.io/app")),
            // Another registry's name is a name like any other.
            (Some("quay.io"), None, "docker.io/team/app", "docker.io/team/app", None),
            (Some("quay.io"), None, "quay.io", "quay.io", None),
            (Some("quay.io"), None, "quay/app", "quay/app", None),
            // Under the host's name first the repository that is really called so.
            (None, Some("quay.example.com"), "quay.example.com/app", "quay.example.com/app", Some("app")),
            (None, Some("quay.example.com"), "quay.io/app", "quay.io/app", Some("app")),
            (None, Some("quay.example.com"), "docker.io/app", "docker.io/app", None),
            // What is pushed under a name is pulled under it.
            (None, Some("front.example.com"), "front.example.com/app", "front.example.com/app", None),
            // Taken off once.
            (None, None, "quay.io/quay.io/app", "quay.io/app", None),
        ] {
            let route = routes(Some(0)).route(ns, host, name).unwrap();
            let found = (route.repository.as_str(), route.otherwise.as_ref().map(|name| name.as_str()));
            assert_eq!(found, (expected, otherwise), "{ns:?} {host:?} {name}");
        }
    }

    #[test]
    fn refuses() {
        assert!(matches!(routes(None).route(None, None, "a/b"), Err(Refusal::NotServed)));
        assert!(matches!(routes(Some(1)).route(None, None, "A/b"), Err(Refusal::Name(_))));
        assert!(routes(Some(1)).route(None, None, "group.with.dots/a").is_ok());
        assert!(matches!(routes(Some(1)).route(None, None, "docker.io/"), Err(Refusal::Name(_))));
        assert!(matches!(routes(Some(1)).route(None, None, "docker.io/../b"), Err(Refusal::Name(_))));
    }

    #[test]
    fn pings() {
        let routes = routes(Some(0));
        assert_eq!(routes.ping(Some("quay.io"), None), Some(2));
        assert_eq!(routes.ping(None, Some("quay.example.com")), Some(2));
        assert_eq!(routes.ping(None, Some("edge")), None);
    }

    #[test]
    fn doors() {
        for (default, host, expected) in [
            (Some(0), Some("quay.example.com"), Some(2)),
            (Some(0), Some("edge"), Some(0)),
            (Some(0), None, Some(0)),
            (None, Some("edge"), None),
            (None, Some("quay.example.com:443"), Some(2)),
        ] {
            assert_eq!(routes(default).door(host), expected, "{default:?} {host:?}");
        }
    }

    #[test]
    fn takes_parameters_and_parts_off() {
        for (query, expected) in [
            ("ns=quay.io", "/v2/a"),
            ("n=5&ns=quay.io&last=b%2Fc", "/v2/a?n=5&last=b%2Fc"),
            ("%6es=quay.io&nsx=1", "/v2/a?nsx=1"),
            ("ns", "/v2/a"),
        ] {
            assert_eq!(super::without(&["ns"], "/v2/a", query), expected, "{query}");
        }
        let mount = "mount=sha256%3Aab&ns=x&%66rom=Bad//Name&a=b";
        assert_eq!(super::without(&["mount", "from"], "/v2/a", mount), "/v2/a?ns=x&a=b");
        for (path, expected) in [
            ("/v2/quay.io/a/manifests/1", Some("/v2/a/manifests/1")),
            ("/v2/quay.iox/a/manifests/1", None),
            ("/v2/quay.io%2Fa/manifests/1", None),
            ("/v1/quay.io/a", None),
        ] {
            assert_eq!(super::without_first(path, "quay.io").as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn queries() {
        for (query, ns, list) in [
            (None, None, None),
            (Some(""), None, None),
            (Some("ns=docker.io"), Some("docker.io"), None),
            (Some("ns=registry.local%3A5000&x=y"), Some("registry.local:5000"), Some("x=y")),
            (Some("last=b&n=5"), None, Some("last=b&n=5")),
            (Some("n=5&last=b&ns=a.b"), Some("a.b"), Some("last=b&n=5")),
            (Some("artifactType=a%2Fb%2Bjson"), None, Some("artifactType=a%2Fb%2Bjson")),
            (Some("ns="), None, None),
        ] {
            let parsed = Query::parse(query).unwrap();
            assert_eq!((parsed.ns.as_deref(), parsed.list.as_deref()), (ns, list), "{query:?}");
        }
        assert!(Query::parse(Some(&"n".repeat(3000))).is_err());
        assert!(Query::parse(Some("ns=%ff")).is_err());
    }
}
