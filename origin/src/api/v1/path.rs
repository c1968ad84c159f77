//! Quay's paths, made into what the router can tell apart: pure.
//!
//! The name of a repository stands in the middle of a path and may have slashes in it. Those are escaped here, so that the name is one
//! part; and a slash at the end, which some of Quay's paths have and clients forget or add, means nothing.

/// Where the names of repositories begin.
const REPOSITORY: &str = "/api/v1/repository/";
const STARRED: &str = "/api/v1/user/starred/";

/// The path as the router has it.
pub(super) fn canonical(path: &str) -> String {
    let path = path.trim_end_matches('/');
    for prefix in [REPOSITORY, STARRED] {
        if let Some(rest) = path.strip_prefix(prefix) {
            let parts: Vec<&str> = rest.split('/').collect();
            // A namespace, at least one part of a name, and then what is wanted of it.
            let end = (2..=parts.len()).find(|end| is_about(&parts[*end..])).unwrap_or(parts.len());
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
            ("/api/v1/user/starred", "/api/v1/user/starred"),
        ] {
            assert_eq!(canonical(path), expected, "{path}");
        }
    }
}
