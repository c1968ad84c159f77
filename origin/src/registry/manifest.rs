//! What a manifest must be to be taken: pure.
//!
//! Any JSON object is taken under a media type of its own, as the specification wants, unless browsers would run content of that type.
//! Where the manifest says what it is, it must agree with its request. Where the media type is known, the manifest must have its shape.
//! What the manifest names must be something that a client can ask for.

use pierhead_registry::oci::{Descriptor, Digest, Manifest, ManifestError, media_type};

use super::expiration::{CONFIGURATIONS, LABEL};
use super::json_limits::{self, TooMuch};
use super::manifest_shape::{self, Misshapen};

/// Most descriptors of one manifest.
const DESCRIPTORS: usize = 10_000;
/// Longest media type (RFC 6838, section 4.2: two names of 127 characters).
const MEDIA_TYPE: usize = 255;

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    /// No manifest at all.
    #[error(transparent)]
    Unreadable(#[from] ManifestError),
    /// Without a media type nobody knows how to read it.
    #[error("the request has no usable Content-Type: it says what kind of manifest this is")]
    NoMediaType,
    /// It says something else than its request.
    #[error("the request says {0}, the manifest {1}")]
    TwoMediaTypes(String, String),
    /// A type that browsers would run, with the rights of this registry's host.
    #[error("{0} is no media type for a manifest: browsers run it or show it as a page")]
    Active(String),
    /// More than any reader must bear.
    #[error("not a manifest that is taken here: {0}")]
    TooLarge(#[from] TooMuch),
    /// Not what its media type says.
    #[error(transparent)]
    Shape(#[from] Misshapen),
    /// Something that this registry does not keep.
    #[error("manifests of Docker's schema 1 are not taken; push the image with a client of this decade")]
    Schema1,
    /// Descriptors with digests that nobody can ask for.
    #[error("{0} descriptors have no digest of sha256 or sha512")]
    Digests(usize),
    /// What no database takes.
    #[error("the artifact type has a zero byte")]
    ZeroByte,
    /// A descriptor of something else, it seems.
    #[error("the manifest says that {digest} has {said} bytes, and it has {has}")]
    Size {
        /// Of what.
        digest: Digest,
        /// As the manifest has it.
        said: u64,
        /// As it is.
        has: u64,
    },
    /// More than anybody needs.
    #[error("more than {DESCRIPTORS} descriptors")]
    TooMany,
}

/// What a manifest needs of its repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The media type to keep it under.
    pub(super) media_type: String,
    /// Blobs.
    pub(super) blobs: Vec<Digest>,
    /// Blobs whose content may be elsewhere.
    pub(super) foreign: Vec<Digest>,
    /// Manifests.
    pub(super) children: Vec<Digest>,
    /// Entries of an index whose media type is none of a manifest: manifests of other kinds, or blobs. BuildKit's cache is an index of
    /// layers.
    pub(super) entries: Vec<Digest>,
    /// How many bytes it says that these have.
    pub(super) sizes: Vec<(Digest, u64)>,
    /// What it is about, there or not.
    pub(super) subject: Option<Digest>,
    /// What kind of artifact it is.
    pub(super) artifact_type: Option<String>,
    /// The configuration of an image.
    pub(super) configuration: Option<Digest>,
    /// How long it says that it is to be tagged.
    pub(super) expires_after: Option<String>,
}

/// Reads a manifest that is pushed as `content_type`.
pub(super) fn needs(content_type: &str, content: &[u8]) -> Result<Needs, Flaw> {
    let Some(content_type) = media_type::essence(content_type).filter(|essence| essence.len() <= MEDIA_TYPE) else {
        return Err(Flaw::NoMediaType);
    };
    if media_type::is_active(content_type) {
        return Err(Flaw::Active(content_type.to_owned()));
    }
    if media_type::is_among(content_type, &media_type::DOCKER_SCHEMA1) {
        return Err(Flaw::Schema1);
    }
    json_limits::check(content)?;
    let mut manifest = Manifest::parse(content)?;
    let own = manifest.media_type.take();
    if let Some(own) = own.as_deref().filter(|own| !media_type::is_same(own, content_type)) {
        return Err(Flaw::TwoMediaTypes(content_type.to_owned(), own.chars().take(MEDIA_TYPE).collect()));
    }
    manifest_shape::check(content_type, content)?;
    if manifest.unreadable > 0 {
        return Err(Flaw::Digests(manifest.unreadable));
    }
    if manifest.blobs.len() + manifest.manifests.len() > DESCRIPTORS {
        return Err(Flaw::TooMany);
    }
    if manifest.artifact_type.as_ref().is_some_and(|kind| kind.contains('\0')) {
        return Err(Flaw::ZeroByte);
    }
    let is_configuration =
        |blob: &&Descriptor| blob.media_type.as_deref().is_some_and(|kind| media_type::is_among(kind, &CONFIGURATIONS));
    let configuration = manifest.blobs.iter().find(is_configuration).map(|blob| blob.digest);
    let (foreign, blobs): (Vec<_>, Vec<_>) = manifest.blobs.into_iter().partition(|blob| blob.foreign);
    let mut sizes: Vec<_> = blobs.iter().filter_map(said).collect();
    // Docker's own client wrote sizes of something else into lists until 18.09, and pulls such lists all the same.
    if !media_type::is_same(content_type, media_type::DOCKER_LIST) {
        sizes.extend(manifest.manifests.iter().filter_map(said));
    }
    sizes.sort_unstable();
    sizes.dedup();
    // Without a media type it is what an index usually has.
    let is_manifest = |entry: &Descriptor| {
        entry.media_type.as_deref().is_none_or(|kind| media_type::is_among(kind, &media_type::MANIFESTS))
    };
    let (children, entries): (Vec<_>, Vec<_>) = manifest.manifests.into_iter().partition(is_manifest);
    Ok(Needs {
        media_type: kept(content_type, own),
        sizes,
        blobs: digests(blobs),
        foreign: digests(foreign),
        children: digests(children),
        entries: digests(entries),
        subject: manifest.subject.map(|subject| subject.digest),
        artifact_type: manifest.artifact_type.map(|kind| kind.chars().take(MEDIA_TYPE).collect()),
        configuration,
        expires_after: manifest.annotations.remove(LABEL),
    })
}

/// The media type as clients will compare it: as the manifest itself has it, and in lower case where it is a known one.
fn kept(content_type: &str, own: Option<String>) -> String {
    let known = || media_type::MANIFESTS.into_iter().find(|known| media_type::is_same(known, content_type));
    own.unwrap_or_else(|| known().unwrap_or(content_type).to_owned())
}

/// The size that a descriptor says. Zero is what programs write that do not know it.
fn said(descriptor: &Descriptor) -> Option<(Digest, u64)> {
    (descriptor.size > 0).then_some((descriptor.digest, descriptor.size))
}

/// Each once: the same layer may stand in an image twice.
fn digests(descriptors: Vec<Descriptor>) -> Vec<Digest> {
    let mut digests: Vec<Digest> = descriptors.into_iter().map(|descriptor| descriptor.digest).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_what_is_not() {
        let (a, b) = (format!("sha256:{}", "a".repeat(64)), format!("sha512:{}", "b".repeat(128)));
        let image = format!(
            r#"{{"mediaType":"{}","config":{{"digest":"{a}","mediaType":"kind"}},"layers":[{{"digest":"{b}"}},{{"digest":"{b}"}},{{"digest":"{a}","urls":["x"]}}]}}"#,
            media_type::OCI_MANIFEST
        );
        let found = needs(media_type::OCI_MANIFEST, image.as_bytes()).unwrap();
        assert_eq!((found.blobs.len(), found.foreign.len(), found.children.len()), (2, 1, 0));
        assert_eq!(found.artifact_type.as_deref(), Some("kind"));
        let nothing = Needs { media_type: "application/x".to_owned(), ..Needs::default() };
        assert_eq!(needs("application/x", b"{}").unwrap(), nothing);

        let sized = |field: &str, more: &str| {
            format!(
                r#"{{"config":{{"digest":"{b}"}},"{field}":[{{"digest":"{a}","size":7{more}}},{{"digest":"{b}","size":0}}]}}"#
            )
        };
        let entries = sized("manifests", "").replace(&format!(r#""config":{{"digest":"{b}"}},"#), "");
        for (content_type, content, sizes) in [
            (media_type::OCI_MANIFEST, sized("layers", ""), 1),
            (media_type::OCI_MANIFEST, sized("layers", r#","urls":["x"]"#), 0),
            (media_type::OCI_INDEX, entries.clone(), 1),
            (media_type::DOCKER_LIST, entries.clone(), 0),
            ("application/vnd.DOCKER.distribution.manifest.list.v2+json", entries, 0),
            ("application/x", format!(r#"{{"subject":{{"digest":"{a}","size":7}}}}"#), 0),
        ] {
            assert_eq!(needs(content_type, content.as_bytes()).unwrap().sizes.len(), sizes, "{content_type} {content}");
        }

        let many = format!(r#"{{"layers":[{}]}}"#, vec![format!(r#"{{"digest":"{a}"}}"#); DESCRIPTORS + 1].join(","));
        let deep = format!(r#"{{"x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let annotations: Vec<String> = (0..100_000).map(|number| format!(r#""{number}":"""#)).collect();
        let annotated = format!(r#"{{"annotations":{{{}}}}}"#, annotations.join(","));
        for (content_type, content, flaw) in [
            ("", "{}", "Content-Type"),
            ("text", "{}", "Content-Type"),
            (media_type::OCI_INDEX, image.as_str(), "the request says"),
            ("application/x", "[]", "not a manifest"),
            ("application/x", "", "not a manifest"),
            ("application/x", r#"{"layers":[{"digest":"md5:1"}]}"#, "no digest"),
            ("application/x", &many, "more than"),
            ("application/x", r#"{"artifactType":"a\u0000"}"#, "zero byte"),
            (media_type::DOCKER_SCHEMA1[0], "{}", "schema 1"),
            ("Application/vnd.docker.distribution.manifest.v1+JSON", "{}", "schema 1"),
            ("a/b, c/d", "{}", "Content-Type"),
            ("text/html", "{}", "browsers"),
            ("Text/HTML; charset=utf-8", r#"{"mediaType":"text/html"}"#, "browsers"),
            ("image/svg+xml", "{}", "browsers"),
            ("application/x", r#"{"mediaType":"text/html"}"#, "the request says"),
            (media_type::OCI_MANIFEST, r#"{"layers":[]}"#, "config"),
            (media_type::OCI_INDEX, "{}", "manifests"),
            ("application/x", &deep, "nests"),
            ("application/x", &annotated, "annotations"),
        ] {
            let error = needs(content_type, content.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(flaw), "{content_type}: {error}");
        }
    }

    #[test]
    fn media_types_are_compared_without_case_and_kept_as_clients_know_them() {
        let own = format!(r#"{{"mediaType":"{}","manifests":[]}}"#, media_type::OCI_INDEX);
        for (content_type, content, kept) in [
            ("Application/VND.oci.image.index.v1+JSON", own.as_str(), media_type::OCI_INDEX),
            ("APPLICATION/VND.OCI.IMAGE.INDEX.V1+JSON", r#"{"manifests":[]}"#, media_type::OCI_INDEX),
            ("application/vnd.oci.image.index.v1+json; charset=utf-8", own.as_str(), media_type::OCI_INDEX),
            ("application/Vnd.Example", "{}", "application/Vnd.Example"),
            ("application/vnd.example", r#"{"mediaType":"application/Vnd.Example"}"#, "application/Vnd.Example"),
        ] {
            assert_eq!(needs(content_type, content.as_bytes()).unwrap().media_type, kept, "{content_type}");
        }
    }

    #[test]
    fn entries_of_an_index_that_are_no_manifests_may_be_blobs() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let entry = |kind: &str, letter: &str| format!(r#"{{"mediaType":"{kind}","digest":"{}"}}"#, digest(letter));
        let index = format!(
            r#"{{"manifests":[{},{},{},{{"digest":"{}"}}]}}"#,
            entry(media_type::OCI_MANIFEST, "a"),
            entry("application/vnd.oci.image.layer.v1.tar+gzip", "b"),
            entry("application/vnd.buildkit.cacheconfig.v0", "c"),
            digest("d")
        );
        let found = needs(media_type::OCI_INDEX, index.as_bytes()).unwrap();
        let digests = |letters: [&str; 2]| letters.map(|letter| digest(letter).parse().unwrap()).to_vec();
        assert_eq!((found.children, found.entries), (digests(["a", "d"]), digests(["b", "c"])));
    }
}
