//! Which images the configuration says are never evicted. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use pierhead_config::Globs;
use pierhead_registry::oci::Tag;

use super::RepositoryId;

/// The `pin` patterns of every registry.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pins(HashMap<Arc<str>, Globs>);

impl Pins {
    /// From each registry's name and patterns.
    pub(crate) fn new(registries: impl IntoIterator<Item = (Arc<str>, Globs)>) -> Pins {
        Pins(registries.into_iter().filter(|(_, globs)| !globs.is_empty()).collect())
    }

    /// Whether a registry has any.
    pub(super) fn any(&self, registry: &str) -> bool {
        self.0.contains_key(registry)
    }

    /// Whether a repository, or a tag of it, is pinned.
    pub(crate) fn pinned(&self, id: &RepositoryId, tag: Option<&Tag>) -> bool {
        self.0.get(&id.registry).is_some_and(|globs| {
            globs.matches(id.name.as_str()) || tag.is_some_and(|tag| globs.matches(&format!("{}:{tag}", id.name)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Pins;
    use crate::cache::RepositoryId;
    use pierhead_config::Globs;

    #[test]
    fn by_repository_and_by_tag() {
        let globs = Globs::new(vec!["library/*".into(), "app:v*".into()]).unwrap();
        let pins = Pins::new([("docker.io".into(), globs)]);
        let id = |registry: &str, name: &str| RepositoryId { registry: registry.into(), name: name.parse().unwrap() };
        let (v1, latest) = ("v1".parse().unwrap(), "latest".parse().unwrap());
        assert!(pins.pinned(&id("docker.io", "library/alpine"), None));
        assert!(pins.pinned(&id("docker.io", "app"), Some(&v1)));
        assert!(!pins.pinned(&id("docker.io", "app"), Some(&latest)));
        assert!(!pins.pinned(&id("docker.io", "app"), None));
        assert!(!pins.pinned(&id("quay.io", "library/alpine"), None));
    }
}
