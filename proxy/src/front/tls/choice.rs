//! Which certificate a client gets to see.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use pierhead_service::told::canonical_host;

use super::certificate::Usable;

/// The certificates of a listener.
#[derive(Debug)]
pub(crate) struct Choice {
    keys: Vec<Arc<CertifiedKey>>,
    names: Names,
    strict: bool,
}

impl Choice {
    /// Among these, the first of which is the default. `strict`: without one for the name that is wanted, none.
    pub(crate) fn new(certificates: &[Usable], strict: bool) -> Choice {
        let mut names = Names::default();
        for (place, certificate) in certificates.iter().enumerate() {
            names.add(&certificate.about.names, place);
        }
        Choice { keys: certificates.iter().map(|certificate| Arc::clone(&certificate.key)).collect(), names, strict }
    }

    fn choose(&self, server_name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let named = server_name.and_then(|name| self.names.find(name));
        let candidates = match named {
            Some(named) => named,
            None if self.strict => return None,
            None => &[0],
        };
        let mut keys = candidates.iter().filter_map(|place| self.keys.get(*place));
        let first = keys.clone().next();
        // The same name may have certificates of several kinds, not all of which every client can check.
        keys.find(|key| key.key.choose_scheme(schemes).is_some()).or(first)
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes()).cloned()
    }
}

/// Which certificates speak for which name, in their order. Pure.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Vec<usize>>,
    /// By what stands after `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

impl Names {
    /// Names are in lower case.
    fn add(&mut self, names: &[String], certificate: usize) {
        for name in names {
            let (map, key) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, name.as_str()),
            };
            map.entry(key.to_owned()).or_default().push(certificate);
        }
    }

    /// Those that name it, else those whose wildcard covers it.
    fn find(&self, name: &str) -> Option<&[usize]> {
        let name = canonical_host(name);
        let covered = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(&*name).or_else(covered).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_the_certificate() {
        let mut names = Names::default();
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        names.add(&own(&["default.example"]), 0);
        names.add(&own(&["*.example.com", "upper.example.com"]), 1);
        names.add(&own(&["exact.example.com", "default.example"]), 2);
        for (name, expected) in [
            ("default.example", &[0, 2][..]),
            ("unknown.example", &[]),
            ("any.example.com", &[1]),
            ("ANY.example.com", &[1]),
            ("upper.example.com", &[1]),
            ("exact.example.com", &[2]),
            ("example.com", &[]),
            ("two.labels.example.com", &[]),
        ] {
            assert_eq!(names.find(name).unwrap_or_default(), expected, "{name:?}");
        }
    }
}
