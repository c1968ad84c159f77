//! The tree on disk: every path the cache uses, and no I/O.
//!
//! ```text
//! <path>/
//! ├── lock                                held (flock) by the one process that owns the tree
//! ├── caller.key                          32 random bytes for hashing callers, mode 0600
//! ├── blobs/sha256/ab/<hex>               committed content, blobs and manifests alike; hashes to its name
//! ├── partial/
//! │   ├── sha256-<hex>                    what has arrived of a blob: a sparse file
//! │   └── sha256-<hex>.map                which ranges of it hold, with their checksums; whether all of it was asked for
//! ├── repositories/<registry>/<name>/
//! │   ├── _links/sha256-<hex>             this repository holds this content; a manifest's media type, or empty
//! │   ├── _tags/<tag>                     the digest it meant, and when
//! │   ├── _callers                        which callers its registry authorised, by hashes of what they show, and when
//! │   ├── _created                        when it was made, where its registry's tokens say that
//! │   └── _lists/<hex>                    a tag or referrers list, named by the hash of its query; the newest of them
//! ├── pins                                images that operators pinned, a line each
//! ├── keys/<registry>                     the public keys of its tokens, as they were last published
//! ├── tmp/                                files being written; emptied at start
//! └── index/                              sled; disposable, made anew from the rest
//! ```
//!
//! No part of a repository's name can start with `_`, so the records never meet a repository of that name.

use std::path::{Path, PathBuf};

use pierhead_registry::oci::{Algorithm, Digest, RepositoryName, Tag};

use super::RepositoryId;

/// Paths below one root.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Layout {
        Layout { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn caller_key(&self) -> PathBuf {
        self.root.join("caller.key")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.blobs();
        path.push(digest.algorithm().as_str());
        path.push(&hex[..2]);
        path.push(&hex);
        path
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(file_name(digest))
    }

    pub(super) fn partial_map(&self, digest: &Digest) -> PathBuf {
        self.partials().join(format!("{}.map", file_name(digest)))
    }

    pub(super) fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    pub(super) fn registry(&self, name: &str) -> PathBuf {
        self.repositories().join(name)
    }

    fn repository(&self, id: &RepositoryId) -> PathBuf {
        self.registry(&id.registry).join(id.name.as_str())
    }

    pub(super) fn links(&self, id: &RepositoryId) -> PathBuf {
        self.repository(id).join("_links")
    }

    pub(super) fn link(&self, id: &RepositoryId, digest: &Digest) -> PathBuf {
        self.links(id).join(file_name(digest))
    }

    pub(super) fn tags(&self, id: &RepositoryId) -> PathBuf {
        self.repository(id).join("_tags")
    }

    pub(super) fn tag(&self, id: &RepositoryId, tag: &Tag) -> PathBuf {
        self.tags(id).join(tag.as_str())
    }

    pub(super) fn created(&self, id: &RepositoryId) -> PathBuf {
        self.repository(id).join("_created")
    }

    pub(super) fn callers(&self, id: &RepositoryId) -> PathBuf {
        self.repository(id).join("_callers")
    }

    pub(super) fn lists(&self, id: &RepositoryId) -> PathBuf {
        self.repository(id).join("_lists")
    }

    pub(super) fn list(&self, id: &RepositoryId, key: &str) -> PathBuf {
        self.lists(id).join(Digest::of(Algorithm::Sha256, key.as_bytes()).hex())
    }

    pub(super) fn keys(&self, registry: &str) -> PathBuf {
        self.root.join("keys").join(registry)
    }

    pub(super) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// The repository whose records lie in `directory`, a path below [`Layout::repositories`].
    pub(super) fn repository_of(&self, directory: &Path) -> Option<RepositoryId> {
        let mut parts = directory.strip_prefix(self.repositories()).ok()?.to_str()?.splitn(2, '/');
        let registry = parts.next()?.into();
        Some(RepositoryId { registry, name: parts.next()?.parse::<RepositoryName>().ok()? })
    }
}

/// A digest as a file name: a colon would do, and would surprise every shell script.
fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// The digest that a file name stands for.
pub(super) fn digest_of(file_name: &str) -> Option<Digest> {
    let (algorithm, hex) = file_name.split_once('-')?;
    Digest::from_hex(algorithm.parse().ok()?, hex).ok()
}

#[cfg(test)]
mod tests {
    use super::{Layout, digest_of};
    use crate::cache::RepositoryId;
    use pierhead_registry::oci::{Algorithm, Digest};

    #[test]
    fn names_lead_back_to_what_they_name() {
        let layout = Layout::new("/c".into());
        let digest = Digest::of(Algorithm::Sha512, b"x");
        let id = RepositoryId { registry: "r.example:5000".into(), name: "a/b/c".parse().unwrap() };
        let link = layout.link(&id, &digest);
        assert_eq!(layout.repository_of(link.parent().unwrap().parent().unwrap()), Some(id));
        assert_eq!(digest_of(link.file_name().unwrap().to_str().unwrap()), Some(digest));
        assert_eq!(digest_of("sha256-zz"), None);
        assert!(layout.blob(&digest).to_str().unwrap().contains("/blobs/sha512/"));
    }
}
