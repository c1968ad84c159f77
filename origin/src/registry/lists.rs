//! Lists: tags, and repositories.

use super::{Registry, RegistryError};
use crate::meta::Viewer;

/// Entries of a page: at most, and when the client does not say.
pub(crate) const LONGEST_PAGE: u32 = 1000;

impl Registry {
    /// Names of tags from after `last` on, and whether there are more.
    pub(crate) async fn tags(
        &self,
        repository: &str,
        last: &str,
        count: u32,
    ) -> Result<(Vec<String>, bool), RegistryError> {
        let repository = self.repository(repository).await?;
        let names = self.meta.tag_names(repository.id, last, count.saturating_add(1)).await?;
        Ok(page(names, count))
    }

    /// Names of repositories that the viewer may see, from after `last` on, and whether there are more.
    pub(crate) async fn catalog(
        &self,
        viewer: Viewer,
        last: &str,
        count: u32,
    ) -> Result<(Vec<String>, bool), RegistryError> {
        let names = self.meta.catalog(viewer, last, count.saturating_add(1)).await?;
        Ok(page(names, count))
    }
}

/// The first of these, and whether there are more.
fn page(mut names: Vec<String>, count: u32) -> (Vec<String>, bool) {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let more = names.len() > count;
    names.truncate(count);
    (names, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_and_go_on() {
        let names = |count: usize| (0..count).map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(page(names(3), 2), (names(2), true));
        assert_eq!(page(names(2), 2), (names(2), false));
        assert_eq!(page(names(1), 0), (Vec::new(), true));
    }
}
