//! Repository names, tags and references (OCI distribution specification, "Pulling manifests").
//!
//! All three are reference-counted text: one request clones them into logs, keys and tasks.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::digest::{Digest, DigestError};

/// Longest repository name. The specification asks clients to stay below 255 with the host name.
const NAME_LIMIT: usize = 255;
/// Longest tag.
const TAG_LIMIT: usize = 128;

/// Why a text is no repository name or tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than the specification allows.
    #[error("longer than {0} characters")]
    TooLong(usize),
    /// Not `[a-z0-9]+([._-]…)*` parts between slashes.
    #[error(
        "a repository name is lower-case letters and digits, joined by '.', '_', '__' or '-', in parts between '/'"
    )]
    Repository,
    /// Not `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    #[error("a tag is up to 128 letters, digits, '_', '.' and '-', and starts with none of the last two")]
    Tag,
    /// A reference with a colon that is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// The name of a repository within its registry, such as `library/alpine`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its first part, by which registries tell whose it is.
    pub fn namespace(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_LIMIT {
            return Err(NameError::TooLong(NAME_LIMIT));
        }
        if text.split('/').all(is_component) { Ok(RepositoryName(text.into())) } else { Err(NameError::Repository) }
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends_well
        && bytes
            .split(alphanumeric)
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|c| *c == b'-'))
}

/// A tag, such as `latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut characters = text.bytes();
        let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
        let rest = characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'));
        if first && rest && text.len() <= TAG_LIMIT { Ok(Tag(text.into())) } else { Err(NameError::Tag) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a manifest is asked by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By name, which may move.
    Tag(Tag),
    /// By content, which cannot.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') { Ok(Reference::Digest(text.parse()?)) } else { Ok(Reference::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Reference, RepositoryName, Tag};

    #[test]
    fn repository_names() {
        for good in ["alpine", "library/alpine", "a/b/c/d", "a.b", "a_b", "a__b", "a---b", "docker.io/x", "0/1"] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a-", "a/../b", "a b", "a:b", "ä", &long]
        {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_and_references() {
        let long = "a".repeat(129);
        for bad in ["", ".a", "-a", "a/b", "a b", "ä", &long] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        assert!(matches!("v1.2.3-rc.1_X".parse(), Ok(Reference::Tag(_))));
        assert!(matches!(format!("sha256:{}", "0".repeat(64)).parse(), Ok(Reference::Digest(_))));
        assert!("sha256:0".parse::<Reference>().is_err());
    }
}
