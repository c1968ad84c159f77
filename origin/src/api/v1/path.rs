//! Quay's paths, made into what the router can tell apart: pure.
//!
//! The name of a repository stands in the middle of a path and may have slashes in it. Those are escaped here, so that the name is one
//! part; and a slash at the end, which some of Quay's paths have and clients forget or add, means nothing.
//!
//! Invariant: what Quay has below a repository is never read as the name of one, whether or not it is served here: `DELETE …/app/mirror`
//! must not delete a repository `app/mirror`. A repository of such a name is asked for with `%2F` between the parts of its name.

use percent_encoding::percent_decode_str;

/// Where the names of repositories begin.
const REPOSITORY: &str = "/api/v1/repository/";
const STARRED: &str = "/api/v1/user/starred/";

/// The path as the router has it.
pub(super) fn canonical(path: &str) -> String {
    let path = path.trim_end_matches('/');
    for prefix in [REPOSITORY, STARRED] {
        if let Some(rest) = path.strip_prefix(prefix) {
            // Some clients escape the whole name: its first slash ends the namespace.
            let (first, tail) = rest.split_once('/').map_or((rest, None), |(first, tail)| (first, Some(tail)));
            let mut parts: Vec<&str> = match split_escaped(first) {
                Some((namespace, name)) => vec![namespace, name],
                None => vec![first],
            };
            parts.extend(tail.into_iter().flat_map(|tail| tail.split('/')));
            // A namespace, at least one part of a name, and then what is wanted of it. A star has nothing below it.
            let below = |end: &usize| prefix == REPOSITORY && is_below(parts[*end]);
            let end = (2..=parts.len())
                .find(|end| is_about(&parts[*end..]))
                .or_else(|| (2..parts.len()).find(below))
                .unwrap_or(parts.len());
            let Some((namespace, name)) = parts[..end].split_first() else { break };
            let mut made = format!("{prefix}{namespace}");
            if !name.is_empty() {
                made = format!("{made}/{}", name.join("%2F"));
            }
            for part in &parts[end..] {
                made.push('/');
                made.push_str(part);
            }
            return made;
        }
    }
    path.to_owned()
}

/// What a path asks of a repository that is not served here; `None`: it asks for something else.
pub(super) fn unserved(canonical: &str) -> Option<String> {
    let mut parts = canonical.strip_prefix(REPOSITORY)?.split('/').skip(2);
    parts.next().map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
}

fn split_escaped(part: &str) -> Option<(&str, &str)> {
    let at = part.find("%2F").or_else(|| part.find("%2f"))?;
    Some((&part[..at], &part[at + 3..])).filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
}

/// What Quay has below a repository, of all its versions.
const BELOW: [&str; 25] = [
    "aggregatelogs",
    "authorizedemail",
    "autoprunepolicy",
    "build",
    "changestate",
    "changetrust",
    "changevisibility",
    "exportlogs",
    "filedrop",
    "image",
    "images",
    "immutabilitypolicy",
    "logs",
    "manifest",
    "manifests",
    "mirror",
    "networks",
    "notification",
    "permissions",
    "pull_statistics",
    "signatures",
    "tag",
    "tags",
    "tokens",
    "trigger",
];

fn is_below(part: &str) -> bool {
    let decoded = percent_decode_str(part).decode_utf8_lossy();
    BELOW.binary_search(&decoded.as_ref()).is_ok()
}

/// Whether this is what may follow the name of a repository.
fn is_about(tail: &[&str]) -> bool {
    matches!(
        tail,
        ["changevisibility" | "changestate" | "logs" | "aggregatelogs" | "tag"]
            | ["tag", _]
            | ["tag", _, "restore"]
            | ["permissions", "user" | "team"]
            | ["permissions", "user" | "team", _]
            | ["permissions", "user", _, "transitive"]
    )
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn names_of_repositories_become_one_part() {
        for (path, expected) in [
            ("/api/v1/user/", "/api/v1/user"),
            ("/api/v1/organization/acme", "/api/v1/organization/acme"),
            ("/api/v1/repository", "/api/v1/repository"),
            ("/api/v1/repository/", "/api/v1/repository"),
            ("/api/v1/repository/acme", "/api/v1/repository/acme"),
            ("/api/v1/repository/acme/app", "/api/v1/repository/acme/app"),
            ("/api/v1/repository/acme/a/b", "/api/v1/repository/acme/a%2Fb"),
            ("/api/v1/repository/acme/a/b/aggregatelogs", "/api/v1/repository/acme/a%2Fb/aggregatelogs"),
            ("/api/v1/repository/acme/a%2Fb/tag", "/api/v1/repository/acme/a%2Fb/tag"),
            ("/api/v1/repository/acme/a/b/tag/", "/api/v1/repository/acme/a%2Fb/tag"),
            ("/api/v1/repository/acme/a/b/tag/v1/restore", "/api/v1/repository/acme/a%2Fb/tag/v1/restore"),
            ("/api/v1/repository/acme/tag", "/api/v1/repository/acme/tag"),
            ("/api/v1/repository/acme/tag/tag/", "/api/v1/repository/acme/tag/tag"),
            ("/api/v1/repository/acme/app/permissions/user/", "/api/v1/repository/acme/app/permissions/user"),
            ("/api/v1/repository/acme/a/b/permissions/team/x", "/api/v1/repository/acme/a%2Fb/permissions/team/x"),
            ("/api/v1/user/starred/acme/a/b", "/api/v1/user/starred/acme/a%2Fb"),
            ("/api/v1/user/starred/acme/a/mirror", "/api/v1/user/starred/acme/a%2Fmirror"),
            ("/api/v1/repository/acme/app/mirror", "/api/v1/repository/acme/app/mirror"),
            ("/api/v1/repository/acme/app/mirror/sync-now", "/api/v1/repository/acme/app/mirror/sync-now"),
            ("/api/v1/repository/acme/a/b/mirror", "/api/v1/repository/acme/a%2Fb/mirror"),
            ("/api/v1/repository/acme/app/notification/", "/api/v1/repository/acme/app/notification"),
            ("/api/v1/repository/acme/app/%6dirror", "/api/v1/repository/acme/app/%6dirror"),
            ("/api/v1/repository/acme/app/permissions", "/api/v1/repository/acme/app/permissions"),
            ("/api/v1/repository/acme/app/tag/v1/images", "/api/v1/repository/acme/app/tag/v1/images"),
            (
                "/api/v1/repository/acme/app/manifest/sha256:0/labels/1",
                "/api/v1/repository/acme/app/manifest/sha256:0/labels/1",
            ),
            // A name that ends so, or begins so.
            ("/api/v1/repository/acme/mirror", "/api/v1/repository/acme/mirror"),
            ("/api/v1/repository/acme/app%2Fmirror", "/api/v1/repository/acme/app%2Fmirror"),
            ("/api/v1/repository/acme/app%2Fmirror/tag", "/api/v1/repository/acme/app%2Fmirror/tag"),
            ("/api/v1/repository/acme/app/mirror/tag/v1", "/api/v1/repository/acme/app%2Fmirror/tag/v1"),
            ("/api/v1/repository/acme/tag/tag/tag/v1", "/api/v1/repository/acme/tag%2Ftag/tag/v1"),
            // The whole name is escaped.
            ("/api/v1/repository/acme%2Fapp", "/api/v1/repository/acme/app"),
            ("/api/v1/repository/acme%2fapp/mirror", "/api/v1/repository/acme/app/mirror"),
            ("/api/v1/repository/acme%2Fa%2Fb/tag/v1", "/api/v1/repository/acme/a%2Fb/tag/v1"),
            ("/api/v1/repository/%2Fapp", "/api/v1/repository/%2Fapp"),
            ("/api/v1/user/starred", "/api/v1/user/starred"),
        ] {
            assert_eq!(canonical(path), expected, "{path}");
            assert_eq!(canonical(expected), expected, "what is canonical stays so");
        }
    }

    #[test]
    fn what_is_below_a_repository_is_in_order() {
        assert!(super::BELOW.is_sorted());
        for (path, expected) in [
            ("/api/v1/repository/acme/app", None),
            ("/api/v1/repository/acme/app/mirror", Some("mirror")),
            ("/api/v1/repository/acme/app/%6dirror/x", Some("mirror")),
            ("/api/v1/organization/acme/mirror/x", None),
        ] {
            assert_eq!(super::unserved(path).as_deref(), expected, "{path}");
        }
    }
}
