//! The request parser: a path of the distribution API, as what it asks for.
//!
//! The name is kept as text: on an edge its first part may be a registry (`docker.io/library/alpine`), which
//! may hold a port and so is no repository name. Whoever knows the registries takes that part off and parses the rest.

use percent_encoding::percent_decode_str;

use super::digest::Digest;
use super::name::{NameError, Reference};

/// A path longer than this is refused before it is looked at.
const PATH_LIMIT: usize = 2048;

/// What a path of the distribution API asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v2/`: is there a registry?
    Ping,
    /// `/v2/_catalog`: the list of repositories.
    Catalog,
    /// `/v2/<name>/…`
    Repository {
        /// The name as written, not yet checked.
        name: String,
        /// What of it.
        action: Action,
    },
}

/// What of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `manifests/<reference>`
    Manifest(Reference),
    /// `blobs/<digest>`
    Blob(Digest),
    /// `tags/list`
    Tags,
    /// `referrers/<digest>`
    Referrers(Digest),
    /// `blobs/uploads/…`: a push, by its name; without one a new push.
    Upload(Option<String>),
}

/// Why a path is none of the distribution API's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not below `/v2/`.
    #[error("not a path of the registry API")]
    Foreign,
    /// Below `/v2/`, and nothing that the specification knows.
    #[error("no such operation")]
    Unknown,
    /// Too long.
    #[error("the path is longer than {PATH_LIMIT} bytes")]
    TooLong,
    /// `manifests/<what is neither tag nor digest>`
    #[error("invalid reference: {0}")]
    Reference(NameError),
    /// `blobs/<what is no digest>`
    #[error("invalid digest: {0}")]
    Digest(super::DigestError),
}

impl Endpoint {
    /// Reads a request's path (without the query).
    pub fn parse(path: &str) -> Result<Endpoint, EndpointError> {
        if path.len() > PATH_LIMIT {
            return Err(EndpointError::TooLong);
        }
        // Some clients escape the colon of a digest.
        let path = percent_decode_str(path).decode_utf8().map_err(|_| EndpointError::Unknown)?;
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Endpoint::Ping),
            Some(rest) => rest.strip_prefix('/').ok_or(EndpointError::Foreign)?,
            None => return Err(EndpointError::Foreign),
        };
        if rest == "_catalog" {
            return Ok(Endpoint::Catalog);
        }
        // From the right: a repository may well be called `team/manifests/list`.
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Ok(repository(name, Action::Tags));
        }
        if let Some((name, id)) = rest.rsplit_once("/blobs/uploads")
            && (id.is_empty() || id.starts_with('/'))
        {
            let id = id.trim_start_matches('/');
            return Ok(repository(name, Action::Upload((!id.is_empty()).then(|| id.to_owned()))));
        }
        let (head, last) = rest.rsplit_once('/').ok_or(EndpointError::Unknown)?;
        if let Some(name) = head.strip_suffix("/manifests") {
            return Ok(repository(name, Action::Manifest(last.parse().map_err(EndpointError::Reference)?)));
        }
        if let Some(name) = head.strip_suffix("/blobs") {
            return Ok(repository(name, Action::Blob(last.parse().map_err(EndpointError::Digest)?)));
        }
        if let Some(name) = head.strip_suffix("/referrers") {
            return Ok(repository(name, Action::Referrers(last.parse().map_err(EndpointError::Digest)?)));
        }
        Err(EndpointError::Unknown)
    }
}

fn repository(name: &str, action: Action) -> Endpoint {
    Endpoint::Repository { name: name.to_owned(), action }
}

#[cfg(test)]
mod tests {
    use super::{Action, Endpoint, EndpointError};

    fn name_and_action(path: &str) -> Option<(String, Action)> {
        match Endpoint::parse(path) {
            Ok(Endpoint::Repository { name, action }) => Some((name, action)),
            _ => None,
        }
    }

    #[test]
    fn reads_each_path() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(Endpoint::parse("/v2/"), Ok(Endpoint::Ping));
        assert_eq!(Endpoint::parse("/v2"), Ok(Endpoint::Ping));
        assert_eq!(Endpoint::parse("/v2/_catalog"), Ok(Endpoint::Catalog));
        for (path, name) in [
            ("/v2/library/alpine/manifests/latest".to_owned(), "library/alpine"),
            (format!("/v2/localhost:5000/a/manifests/{digest}"), "localhost:5000/a"),
            (format!("/v2/a/blobs/{}", digest.replace(':', "%3A")), "a"),
            ("/v2/team/manifests/tags/list".to_owned(), "team/manifests"),
            (format!("/v2/a/referrers/{digest}"), "a"),
            ("/v2/a/b/blobs/uploads/".to_owned(), "a/b"),
            ("/v2/a/b/blobs/uploads/0123".to_owned(), "a/b"),
        ] {
            assert_eq!(name_and_action(&path).map(|(name, _)| name).as_deref(), Some(name), "{path}");
        }
        for (path, id) in [
            ("uploads", None),
            ("uploads/", None),
            ("uploads/1-2", Some("1-2".to_owned())),
            ("uploads/1/2", Some("1/2".to_owned())),
        ] {
            let action = name_and_action(&format!("/v2/a/b/blobs/{path}")).map(|(_, action)| action);
            assert_eq!(action, Some(Action::Upload(id)), "{path}");
        }
        let by_digest = name_and_action(&format!("/v2/a/blobs/{digest}"));
        assert!(matches!(by_digest, Some((_, Action::Blob(_)))));
    }

    #[test]
    fn refuses_the_rest() {
        assert_eq!(Endpoint::parse("/"), Err(EndpointError::Foreign));
        assert_eq!(Endpoint::parse("/v2x/a/manifests/b"), Err(EndpointError::Foreign));
        assert_eq!(Endpoint::parse("/v2/a"), Err(EndpointError::Unknown));
        assert_eq!(Endpoint::parse("/v2/a/b/c"), Err(EndpointError::Unknown));
        assert_eq!(Endpoint::parse("/v2/a/%ff/c"), Err(EndpointError::Unknown));
        assert!(matches!(Endpoint::parse("/v2/a/blobs/latest"), Err(EndpointError::Digest(_))));
        assert!(matches!(Endpoint::parse("/v2/a/manifests/a:b"), Err(EndpointError::Reference(_))));
        assert_eq!(Endpoint::parse(&"/".repeat(3000)), Err(EndpointError::TooLong));
    }
}
