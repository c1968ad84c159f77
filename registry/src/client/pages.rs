//! Which address gave the first page of a list: a cursor means something only to the server that issued it.

use std::time::Duration;

use moka::sync::Cache;

use crate::oci::RepositoryName;

/// Most lists that are remembered.
const KEPT: u64 = 4096;
/// How long after its last page a list is remembered.
const IDLE: Duration = Duration::from_secs(600);

/// A list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PageKey {
    /// As clients name it.
    pub(super) repository: RepositoryName,
    /// Below the repository.
    pub(super) path: String,
}

/// The lists of one registry that go on.
pub(super) struct Pages(Cache<PageKey, usize>);

impl Pages {
    /// None.
    pub(super) fn new() -> Pages {
        Pages(Cache::builder().max_capacity(KEPT).time_to_idle(IDLE).build())
    }

    /// The endpoint at `index` gave a page with a link to the next.
    pub(super) fn learn(&self, key: PageKey, index: usize) {
        self.0.insert(key, index);
    }

    /// Which endpoint issued the cursor in `query`.
    pub(super) fn source(&self, key: &PageKey, query: Option<&str>) -> Option<usize> {
        has_cursor(query?).then(|| self.0.get(key)).flatten()
    }
}

/// Whether a query has more than a page's size and filters: `last`, or whatever else the server's Link brought.
fn has_cursor(query: &str) -> bool {
    let name = |pair: &str| pair.split_once('=').map_or(pair, |(name, _)| name).to_owned();
    query.split('&').filter(|pair| !pair.is_empty()).any(|pair| !matches!(name(pair).as_str(), "n" | "artifactType"))
}

#[cfg(test)]
mod tests {
    use super::{PageKey, Pages};

    #[test]
    fn a_cursor_belongs_to_the_address_that_issued_it() {
        let key = |path: &str| PageKey { repository: "a/b".parse().unwrap(), path: path.to_owned() };
        let pages = Pages::new();
        pages.learn(key("tags/list"), 1);
        for (path, query, expected) in [
            ("tags/list", None, None),
            ("tags/list", Some("n=4"), None),
            ("tags/list", Some("n=4&last=t3"), Some(1)),
            ("tags/list", Some("next_page=x"), Some(1)),
            ("referrers/x", Some("last=t3"), None),
            ("tags/list", Some("artifactType=a/b"), None),
        ] {
            assert_eq!(pages.source(&key(path), query), expected, "{path} {query:?}");
        }
    }
}
