//! `REGISTRY[/REPOSITORY[:TAG|@DIGEST]]`, as operators write it. Pure.

use std::convert::Infallible;
use std::str::FromStr;

use super::client::CtlError;
use crate::admin::UNKNOWN_REGISTRY;
use crate::admin::shape::Part;

/// A part of the cache. The edge says whether its names are valid.
#[derive(Clone, Debug)]
pub(crate) struct Image(pub(super) Part);

impl FromStr for Image {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Image, Infallible> {
        let owned = |text: &str| Some(text.to_owned());
        let Some((registry, rest)) = text.split_once('/') else {
            return Ok(Image(Part { registry: text.to_owned(), repository: None, reference: None }));
        };
        // A tag has no slash, and stands behind the last colon.
        let tagged = rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (repository, reference) = match (rest.split_once('@'), tagged) {
            // Clients take a tag beside a digest, and so the digest alone counts.
            (Some((named, digest)), _) => {
                let tagged = named.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
                (tagged.map_or(named, |(repository, _)| repository), owned(digest))
            }
            (None, Some((repository, tag))) => (repository, owned(tag)),
            (None, None) => (rest, None),
        };
        Ok(Image(Part { registry: registry.to_owned(), repository: owned(repository), reference }))
    }
}

/// The part as a query.
pub(super) fn query(part: &Part) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("registry", &part.registry);
    for (name, value) in [("repository", &part.repository), ("reference", &part.reference)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

/// Why a command that wants an image, or a repository, cannot do with this part.
pub(super) fn check_named(part: &Part) -> Result<(), String> {
    match part.repository.as_deref() {
        None | Some("") => Err(format!("{:?} names no repository{}", written(part), advice(part))),
        Some(_) => Ok(()),
    }
}

/// Adds how names are written to an error about a registry that is not known.
pub(super) fn advised(error: CtlError, part: &Part) -> CtlError {
    match error {
        CtlError::Refused { code, message, .. } if code == UNKNOWN_REGISTRY => {
            CtlError::Image(format!("{message}{}", advice(part)))
        }
        error => error,
    }
}

/// That nothing of a part is in the cache.
pub(super) fn nothing_of(part: &Part) -> String {
    format!("nothing of {:?} is in the cache{}", written(part), advice(part))
}

fn written(part: &Part) -> String {
    let Part { registry, repository, reference } = part;
    let repository = repository.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
    let reference = reference.as_ref().map(|reference| {
        let mark = if reference.contains(':') { '@' } else { ':' };
        format!("{mark}{reference}")
    });
    format!("{registry}{repository}{}", reference.unwrap_or_default())
}

/// A first word that is no host is the repository of a name that lacks its registry, as clients write those of Docker Hub.
fn advice(part: &Part) -> String {
    if part.registry.contains(['.', ':']) || part.registry == "localhost" {
        return "; name it as REGISTRY/REPOSITORY[:TAG|@DIGEST]".to_owned();
    }
    let library = if part.repository.is_none() { "library/" } else { "" };
    format!("; names begin with the registry, as in docker.io/{library}{}", written(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named_with_advice() {
        let part = |text: &str| text.parse::<Image>().unwrap().0;
        for (text, advised) in [
            ("alpine", "docker.io/library/alpine"),
            ("library/alpine:3", "docker.io/library/alpine:3"),
            ("docker.io", "REGISTRY/REPOSITORY"),
            ("nope.io/x@sha256:abc", "REGISTRY/REPOSITORY"),
        ] {
            let said = nothing_of(&part(text));
            assert!(said.contains(&format!("{text:?}")) && said.contains(advised), "{said}");
            assert_eq!(check_named(&part(text)).is_err(), !text.contains('/'), "{text}");
        }
    }

    #[test]
    fn an_unknown_registry_is_named_with_advice() {
        let part = "library/alpine".parse::<Image>().unwrap().0;
        for (code, advised_as) in
            [(UNKNOWN_REGISTRY, "no; names begin with the registry, as in docker.io/library/alpine"), ("invalid", "no")]
        {
            let refused = CtlError::Refused { code: code.to_owned(), message: "no".to_owned(), problems: Vec::new() };
            assert_eq!(advised(refused, &part).to_string(), advised_as, "{code}");
        }
    }

    #[test]
    fn images_are_read_as_clients_write_them() {
        for (text, registry, repository, reference) in [
            ("docker.io", "docker.io", None, None),
            ("docker.io/alpine", "docker.io", Some("alpine"), None),
            ("docker.io/library/alpine:3", "docker.io", Some("library/alpine"), Some("3")),
            ("127.0.0.1:5000/admin/readme", "127.0.0.1:5000", Some("admin/readme"), None),
            ("127.0.0.1:5000/admin/readme:v1", "127.0.0.1:5000", Some("admin/readme"), Some("v1")),
            ("q.io/a/b@sha256:abc", "q.io", Some("a/b"), Some("sha256:abc")),
            ("q.io/a/b:latest@sha256:abc", "q.io", Some("a/b"), Some("sha256:abc")),
        ] {
            let Image(part) = text.parse().unwrap();
            let read = (part.registry.as_str(), part.repository.as_deref(), part.reference.as_deref());
            assert_eq!(read, (registry, repository, reference), "{text}");
        }
    }
}
