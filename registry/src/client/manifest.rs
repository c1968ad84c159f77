//! What an answer says of a manifest, by its header and by its bytes.
//!
//! Pure. Invariant: a manifest that leaves here hashes to the digest that it is returned under. The digest decides: what a
//! header claims about it, or about its type, refuses nothing.

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::failure::Failure;
use super::{FetchedManifest, ManifestInfo, range};
use crate::oci::{Algorithm, Digest, Manifest, Reference, media_type, schema1};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What the header of a HEAD's answer says of a manifest, if that is all that a GET would say (RFC 9110, section 9.3.2). Of what is known
/// it need only name the digest. Where it does not, a page in place of the manifest would say as much.
pub(super) fn info(headers: &HeaderMap, reference: &Reference, known: Option<&Digest>) -> Option<ManifestInfo> {
    let told = content_digest(headers);
    let digest = match reference {
        // Another digest than the one asked for is for the bytes to decide.
        Reference::Digest(asked) => told.is_none_or(|told| told == *asked).then_some(*asked)?,
        Reference::Tag(_) => told?,
    };
    if known == Some(&digest) && told == known.copied() {
        let (media_type, size) = (content_type(headers).unwrap_or_default(), range::content_length(headers));
        return Some(ManifestInfo { digest, media_type, size: size.unwrap_or_default(), mirrored: false });
    }
    let size = range::content_length(headers).filter(|size| *size > 0)?;
    Some(ManifestInfo { digest, media_type: content_type(headers)?, size, mirrored: false })
}

/// What the header of a HEAD's answer says of a manifest where it says less than a GET would: as it is written there.
pub(super) fn said(headers: &HeaderMap, reference: &Reference) -> Option<ManifestInfo> {
    let told = content_digest(headers);
    let digest = match reference {
        // A page tells neither.
        Reference::Digest(asked) => (told == Some(*asked) || content_type(headers).is_some()).then_some(*asked)?,
        Reference::Tag(_) => told?,
    };
    let size = range::content_length(headers).filter(|size| *size > 0)?;
    let media_type =
        headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/octet-stream");
    Some(ManifestInfo { digest, media_type: media_type.to_owned(), size, mirrored: false })
}

/// Refuses a login page, and a body without a length that was cut short: where no digest tells, JSON does.
pub(super) fn whole(fetched: (HeaderMap, Bytes)) -> Result<(HeaderMap, Bytes), Failure> {
    match serde_json::from_slice::<IgnoredAny>(&fetched.1) {
        Ok(_) => Ok(fetched),
        Err(_) => Err(Failure::invalid("the body is no JSON")),
    }
}

/// Checks the bytes against the digest that was asked for. By tag there is none: then they are JSON, and the digest is
/// computed by the algorithm of `Docker-Content-Digest`, so that it can be compared with what a HEAD tells.
pub(super) fn manifest(fetched: (HeaderMap, Bytes), reference: &Reference) -> Result<FetchedManifest, Failure> {
    let told = content_digest(&fetched.0);
    let mut recognised = true;
    let (headers, bytes, digest) = match reference {
        Reference::Digest(asked) => {
            let (headers, bytes) = fetched;
            if !digests(asked.algorithm(), &bytes).any(|digest| digest == *asked) {
                return Err(Failure::invalid("the manifest does not hash to its digest"));
            }
            (headers, bytes, *asked)
        }
        Reference::Tag(_) => {
            let (headers, bytes) = whole(fetched)?;
            let algorithm = told.map_or(Algorithm::Sha256, |told| told.algorithm());
            let named = digests(algorithm, &bytes).find(|digest| told == Some(*digest));
            recognised = named.is_some() || has_schema_version(&bytes);
            let digest = named.or_else(|| digests(algorithm, &bytes).next());
            (headers, bytes.clone(), digest.unwrap_or_else(|| Digest::of(algorithm, &bytes)))
        }
    };
    let media_type = content_type(&headers).unwrap_or_else(|| media_type_of(&bytes));
    Ok(FetchedManifest { digest, media_type, bytes, mirrored: false, recognised })
}

/// Whether it says of itself that it is a manifest. An error of an application does not.
fn has_schema_version(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: u64,
    }
    bytes.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<Shape>(bytes).is_ok_and(|shape| matches!(shape.schema_version, 1 | 2))
}

/// What a manifest may be named by: of a signed one of schema 1 the digest is over what was signed, else over all of it.
fn digests(algorithm: Algorithm, bytes: &Bytes) -> impl Iterator<Item = Digest> {
    let payload = schema1::signed_payload(bytes).map(|payload| Digest::of(algorithm, &payload));
    payload.into_iter().chain([Digest::of(algorithm, bytes)])
}

/// The media type of a manifest without a label: by its own `mediaType`, or by what it holds.
fn media_type_of(bytes: &[u8]) -> String {
    let Ok(manifest) = Manifest::parse(bytes) else { return media_type::OCI_MANIFEST.to_owned() };
    let by_shape = || if manifest.manifests.is_empty() { media_type::OCI_MANIFEST } else { media_type::OCI_INDEX };
    manifest.media_type.clone().filter(|named| !named.is_empty()).unwrap_or_else(|| by_shape().to_owned())
}

pub(super) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.trim().parse().ok()
}

/// Types that say nothing of a manifest: static mirrors and object stores send them for any file, and HTML is a page.
const UNTOLD: [&str; 6] =
    ["", "application/octet-stream", "binary/octet-stream", "text/plain", "application/json", "text/html"];

/// The media type without its parameters; `None` where it says nothing of a manifest.
pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let named = value.split(';').next()?.trim();
    (!UNTOLD.iter().any(|untold| named.eq_ignore_ascii_case(untold))).then(|| named.to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};

    use super::{DOCKER_CONTENT_DIGEST, info, manifest, media_type_of};
    use crate::oci::{Algorithm, Digest, Reference, media_type};

    fn digest(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    fn headers(kind: &str, length: &str, told: Option<Digest>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let told = told.map(|told| told.to_string()).unwrap_or_default();
        for (name, value) in [(CONTENT_TYPE, kind), (CONTENT_LENGTH, length), (DOCKER_CONTENT_DIGEST, told.as_str())] {
            if !value.is_empty() {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        headers
    }

    #[test]
    fn a_head_counts_when_it_says_what_a_get_would() {
        let (right, wrong) = (digest("{}"), digest("[]"));
        let (tag, by_digest) = (Reference::Tag("latest".parse().unwrap()), Reference::Digest(right));
        for (reference, known, kind, length, told, expected) in [
            (&tag, None, "a/b", "2", Some(right), true),
            (&tag, None, "a/b", "2", None, false),
            (&tag, None, "", "2", Some(right), false),
            (&tag, None, "application/octet-stream", "2", Some(right), false),
            (&tag, None, "a/b", "0", Some(right), false),
            (&tag, None, "a/b", "", Some(right), false),
            // What is known already need only be named.
            (&tag, Some(right), "", "", Some(right), true),
            (&tag, Some(wrong), "", "", Some(right), false),
            (&by_digest, None, "a/b", "2", Some(right), true),
            (&by_digest, None, "a/b", "2", None, true),
            (&by_digest, None, "a/b", "2", Some(wrong), false),
            (&by_digest, None, "", "2", Some(right), false),
            (&by_digest, Some(right), "", "", Some(right), true),
            (&by_digest, Some(right), "a/b", "2", None, true),
            // A page, perhaps.
            (&by_digest, Some(right), "text/html", "2", None, false),
            (&by_digest, Some(right), "", "", None, false),
            (&by_digest, None, "a/b", "0", None, false),
        ] {
            let headers = headers(kind, length, told);
            let found = info(&headers, reference, known.as_ref());
            assert_eq!(found.is_some(), expected, "{reference:?} {known:?} {headers:?}");
        }
    }

    #[test]
    fn the_digest_decides_about_bytes() {
        let (right, wrong) = (digest("{}"), digest("[]"));
        let (tag, by_digest) = (Reference::Tag("latest".parse().unwrap()), Reference::Digest(right));
        for (reference, told, body, expected) in [
            (&by_digest, Some(right), "{}", Some(right)),
            (&by_digest, None, "{}", Some(right)),
            (&by_digest, Some(wrong), "{}", Some(right)),
            (&by_digest, Some(right), "[]", None),
            (&by_digest, Some(wrong), "[]", None),
            (&tag, Some(right), "{}", Some(right)),
            (&tag, Some(wrong), "{}", Some(right)),
            (&tag, None, "{}", Some(right)),
            (&tag, None, "<html>", None),
            (&tag, Some(right), "{", None),
        ] {
            let fetched = (headers("a/b", "", told), Bytes::from_static(body.as_bytes()));
            let found = manifest(fetched, reference).ok().map(|manifest| manifest.digest);
            assert_eq!(found, expected, "{reference:?} {told:?} {body}");
        }
    }

    #[test]
    fn names_a_manifest_that_has_no_name() {
        for (body, expected) in [
            (r#"{"mediaType":"application/vnd.example"}"#, "application/vnd.example"),
            (
                r#"{"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}"#,
                media_type::OCI_INDEX,
            ),
            (r#"{"config":{"digest":"x"},"layers":[]}"#, media_type::OCI_MANIFEST),
            (r#"{"mediaType":""}"#, media_type::OCI_MANIFEST),
            ("no json", media_type::OCI_MANIFEST),
        ] {
            assert_eq!(media_type_of(body.as_bytes()), expected, "{body}");
        }
    }
}
