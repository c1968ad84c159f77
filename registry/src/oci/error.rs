//! Error codes and their JSON body (OCI distribution specification, "Error Codes").

use serde::{Deserialize, Serialize};

/// The codes that the specification registers, and the two that its implementations add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// `BLOB_UNKNOWN`: no such blob in this repository.
    BlobUnknown,
    /// `BLOB_UPLOAD_INVALID`: an upload that cannot go on.
    BlobUploadInvalid,
    /// `BLOB_UPLOAD_UNKNOWN`: no such upload in this repository.
    BlobUploadUnknown,
    /// `DENIED`: known, and not allowed.
    Denied,
    /// `DIGEST_INVALID`: no digest, or not the digest of the content.
    DigestInvalid,
    /// `MANIFEST_BLOB_UNKNOWN`: a manifest that names what this repository does not hold.
    ManifestBlobUnknown,
    /// `MANIFEST_INVALID`: a manifest that breaks its own rules.
    ManifestInvalid,
    /// `MANIFEST_UNKNOWN`: no such manifest in this repository.
    ManifestUnknown,
    /// `NAME_INVALID`: no repository name.
    NameInvalid,
    /// `NAME_UNKNOWN`: no such repository.
    NameUnknown,
    /// `PAGINATION_NUMBER_INVALID`: no number of entries.
    PaginationNumberInvalid,
    /// `RANGE_INVALID`: not satisfiable.
    RangeInvalid,
    /// `SIZE_INVALID`: larger than a limit.
    SizeInvalid,
    /// `TAG_INVALID`: no tag.
    TagInvalid,
    /// `TOOMANYREQUESTS`: a rate limit.
    TooManyRequests,
    /// `UNAUTHORIZED`: log in first.
    Unauthorized,
    /// `UNAVAILABLE`: what is needed for an answer does not answer.
    Unavailable,
    /// `UNSUPPORTED`: no such operation here.
    Unsupported,
}

impl ErrorCode {
    /// The code as it stands in the body.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BlobUnknown => "BLOB_UNKNOWN",
            ErrorCode::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            ErrorCode::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            ErrorCode::Denied => "DENIED",
            ErrorCode::DigestInvalid => "DIGEST_INVALID",
            ErrorCode::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            ErrorCode::ManifestInvalid => "MANIFEST_INVALID",
            ErrorCode::ManifestUnknown => "MANIFEST_UNKNOWN",
            ErrorCode::NameInvalid => "NAME_INVALID",
            ErrorCode::NameUnknown => "NAME_UNKNOWN",
            ErrorCode::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            ErrorCode::RangeInvalid => "RANGE_INVALID",
            ErrorCode::SizeInvalid => "SIZE_INVALID",
            ErrorCode::TagInvalid => "TAG_INVALID",
            ErrorCode::TooManyRequests => "TOOMANYREQUESTS",
            ErrorCode::Unauthorized => "UNAUTHORIZED",
            ErrorCode::Unavailable => "UNAVAILABLE",
            ErrorCode::Unsupported => "UNSUPPORTED",
        }
    }

    /// The body that carries this code alone.
    pub fn body(self, message: impl Into<String>) -> ErrorBody {
        self.bodies([message])
    }

    /// The body that carries this code for each of several things.
    pub fn bodies(self, messages: impl IntoIterator<Item = impl Into<String>>) -> ErrorBody {
        let entry = |message: _| ErrorEntry { code: self.as_str().to_owned(), message };
        ErrorBody { errors: messages.into_iter().map(Into::into).map(entry).collect() }
    }
}

/// `{"errors":[{"code":…,"message":…}]}`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl ErrorBody {
    /// The body as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The codes of a registry's answer; empty when it is no such body.
    pub fn codes(body: &[u8]) -> Vec<String> {
        serde_json::from_slice::<ErrorBody>(body)
            .map(|body| body.errors.into_iter().map(|entry| entry.code).collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{ErrorBody, ErrorCode};

    #[test]
    fn body_and_back() {
        let body = ErrorCode::BlobUnknown.body("no such blob").to_json();
        assert_eq!(body, br#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no such blob"}]}"#);
        assert_eq!(ErrorBody::codes(&body), ["BLOB_UNKNOWN"]);
        assert!(ErrorBody::codes(b"<html>").is_empty());
    }
}
