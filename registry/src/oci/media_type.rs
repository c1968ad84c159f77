//! Media types: those of manifests, how two are compared, and which ones a browser would run.
//!
//! Invariant: media types are compared without case and without parameters (RFC 9110, section 8.3.1). A registry hands out bytes
//! that strangers pushed, under a media type that strangers chose. A browser must never run them, so [`is_active`] is the one table
//! of types that a push refuses and that a cache serves as [`OCTET_STREAM`].

/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker schema 1, signed and unsigned: only its media type is known here.
pub const DOCKER_SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI artifact manifest, of the specification's 1.1 release candidates.
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// Bytes that no program may interpret.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// What a client of ours accepts when it must accept everything.
pub const ALL: [&str; 7] =
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, OCI_ARTIFACT, DOCKER_SCHEMA1[0], "*/*"];

/// Media types of manifests: what has one of them is a manifest and never a blob.
pub const MANIFESTS: [&str; 7] =
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, OCI_ARTIFACT, DOCKER_SCHEMA1[0], DOCKER_SCHEMA1[1]];

/// Types that browsers run, show as a page, or guess from the content (WHATWG MIME Sniffing, sections 4.6 and 7).
const ACTIVE: [&str; 33] = [
    // Pages and what acts as one.
    "text/html",
    "application/xhtml+xml",
    "application/hta",
    "text/x-component",
    "text/scriptlet",
    "text/x-scriptlet",
    "text/xml",
    "text/xsl",
    "application/xml",
    "application/xml-dtd",
    "application/xml-external-parsed-entity",
    "text/xml-external-parsed-entity",
    // Scripts.
    "application/ecmascript",
    "application/javascript",
    "application/x-ecmascript",
    "application/x-javascript",
    "text/ecmascript",
    "text/javascript",
    "text/javascript1.0",
    "text/javascript1.1",
    "text/javascript1.2",
    "text/javascript1.3",
    "text/javascript1.4",
    "text/javascript1.5",
    "text/jscript",
    "text/livescript",
    "text/x-ecmascript",
    "text/x-javascript",
    "text/vbscript",
    // Documents with scripts of their own.
    "application/pdf",
    "application/x-shockwave-flash",
    // Browsers look into the content.
    "application/unknown",
    "unknown/unknown",
];

/// The media type in a `Content-Type`, without its parameters and the space around it. `None`: there is none, or more than one.
pub fn essence(text: &str) -> Option<&str> {
    let essence = text.split(';').next()?.trim_matches([' ', '\t', '\r', '\n']);
    let (kind, subtype) = essence.split_once('/')?;
    let is_token = |part: &str| !part.is_empty() && part.bytes().all(is_token_character);
    (is_token(kind) && is_token(subtype)).then_some(essence)
}

/// A character of a token (RFC 9110, section 5.6.2).
fn is_token_character(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)
}

/// Whether two texts are the same media type.
pub fn is_same(one: &str, other: &str) -> bool {
    match (essence(one), essence(other)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    }
}

/// Whether a text is one of these media types.
pub fn is_among(text: &str, types: &[&str]) -> bool {
    types.iter().any(|known| is_same(text, known))
}

/// Whether a browser would run content of this type, show it as a page, or guess what it is: HTML, XML of any kind, scripts, PDF,
/// several parts, and whatever is no single media type.
pub fn is_active(text: &str) -> bool {
    let Some(essence) = essence(text) else { return true };
    let essence = essence.to_ascii_lowercase();
    let in_parts = ["multipart/", "message/"].iter().any(|kind| essence.starts_with(kind));
    in_parts || essence.contains('*') || essence.ends_with("+xml") || ACTIVE.contains(&essence.as_str())
}

/// The type under which a registry or a cache may hand out content that says it has this one.
pub fn served(text: &str) -> &str {
    if is_active(text) { OCTET_STREAM } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compared_without_case_and_parameters() {
        for (one, other, same) in [
            (OCI_MANIFEST, "Application/VND.oci.image.manifest.V1+json", true),
            (OCI_MANIFEST, "application/vnd.oci.image.manifest.v1+json; charset=utf-8", true),
            (OCI_MANIFEST, " application/vnd.oci.image.manifest.v1+json ;charset=\"a;b\"", true),
            (OCI_MANIFEST, OCI_INDEX, false),
            (OCI_MANIFEST, "", false),
            ("", "", false),
        ] {
            assert_eq!(is_same(one, other), same, "{one} {other}");
        }
        assert!(is_among("APPLICATION/vnd.oci.image.index.v1+JSON", &MANIFESTS));
        assert!(!is_among("application/vnd.oci.image.layer.v1.tar+gzip", &MANIFESTS));
        for (text, expected) in [
            ("a/b", Some("a/b")),
            ("a/b;c=d", Some("a/b")),
            ("\ta/b\t; c", Some("a/b")),
            ("a", None),
            ("a/", None),
            ("/b", None),
            ("a/b/c", None),
            ("a/b c", None),
            ("a/b, text/html", None),
            ("a/b\u{e9}", None),
            ("", None),
        ] {
            assert_eq!(essence(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_a_browser_runs_is_served_as_bytes() {
        for active in [
            "text/html",
            "TEXT/HTML",
            "text/html; charset=utf-8",
            " text/html ",
            "text/html\t;x",
            "application/xhtml+xml",
            "image/svg+xml",
            "Application/RSS+XML",
            "application/xml",
            "text/javascript",
            "application/javascript;version=1.8",
            "application/pdf",
            "multipart/x-mixed-replace; boundary=x",
            "message/rfc822",
            "*/*",
            "application/*",
            "unknown/unknown",
            // Browsers take the last of several, and sniff what is none.
            "application/vnd.oci.image.manifest.v1+json, text/html",
            "application/vnd.oci.image.manifest.v1+json text/html",
            "html",
            "",
        ] {
            assert!(is_active(active), "{active:?}");
            assert_eq!(served(active), OCTET_STREAM, "{active:?}");
        }
        for inert in MANIFESTS.into_iter().chain([
            OCTET_STREAM,
            "application/json",
            "application/json; charset=utf-8",
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.example+xmlish",
            "application/x.y",
        ]) {
            assert!(!is_active(inert), "{inert:?}");
            assert_eq!(served(inert), inert);
        }
    }
}
