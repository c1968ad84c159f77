//! What a request writes to a registry, as far as this edge knows anything of it: by the registry API, and by the API
//! of the registry's own that Quay has and our origin too. Pure.
//!
//! Invariant: what is forgotten may be too much, for the next pull then asks the origin once more. Where a path can be read
//! in several ways, as one of Quay's that has the name of a repository in its middle can, it means all of them.

use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use pierhead_registry::oci::{Action, Digest, Reference, RepositoryName, Tag};
use url::form_urlencoded;

use crate::cache::Extent;

/// A change that a write makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// To what is in a repository.
    Within(RepositoryName, Written),
    /// All that was there is gone, or somebody else's.
    Gone(Extent),
    /// To who may pull there.
    Rights(Extent),
    /// To what callers show of themselves, which may be good for repositories anywhere.
    Credentials,
    /// There may be something where nothing was. What it is called stands in the body.
    Created,
}

/// What is written to a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
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

impl Change {
    /// Where something is changed.
    pub(crate) fn extent(&self) -> Extent {
        match self {
            Change::Within(repository, _) => Extent::Repository(repository.clone()),
            Change::Gone(extent) | Change::Rights(extent) => extent.clone(),
            Change::Credentials | Change::Created => Extent::Registry,
        }
    }

    /// Whether some may not pull any more what they could.
    pub(crate) fn concerns_rights(&self) -> bool {
        matches!(self, Change::Gone(_) | Change::Rights(_) | Change::Credentials)
    }

    /// Whether it may have been made. Only a refusal says for certain that it was not, and 503, which comes before anything is done;
    /// `None`: there was no answer.
    pub(crate) fn is_done(&self, status: Option<StatusCode>) -> bool {
        let failed = |status: StatusCode| status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE;
        match (self, status) {
            // Any other success is a step on the way.
            (Change::Within(_, Written::Upload), Some(status)) => status == StatusCode::CREATED || failed(status),
            (_, Some(status)) => status.is_success() || failed(status),
            (_, None) => true,
        }
    }
}

/// What a request that is no pull does to a repository. `query`: of a manifest that is pushed by its digest, it may name tags.
pub(crate) fn by_registry(method: &Method, action: &Action, query: &str) -> Vec<Written> {
    let by_path = match (method, action) {
        (&Method::PUT, Action::Manifest(Reference::Tag(tag))) => Some(Written::Tag(tag.clone())),
        (&Method::DELETE, Action::Manifest(Reference::Tag(tag))) => Some(Written::Untagged(tag.clone())),
        (&Method::PUT, Action::Manifest(Reference::Digest(_))) => Some(Written::Manifest),
        (&Method::DELETE, Action::Manifest(Reference::Digest(digest)) | Action::Blob(digest)) => {
            Some(Written::Deleted(*digest))
        }
        (&Method::POST | &Method::PUT, Action::Upload(_)) => Some(Written::Upload),
        _ => None,
    };
    let tags = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "tag" && by_path == Some(Written::Manifest))
        .filter_map(|(_, tag)| tag.parse().ok().map(Written::Tag));
    let tags: Vec<Written> = tags.collect();
    by_path.into_iter().chain(tags).collect()
}

/// What a request to `/api/v1` changes. What an endpoint that is not known here changes is taken to be rights.
pub(crate) fn by_api(method: &Method, path: &str) -> Vec<Change> {
    if method.is_safe() {
        return Vec::new();
    }
    let path = percent_decode_str(path).decode_utf8_lossy();
    let parts = parts(&path);
    let namespace = |name: &str| Extent::Namespace(name.into());
    let Some((["api", "v1"], parts)) = parts.split_at_checked(2) else { return Vec::new() };
    match parts {
        ["repository"] => vec![Change::Created],
        ["repository", rest @ ..] => of_repository(method, rest),
        ["organization", name] if method == Method::DELETE => vec![Change::Gone(namespace(name))],
        ["organization", name, "proxycache", ..] | ["superuser", "organizations", name, ..] => {
            vec![Change::Gone(namespace(name))]
        }
        ["organization", name, ..] | ["superuser", "takeownership", name] => vec![Change::Rights(namespace(name))],
        ["superuser", "users", name] if method == Method::DELETE => {
            vec![Change::Gone(namespace(name)), Change::Credentials]
        }
        ["user", "starred" | "notifications", ..] | ["user", "apptoken"] => Vec::new(),
        // Whose it is does not stand in the path.
        ["user"] if method == Method::DELETE => vec![Change::Gone(Extent::Registry), Change::Credentials],
        ["user", ..] | ["superuser", "users", _, ..] => vec![Change::Credentials],
        _ => Vec::new(),
    }
}

/// The parts of a path, as a server that tidies it up before it looks at it has them.
fn parts(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

/// The name of a repository, of any number of parts, and what is wanted of it.
fn of_repository(method: &Method, rest: &[&str]) -> Vec<Change> {
    let mut changes = Vec::new();
    for end in rest.len().min(2)..=rest.len() {
        // Too long: it only gets longer.
        let Ok(name) = rest[..end].join("/").parse::<RepositoryName>() else { break };
        let all = Extent::Repository(name.clone());
        changes.extend(match &rest[end..] {
            [] if method == Method::DELETE => Some(Change::Gone(all)),
            // Its description, its state; its notifications. A repository may be called so: a longer name says it.
            [] | ["changestate"] | ["notification" | "authorizedemail" | "exportlogs", ..] => None,
            ["tag", tag, tail @ ..] => tag.parse().ok().map(|tag| {
                let deleted = tail.is_empty() && method == Method::DELETE;
                Change::Within(name, if deleted { Written::Untagged(tag) } else { Written::Tag(tag) })
            }),
            _ => Some(Change::Rights(all)),
        });
    }
    changes
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use pierhead_registry::oci::{Action, Algorithm, Digest, Endpoint, Reference};

    use super::{Change, Written, by_api, by_registry};
    use crate::cache::Extent;

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
            let expected: Vec<Written> = expected.into_iter().collect();
            assert_eq!(by_registry(&method, &action, ""), expected, "{method} {path}");
        }
        // A manifest that is pushed by its digest can get tags in the same request.
        let tag = |tag: &str| Written::Tag(tag.parse().unwrap());
        let by_digest = Action::Manifest(Reference::Digest(digest));
        for (method, action, query, expected) in [
            (Method::PUT, &by_digest, "tag=a&x=y&tag=b%2Ec&tag=no/tag", vec![Written::Manifest, tag("a"), tag("b.c")]),
            (Method::DELETE, &by_digest, "tag=a", vec![Written::Deleted(digest)]),
            (Method::PUT, &Action::Manifest(Reference::Tag("v1".parse().unwrap())), "tag=a", vec![tag("v1")]),
        ] {
            assert_eq!(by_registry(&method, action, query), expected, "{method} {query}");
        }
    }

    #[test]
    fn tells_what_the_api_changes() {
        let repository = |name: &str| Extent::Repository(name.parse().unwrap());
        let gone = |name: &str| Change::Gone(repository(name));
        let rights = |name: &str| Change::Rights(repository(name));
        let tag = |name: &str, tag: &str| Change::Within(name.parse().unwrap(), Written::Tag(tag.parse().unwrap()));
        let untagged =
            |name: &str, tag: &str| Change::Within(name.parse().unwrap(), Written::Untagged(tag.parse().unwrap()));
        let team = || Extent::Namespace("team".into());
        let (get, put, post, delete) = (Method::GET, Method::PUT, Method::POST, Method::DELETE);
        for (method, path, expected) in [
            (&get, "repository/team/app", vec![]),
            (&Method::HEAD, "repository/team/app", vec![]),
            (&post, "repository", vec![Change::Created]),
            (&post, "repository/", vec![Change::Created]),
            (&delete, "repository/app", vec![gone("app")]),
            (&delete, "repository/team/app", vec![gone("team/app")]),
            (&delete, "repository/team/app/", vec![gone("team/app")]),
            (&delete, "repository/team%2Fapp", vec![gone("team/app")]),
            (&delete, "/./repository//x/../team/app", vec![gone("team/app")]),
            (&delete, "repository/team/a/b", vec![rights("team/a"), gone("team/a/b")]),
            (&delete, "repository/Team/app", vec![]),
            (&put, "repository/team/app", vec![]),
            // Quay deletes a mirror or a notification by this, an older origin a repository.
            (&delete, "repository/team/app/mirror", vec![rights("team/app"), gone("team/app/mirror")]),
            (&post, "repository/team/app/mirror/sync-now", vec![rights("team/app"), rights("team/app/mirror")]),
            (&post, "repository/team/app/notification/", vec![]),
            (
                &delete,
                "repository/team/app/notification/0a1b",
                vec![rights("team/app/notification"), gone("team/app/notification/0a1b")],
            ),
            (&delete, "repository/team%2Fapp/mirror", vec![rights("team/app"), gone("team/app/mirror")]),
            (&put, "repository/team/app/changestate", vec![]),
            (&post, "repository/team/app/changevisibility", vec![rights("team/app")]),
            (&put, "repository/team/app/tag/v1", vec![tag("team/app", "v1"), rights("team/app/tag")]),
            (
                &delete,
                "repository/team/app/tag/v1",
                vec![untagged("team/app", "v1"), rights("team/app/tag"), gone("team/app/tag/v1")],
            ),
            (&put, "repository/team/app/tag/V_1", vec![tag("team/app", "V_1"), rights("team/app/tag")]),
            (
                &put,
                "repository/team/app/permissions/user/Ann",
                vec![rights("team/app"), rights("team/app/permissions"), rights("team/app/permissions/user")],
            ),
            (&post, "organization/", vec![]),
            (&delete, "organization/team", vec![Change::Gone(team())]),
            (&put, "organization/team", vec![Change::Rights(team())]),
            (&put, "organization/team/team/readers/members/ann", vec![Change::Rights(team())]),
            (&delete, "organization/team/robots/ci", vec![Change::Rights(team())]),
            (&post, "organization/team/proxycache", vec![Change::Gone(team())]),
            (&delete, "superuser/organizations/team", vec![Change::Gone(team())]),
            (&delete, "superuser/users/team", vec![Change::Gone(team()), Change::Credentials]),
            (&put, "superuser/users/team", vec![Change::Credentials]),
            (&post, "superuser/takeownership/team", vec![Change::Rights(team())]),
            (&post, "superuser/users/", vec![]),
            (&delete, "user/robots/ci", vec![Change::Credentials]),
            (&put, "user/", vec![Change::Credentials]),
            (&delete, "user/apptoken/0a1b", vec![Change::Credentials]),
            (&post, "user/apptoken", vec![]),
            (&delete, "user/", vec![Change::Gone(Extent::Registry), Change::Credentials]),
            (&put, "user/starred/team/app", vec![]),
        ] {
            assert_eq!(by_api(method, &format!("/api/v1/{path}")), expected, "{method} {path}");
        }
        assert_eq!(by_api(&delete, "/repository/team/app"), []);
        assert_eq!(by_api(&delete, "/api"), []);
    }

    #[test]
    fn only_a_refusal_is_certain_to_have_written_nothing() {
        let within = |written| Change::Within("team/app".parse().unwrap(), written);
        let (manifest, upload) = (within(Written::Manifest), within(Written::Upload));
        for (what, status, expected) in [
            (&manifest, Some(201), true),
            (&manifest, Some(202), true),
            (&manifest, Some(400), false),
            (&manifest, Some(401), false),
            (&manifest, Some(502), true),
            (&manifest, Some(503), false),
            (&manifest, None, true),
            (&Change::Credentials, Some(204), true),
            (&Change::Credentials, Some(403), false),
            (&upload, Some(202), false),
            (&upload, Some(201), true),
            (&upload, None, true),
        ] {
            let status = status.map(|status| StatusCode::from_u16(status).unwrap());
            assert_eq!(what.is_done(status), expected, "{what:?} {status:?}");
        }
    }
}
