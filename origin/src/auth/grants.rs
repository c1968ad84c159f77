//! What of what a client asks for it gets: pure. What it may not do is left out and not complained about, as Quay has it.

use pierhead_registry::oci::{Resource, Scope};
use pierhead_registry::token::Access;

use super::rights::RepositoryRights;
use crate::meta::Millis;

/// The actions of the registry API.
const ACTIONS: [&str; 3] = ["pull", "push", "delete"];

/// What of a scope about a repository is granted, which was made at `created` (0: is not made yet). `*` is for those who may do everything; from others it is a wish for as much as they may.
pub(crate) fn repository(scope: &Scope, rights: RepositoryRights, created: Millis) -> Option<Access> {
    let Resource::Repository { name, .. } = &scope.resource else { return None };
    let may = |action: &str| match action {
        "pull" => rights.pull,
        "push" => rights.push,
        "delete" => rights.delete,
        "*" => rights.admin && rights.push && rights.delete,
        _ => false,
    };
    let mut actions: Vec<String> = Vec::new();
    let all = ACTIONS.into_iter().chain(["*"]);
    for wanted in scope.actions.iter().map(String::as_str) {
        let wished = all.clone().filter(|action| wanted == *action || wanted == "*");
        for action in wished.filter(|action| may(action)) {
            if !actions.iter().any(|known| known == action) {
                actions.push(action.to_owned());
            }
        }
    }
    let (kind, name, created) = ("repository".to_owned(), name.as_str().to_owned(), Some(created));
    (!actions.is_empty()).then_some(Access { kind, name, actions, created })
}

/// What of a scope about the registry is granted: the list of repositories, in which everybody sees what they may pull.
pub(crate) fn registry(scope: &Scope) -> Option<Access> {
    let Resource::Other { kind, name } = &scope.resource else { return None };
    let catalog = kind == "registry" && name == "catalog" && scope.actions.iter().any(|action| action == "*");
    let (kind, name, actions) = (kind.clone(), name.clone(), vec!["*".to_owned()]);
    catalog.then_some(Access { kind, name, actions, created: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const READER: RepositoryRights =
        RepositoryRights { pull: true, push: false, delete: false, admin: false, inspect: false };
    const WRITER: RepositoryRights = RepositoryRights { push: true, delete: true, ..READER };
    const ADMIN: RepositoryRights = RepositoryRights { admin: true, inspect: true, ..WRITER };
    const STILL: RepositoryRights = RepositoryRights { push: false, delete: false, ..ADMIN };
    const NOTHING: RepositoryRights = RepositoryRights { pull: false, ..READER };

    #[test]
    fn what_is_not_permitted_is_left_out() {
        for (scope, rights, expected) in [
            ("pull", READER, "pull"),
            ("pull,push", READER, "pull"),
            ("push,pull", WRITER, "push,pull"),
            ("delete", WRITER, "delete"),
            ("pull,fly", ADMIN, "pull"),
            ("*", NOTHING, ""),
            ("*", READER, "pull"),
            ("*", WRITER, "pull,push,delete"),
            ("*", ADMIN, "pull,push,delete,*"),
            ("*", STILL, "pull"),
            ("pull,*", ADMIN, "pull,push,delete,*"),
            ("push", READER, ""),
            ("", ADMIN, ""),
        ] {
            let parsed = Scope::parse(&format!("repository:a/b:{scope}"), "").unwrap();
            let access = repository(&parsed, rights, 7);
            assert!(access.as_ref().is_none_or(|access| access.created == Some(7)), "{scope} {rights:?}");
            let actions = access.map(|access| access.actions.join(",")).unwrap_or_default();
            assert_eq!(actions, expected, "{scope} {rights:?}");
            assert_eq!(registry(&parsed), None);
        }
        let catalog = Scope::parse("registry:catalog:*", "").unwrap();
        assert!(registry(&catalog).is_some() && repository(&catalog, ADMIN, 7).is_none());
        for other in ["registry:catalog:pull", "registry:else:*", "else:catalog:*"] {
            assert_eq!(registry(&Scope::parse(other, "").unwrap()), None, "{other}");
        }
    }
}
