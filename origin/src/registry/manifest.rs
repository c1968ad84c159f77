//! What a manifest must be to be taken: pure.
//!
//! Any JSON object is taken under any media type of its own, as the specification wants. Where it says what it is, it must say the
//! same as its request, and what it names must be what somebody can ask for.

use pierhead_registry::oci::{Descriptor, Digest, Manifest, ManifestError, media_type};

use super::expiration::{CONFIGURATIONS, LABEL};

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
    /// Blobs.
    pub(super) blobs: Vec<Digest>,
    /// Blobs whose content may be elsewhere.
    pub(super) foreign: Vec<Digest>,
    /// Manifests.
    pub(super) children: Vec<Digest>,
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
    if content_type.is_empty() || content_type.len() > MEDIA_TYPE || !content_type.contains('/') {
        return Err(Flaw::NoMediaType);
    }
    if media_type::DOCKER_SCHEMA1.contains(&content_type) {
        return Err(Flaw::Schema1);
    }
    let mut manifest = Manifest::parse(content)?;
    if let Some(own) = manifest.media_type.take().filter(|own| own != content_type) {
        return Err(Flaw::TwoMediaTypes(content_type.to_owned(), own.chars().take(MEDIA_TYPE).collect()));
    }
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
        |blob: &&Descriptor| blob.media_type.as_deref().is_some_and(|kind| CONFIGURATIONS.contains(&kind));
    let configuration = manifest.blobs.iter().find(is_configuration).map(|blob| blob.digest);
    let (foreign, blobs): (Vec<_>, Vec<_>) = manifest.blobs.into_iter().partition(|blob| blob.foreign);
    let mut sizes: Vec<_> = blobs.iter().filter_map(said).collect();
    // Docker's own client wrote sizes of something else into lists until 18.09, and pulls such lists all the same.
    if content_type != media_type::DOCKER_LIST {
        sizes.extend(manifest.manifests.iter().filter_map(said));
    }
    sizes.sort_unstable();
    sizes.dedup();
    Ok(Needs {
        sizes,
        blobs: digests(blobs),
        foreign: digests(foreign),
        children: digests(manifest.manifests),
        subject: manifest.subject.map(|subject| subject.digest),
        artifact_type: manifest.artifact_type.map(|kind| kind.chars().take(MEDIA_TYPE).collect()),
        configuration,
        expires_after: manifest.annotations.remove(LABEL),
    })
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
        assert_eq!(needs("application/x", b"{}").unwrap(), Needs::default());

        let sized = |field: &str, more: &str| {
            format!(r#"{{"{field}":[{{"digest":"{a}","size":7{more}}},{{"digest":"{b}","size":0}}]}}"#)
        };
        for (content_type, content, sizes) in [
            (media_type::OCI_MANIFEST, sized("layers", ""), 1),
            (media_type::OCI_MANIFEST, sized("layers", r#","urls":["x"]"#), 0),
            (media_type::OCI_INDEX, sized("manifests", ""), 1),
            (media_type::DOCKER_LIST, sized("manifests", ""), 0),
            (media_type::OCI_MANIFEST, format!(r#"{{"subject":{{"digest":"{a}","size":7}}}}"#), 0),
        ] {
            assert_eq!(needs(content_type, content.as_bytes()).unwrap().sizes.len(), sizes, "{content_type} {content}");
        }

        let many = format!(r#"{{"layers":[{}]}}"#, vec![format!(r#"{{"digest":"{a}"}}"#); DESCRIPTORS + 1].join(","));
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
        ] {
            let error = needs(content_type, content.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(flaw), "{content_type}: {error}");
        }
    }
}
