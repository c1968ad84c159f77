//! The query of a request: what the registry API knows there, read once.

use http::StatusCode;
use pierhead_registry::oci::{Algorithm, Digest, ErrorCode};
use url::form_urlencoded;

use super::refusal::Refusal;
use crate::registry::LONGEST_PAGE;

/// What a query says. What is not known is left alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// `digest`: of the whole upload.
    pub(super) digest: Option<Digest>,
    /// `digest-algorithm`: what the digest will be.
    pub(super) algorithm: Option<Algorithm>,
    /// `mount`: a blob that is somewhere else.
    pub(super) mount: Option<Digest>,
    /// `from`: there.
    pub(super) from: Option<String>,
    /// `n`: entries of a page.
    pub(super) count: Option<u32>,
    /// `last`: where the page before ended.
    pub(super) last: Option<String>,
    /// `tag`: what a manifest that is pushed by its digest is called, as written.
    pub(super) tags: Vec<String>,
    /// `artifactType`: only those.
    pub(super) artifact_type: Option<String>,
}

impl Query {
    /// Reads it.
    pub(super) fn parse(text: &str) -> Result<Query, Refusal> {
        let mut query = Query::default();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            if value.contains('\0') {
                let message = format!("{key} has a zero byte, which nothing here has");
                return Err(Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message));
            }
            match key.as_ref() {
                "digest" => query.digest = Some(value.parse().map_err(Refusal::digest)?),
                "digest-algorithm" => query.algorithm = Some(value.parse().map_err(Refusal::digest)?),
                "mount" => query.mount = Some(value.parse().map_err(Refusal::digest)?),
                "from" => query.from = Some(value.into_owned()),
                "tag" => query.tags.push(value.into_owned()),
                "n" => query.count = Some(count(&value)?),
                "last" => query.last = Some(value.into_owned()),
                "artifactType" => query.artifact_type = Some(value.into_owned()).filter(|kind| !kind.is_empty()),
                _ => {}
            }
        }
        Ok(query)
    }
}

/// More than a page holds is a wish for a full page; the rest is on the next.
fn count(text: &str) -> Result<u32, Refusal> {
    let count: u64 = text.parse().map_err(|_| {
        let message = format!("n is the number of entries wanted, up to {LONGEST_PAGE}");
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::PaginationNumberInvalid, message)
    })?;
    Ok(u32::try_from(count).unwrap_or(LONGEST_PAGE).min(LONGEST_PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_read_and_what_is_wrong_is_told() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let text = format!("digest={}&n=7&last=a%2Fb&from=a/b&x=y&artifactType=", digest.replace(':', "%3A"));
        let query = Query::parse(&text).ok().unwrap();
        assert_eq!(query.digest.map(|digest| digest.to_string()), Some(digest));
        assert_eq!((query.count, query.last.as_deref(), query.from.as_deref()), (Some(7), Some("a/b"), Some("a/b")));
        assert_eq!(query.artifact_type, None);
        assert_eq!(Query::parse("n=99999999999").ok().unwrap().count, Some(LONGEST_PAGE));
        for wrong in ["last=%00", "n=-1", "n=x", "n=", "digest=latest", "mount=sha256:0", "digest-algorithm=md5"] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }
}
