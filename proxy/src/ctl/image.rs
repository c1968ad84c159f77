//! `REGISTRY[/REPOSITORY[:TAG|@DIGEST]]`, as operators write it. Pure.

use std::convert::Infallible;
use std::str::FromStr;

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
        let (repository, reference) = match rest.split_once('@').or(tagged) {
            Some((repository, reference)) => (repository, owned(reference)),
            None => (rest, None),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_as_clients_write_them() {
        for (text, registry, repository, reference) in [
            ("docker.io", "docker.io", None, None),
            ("docker.io/alpine", "docker.io", Some("alpine"), None),
            ("docker.io/library/alpine:3", "docker.io", Some("library/alpine"), Some("3")),
            ("127.0.0.1:5000/admin/readme", "127.0.0.1:5000", Some("admin/readme"), None),
            ("127.0.0.1:5000/admin/readme:v1", "127.0.0.1:5000", Some("admin/readme"), Some("v1")),
            ("q.io/a/b@sha256:abc", "q.io", Some("a/b"), Some("sha256:abc")),
        ] {
            let Image(part) = text.parse().unwrap();
            let read = (part.registry.as_str(), part.repository.as_deref(), part.reference.as_deref());
            assert_eq!(read, (registry, repository, reference), "{text}");
        }
    }
}
