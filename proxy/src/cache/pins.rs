//! Which images are never evicted: those that the configuration names by patterns, and those that operators name. Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use pierhead_config::Globs;
use pierhead_registry::oci::Tag;

use super::{PinnedBy, RepositoryId};

/// The `pin` patterns of every registry, and what operators pinned.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pins {
    patterns: HashMap<Arc<str>, Globs>,
    /// `registry/repository` or `registry/repository:tag`.
    operators: BTreeSet<String>,
}

impl Pins {
    /// From each registry's name and patterns.
    pub(crate) fn new(registries: impl IntoIterator<Item = (Arc<str>, Globs)>) -> Pins {
        let patterns = registries.into_iter().filter(|(_, globs)| !globs.is_empty()).collect();
        Pins { patterns, operators: BTreeSet::new() }
    }

    /// The same patterns with what operators pinned.
    pub(super) fn with_operators(self, operators: impl IntoIterator<Item = String>) -> Pins {
        Pins { patterns: self.patterns, operators: operators.into_iter().collect() }
    }

    /// What operators pinned.
    pub(super) fn of_operators(&self) -> &BTreeSet<String> {
        &self.operators
    }

    /// These, with an operator's pin set or taken away; `None`: nothing changes.
    pub(super) fn changed(&self, id: &RepositoryId, tag: Option<&Tag>, pinned: bool) -> Option<Pins> {
        let mut changed = self.clone();
        let name = name(id, tag);
        let is_news = if pinned { changed.operators.insert(name) } else { changed.operators.remove(&name) };
        is_news.then_some(changed)
    }

    /// Whether anything of a registry may be pinned.
    pub(super) fn any(&self, registry: &str) -> bool {
        let of_registry = |pin: &String| pin.split_once('/').is_some_and(|(name, _)| name == registry);
        self.patterns.contains_key(registry) || self.operators.iter().any(of_registry)
    }

    /// Whether a repository, or a tag of it, is pinned.
    pub(crate) fn pinned(&self, id: &RepositoryId, tag: Option<&Tag>) -> bool {
        self.by(id, tag).is_some()
    }

    /// Who pinned a repository, or a tag of it.
    pub(super) fn by(&self, id: &RepositoryId, tag: Option<&Tag>) -> Option<PinnedBy> {
        let matches = |globs: &Globs| {
            globs.matches(id.name.as_str()) || tag.is_some_and(|tag| globs.matches(&format!("{}:{tag}", id.name)))
        };
        if self.patterns.get(&id.registry).is_some_and(matches) {
            return Some(PinnedBy::Configuration);
        }
        let named = |tag| !self.operators.is_empty() && self.operators.contains(&name(id, tag));
        (named(None) || tag.is_some() && named(tag)).then_some(PinnedBy::Operator)
    }
}

fn name(id: &RepositoryId, tag: Option<&Tag>) -> String {
    tag.map_or_else(|| id.to_string(), |tag| format!("{id}:{tag}"))
}

#[cfg(test)]
mod tests {
    use super::{PinnedBy, Pins};
    use crate::cache::RepositoryId;
    use pierhead_config::Globs;

    fn id(registry: &str, name: &str) -> RepositoryId {
        RepositoryId { registry: registry.into(), name: name.parse().unwrap() }
    }

    #[test]
    fn by_repository_and_by_tag() {
        let globs = Globs::new(vec!["library/*".into(), "app:v*".into()]).unwrap();
        let pins = Pins::new([("docker.io".into(), globs)]);
        let (v1, latest) = ("v1".parse().unwrap(), "latest".parse().unwrap());
        assert!(pins.pinned(&id("docker.io", "library/alpine"), None));
        assert!(pins.pinned(&id("docker.io", "app"), Some(&v1)));
        assert!(!pins.pinned(&id("docker.io", "app"), Some(&latest)));
        assert!(!pins.pinned(&id("docker.io", "app"), None));
        assert!(!pins.pinned(&id("quay.io", "library/alpine"), None));
    }

    #[test]
    fn by_operators() {
        let (one, two) = (id("quay.io", "a/one"), id("quay.io", "a/two"));
        let (v1, v2) = ("v1".parse().unwrap(), "v2".parse().unwrap());
        let pins = Pins::default().changed(&one, Some(&v1), true).unwrap().changed(&two, None, true).unwrap();
        assert!(pins.changed(&two, None, true).is_none() && pins.changed(&two, Some(&v1), false).is_none());
        for (id, tag, expected) in [
            (&one, None, None),
            (&one, Some(&v1), Some(PinnedBy::Operator)),
            (&one, Some(&v2), None),
            (&two, None, Some(PinnedBy::Operator)),
            (&two, Some(&v2), Some(PinnedBy::Operator)),
        ] {
            assert_eq!(pins.by(id, tag), expected, "{id} {tag:?}");
        }
        assert!(pins.any("quay.io") && !pins.any("docker.io"));
        let again = Pins::default().with_operators(pins.of_operators().iter().cloned());
        assert_eq!(again, pins);
    }
}
