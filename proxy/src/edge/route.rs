//! Which registry and which repository a request names. Pure.
//!
//! First match wins: `?ns=` (containerd); the Host header (virtual hosts); the first path segment (podman, Docker with a
//! location); the default registry (Docker's `registry-mirrors`). A registry that is named and not served is refused,
//! never taken for a repository of the default one: the answer would be another image than the one that was asked for.

use std::collections::HashMap;

use pierhead_config::Registry;
use pierhead_registry::oci::RepositoryName;

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
    /// How it was named.
    pub(crate) addressed: Addressed,
}

/// All names of all registries.
pub(crate) struct Routes {
    names: HashMap<String, usize>,
    hosts: HashMap<String, usize>,
    default: Option<usize>,
}

impl Routes {
    /// Indexes the configured registries.
    pub(crate) fn new<'a>(registries: impl IntoIterator<Item = &'a Registry>) -> Routes {
        let mut routes = Routes { names: HashMap::new(), hosts: HashMap::new(), default: None };
        for (index, registry) in registries.into_iter().enumerate() {
            routes.names.insert(registry.name.to_ascii_lowercase(), index);
            for host in &registry.hosts {
                routes.hosts.insert(host.to_ascii_lowercase(), index);
            }
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

    /// The registry whose front door a host is: its own, or else the default's.
    pub(crate) fn door(&self, host: Option<&str>) -> Option<usize> {
        host.and_then(|host| self.by_host(host)).or(self.default)
    }

    /// Finds the registry, and takes its name off the repository's. `library` tells whether one-part names of a
    /// registry lie below `library/`. Whether it serves the repository (`allow`, `deny`) is for the caller to ask.
    pub(crate) fn route(
        &self,
        library: &dyn Fn(usize) -> bool,
        ns: Option<&str>,
        host: Option<&str>,
        name: &str,
    ) -> Result<Route, Refusal> {
        let (registry, addressed, rest) = self.find(ns, host, name).ok_or(Refusal::NotServed)?;
        let repository = match rest.split_once('/') {
            None if library(registry) => format!("library/{rest}").parse(),
            // A registry that is not served here: no name on docker.io starts with one that has a dot or a colon.
            Some((first, _)) if addressed == Addressed::Default && library(registry) && first.contains(['.', ':']) => {
                return Err(Refusal::NotServed);
            }
            _ => rest.parse(),
        };
        Ok(Route { registry, repository: repository.map_err(Refusal::Name)?, addressed })
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

    fn by_name(&self, name: &str) -> Option<usize> {
        lookup(&self.names, name)
    }

    fn by_host(&self, host: &str) -> Option<usize> {
        if self.hosts.is_empty() {
            return None;
        }
        // With its port where the configuration names one, else without.
        lookup(&self.hosts, host).or_else(|| {
            let (name, port) = host.rsplit_once(':')?;
            port.bytes().all(|c| c.is_ascii_digit()).then(|| lookup(&self.hosts, name))?
        })
    }
}

/// Host names know no case, and hardly anybody writes them in capitals.
fn lookup(names: &HashMap<String, usize>, name: &str) -> Option<usize> {
    if name.bytes().any(|c| c.is_ascii_uppercase()) {
        names.get(&name.to_ascii_lowercase()).copied()
    } else {
        names.get(name).copied()
    }
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

/// A path with its query, but for `ns`, which means something to an edge alone. The rest stays as it was written.
pub(crate) fn without_ns(path: &str, query: &str) -> String {
    let is_ns = |pair: &str| url::form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(name, _)| name == "ns");
    let rest: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !is_ns(pair)).collect();
    if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Addressed, Query, Refusal, Routes};

    fn routes(default: Option<usize>) -> Routes {
        Routes {
            names: HashMap::from([
                ("docker.io".to_owned(), 0),
                ("registry.local:5000".to_owned(), 1),
                ("quay.io".to_owned(), 2),
            ]),
            hosts: HashMap::from([("quay.example.com".to_owned(), 2), ("local.example.com:8443".to_owned(), 1)]),
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
            (None, Some("edge"), "docker.io/alpine", Some((0, "library/alpine", Addressed::Path))),
            (None, Some("edge"), "docker.io/grafana/grafana", Some((0, "grafana/grafana", Addressed::Path))),
            (None, None, "registry.local:5000/a", Some((1, "a", Addressed::Path))),
            (None, None, "grafana/grafana", Some((0, "grafana/grafana", Addressed::Default))),
            (None, None, "unknown.io/a", None),
            (None, None, "unknown:5000/a", None),
        ] {
            let route = routes(Some(0)).route(&|registry| registry == 0, ns, host, name).ok();
            let route = route.as_ref().map(|route| (route.registry, route.repository.as_str(), route.addressed));
            assert_eq!(route, expected, "{ns:?} {host:?} {name}");
        }
    }

    #[test]
    fn refuses() {
        let library = |_| false;
        assert!(matches!(routes(None).route(&library, None, None, "a/b"), Err(Refusal::NotServed)));
        assert!(matches!(routes(Some(0)).route(&library, None, None, "A/b"), Err(Refusal::Name(_))));
        assert!(routes(Some(0)).route(&library, None, None, "group.with.dots/a").is_ok());
        assert!(matches!(routes(Some(0)).route(&library, None, None, "docker.io/"), Err(Refusal::Name(_))));
        assert!(matches!(routes(Some(0)).route(&library, None, None, "docker.io/../b"), Err(Refusal::Name(_))));
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
    fn takes_ns_off() {
        for (query, expected) in [
            ("ns=quay.io", "/v2/a"),
            ("n=5&ns=quay.io&last=b%2Fc", "/v2/a?n=5&last=b%2Fc"),
            ("%6es=quay.io&nsx=1", "/v2/a?nsx=1"),
            ("ns", "/v2/a"),
        ] {
            assert_eq!(super::without_ns("/v2/a", query), expected, "{query}");
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
