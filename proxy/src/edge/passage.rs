//! A request that goes to the servers of a pool as it is, and what is to be learnt from its answer.
//!
//! Invariant: what a write makes out of date is forgotten before the writer hears of its success, so the next pull sees
//! what was pushed.

use std::sync::Arc;

use http::{Method, StatusCode};
use pierhead_registry::oci::{Action, Digest, Reference, Tag};

use super::forward::Errand;
use super::grant::Grant;
use super::scope::Upstream;
use super::served::{Refused, Served};
use crate::cache::{Cache, RepositoryId};
use crate::pool::Pool;

/// A request on its way past the cache.
pub(crate) struct Passage {
    /// Whose servers.
    pub(crate) pool: Arc<Pool>,
    /// Path and query where they do not go out as they came in.
    pub(crate) target: Option<String>,
    /// Whether `Authorization` is a login at this edge, and so goes no further.
    pub(crate) own_login: bool,
    /// What the client gets when no server answers; `None`: just that.
    pub(crate) otherwise: Option<Box<Result<Served, Refused>>>,
    /// What it writes, if it does.
    pub(crate) write: Option<Write>,
    /// The token that it asks for, if it does.
    pub(crate) grant: Option<Grant>,
}

impl Errand for Passage {
    fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    fn own_login(&self) -> bool {
        self.own_login
    }

    async fn answered(&self, status: Option<StatusCode>) {
        if let Some(write) = &self.write {
            write.answered(status).await;
        }
        if let Some(grant) = &self.grant
            && status == Some(StatusCode::OK)
        {
            grant.issued();
        }
    }
}

/// Something that is written to a repository.
pub(crate) struct Write {
    cache: Arc<Cache>,
    upstream: Arc<Upstream>,
    repository: RepositoryId,
    what: Written,
}

/// What.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Written {
    /// A tag is set.
    Tag(Tag),
    /// A tag is deleted.
    Untagged(Tag),
    /// A manifest is pushed by its digest: it may refer to another.
    Manifest,
    /// Content is deleted.
    Deleted(Digest),
    /// A blob comes, in one or several requests.
    Upload,
}

/// What a request that is no pull does to a repository.
fn written(method: &Method, action: &Action) -> Option<Written> {
    match (method, action) {
        (&Method::PUT, Action::Manifest(Reference::Tag(tag))) => Some(Written::Tag(tag.clone())),
        (&Method::DELETE, Action::Manifest(Reference::Tag(tag))) => Some(Written::Untagged(tag.clone())),
        (&Method::PUT, Action::Manifest(Reference::Digest(_))) => Some(Written::Manifest),
        (&Method::DELETE, Action::Manifest(Reference::Digest(digest)) | Action::Blob(digest)) => {
            Some(Written::Deleted(*digest))
        }
        (&Method::POST | &Method::PUT, Action::Upload(_)) => Some(Written::Upload),
        _ => None,
    }
}

impl Write {
    /// If the request writes.
    pub(crate) fn of(
        method: &Method,
        action: &Action,
        cache: &Arc<Cache>,
        upstream: &Arc<Upstream>,
        repository: &RepositoryId,
    ) -> Option<Write> {
        let what = written(method, action)?;
        Some(Write { cache: Arc::clone(cache), upstream: Arc::clone(upstream), repository: repository.clone(), what })
    }

    async fn answered(&self, status: Option<StatusCode>) {
        if !self.what.is_done(status) {
            return;
        }
        // First of all: what comes back from questions that are under way is then known to be older than this.
        self.upstream.writes.begin(&self.repository.name).await;
        let (cache, repository) = (&self.cache, &self.repository);
        let keep_deleted = self.upstream.config.keep_deleted;
        match &self.what {
            Written::Tag(tag) => cache.remove_tag(repository, tag).await,
            Written::Untagged(tag) if !keep_deleted => cache.remove_tag(repository, tag).await,
            Written::Deleted(digest) if !keep_deleted => cache.unlink(repository, digest).await,
            Written::Untagged(_) | Written::Deleted(_) | Written::Manifest | Written::Upload => {}
        }
        if self.what != Written::Upload {
            cache.remove_lists(repository).await;
        }
    }
}

impl Written {
    /// Whether it may have been done. Only a client error says for certain that it was not.
    fn is_done(&self, status: Option<StatusCode>) -> bool {
        match (self, status) {
            // Any other success is a step on the way.
            (Written::Upload, Some(status)) => status == StatusCode::CREATED || status.is_server_error(),
            (_, Some(status)) => status.is_success() || status.is_server_error(),
            (_, None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use pierhead_registry::oci::{Algorithm, Digest, Endpoint};

    use super::{Written, written};

    #[test]
    fn tells_what_is_written() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for (method, path, expected) in [
            (Method::PUT, "manifests/v1".to_owned(), Some(Written::Tag("v1".parse().unwrap()))),
            (Method::DELETE, "manifests/v1".to_owned(), Some(Written::Untagged("v1".parse().unwrap()))),
            (Method::PUT, format!("manifests/{digest}"), Some(Written::Manifest)),
            (Method::DELETE, format!("manifests/{digest}"), Some(Written::Deleted(digest))),
            (Method::DELETE, format!("blobs/{digest}"), Some(Written::Deleted(digest))),
            (Method::POST, "blobs/uploads/".to_owned(), Some(Written::Upload)),
            (Method::PUT, "blobs/uploads/0123".to_owned(), Some(Written::Upload)),
            (Method::PATCH, "blobs/uploads/0123".to_owned(), None),
            (Method::GET, "blobs/uploads/0123".to_owned(), None),
            (Method::HEAD, format!("blobs/{digest}"), None),
        ] {
            let Ok(Endpoint::Repository { action, .. }) = Endpoint::parse(&format!("/v2/team/app/{path}")) else {
                panic!("{path}")
            };
            assert_eq!(written(&method, &action), expected, "{method} {path}");
        }
    }

    #[test]
    fn only_a_refusal_is_certain_to_have_written_nothing() {
        for (what, status, expected) in [
            (Written::Manifest, Some(201), true),
            (Written::Manifest, Some(202), true),
            (Written::Manifest, Some(400), false),
            (Written::Manifest, Some(401), false),
            (Written::Manifest, Some(502), true),
            (Written::Manifest, None, true),
            (Written::Upload, Some(202), false),
            (Written::Upload, Some(201), true),
            (Written::Upload, None, true),
        ] {
            let status = status.map(|status| StatusCode::from_u16(status).unwrap());
            assert_eq!(what.is_done(status), expected, "{what:?} {status:?}");
        }
    }
}
