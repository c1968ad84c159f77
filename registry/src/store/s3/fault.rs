//! What an answer of the store means, and whose fault it is.
//!
//! A key that is not there and an upload that is not there are answers and no faults; a bucket that is not there is one, and
//! never taken for the former. Of what the store writes, only its code and its message get into an error, and not at any length:
//! the rest of an answer may hold what was signed.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::StoreError;

/// How much of a message is kept.
const LONGEST: usize = 300;

/// Why a request had no success.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such object.
    NoKey,
    /// There is no such multipart upload, or it does not have these parts.
    NoUpload,
    /// Anything else.
    Fault(StoreError),
}

impl Failure {
    /// What it means where what was asked for must be there.
    pub(super) fn lost(self) -> StoreError {
        match self {
            Failure::NoKey | Failure::NoUpload => StoreError::Lost,
            Failure::Fault(error) => error,
        }
    }

    /// What it means where nothing had to be there.
    pub(super) fn odd(self) -> StoreError {
        match self {
            Failure::NoKey | Failure::NoUpload => {
                StoreError::Broken("nothing was asked for, and is missing".to_owned())
            }
            Failure::Fault(error) => error,
        }
    }
}

/// What the failure of a request means.
pub(super) fn failure<E>(what: &str, error: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let fault = match &error {
        SdkError::TimeoutError(_) => StoreError::Unavailable(format!("{what}: no answer in time")),
        SdkError::DispatchFailure(failed) => {
            let reason = failed.as_connector_error().map_or_else(String::new, |error| reasons(error));
            StoreError::Unavailable(brief(&format!("{what}: {reason}")))
        }
        SdkError::ConstructionFailure(_) => {
            let reason = error.source().map_or_else(String::new, reasons);
            StoreError::Refused(brief(&format!("{what}: {reason}")))
        }
        SdkError::ResponseError(answer) => {
            return judge(what, answer.raw().status().as_u16(), "", "an answer that makes no sense");
        }
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().unwrap_or_default();
            let message = answer.err().message().unwrap_or_default();
            return judge(what, answer.raw().status().as_u16(), code, message);
        }
        _ => StoreError::Broken(format!("{what}: failed in an unknown way")),
    };
    Failure::Fault(fault)
}

/// What an error answer means.
fn judge(what: &str, status: u16, code: &str, message: &str) -> Failure {
    let text = brief(&format!("{what}: {status} {code} {message}"));
    let fault = match (code, status) {
        ("NoSuchKey", _) => return Failure::NoKey,
        ("NoSuchUpload" | "InvalidPart" | "InvalidPartOrder", _) => return Failure::NoUpload,
        ("NoSuchBucket", _) => StoreError::Refused(format!(
            "{text}: the bucket is not there; create it, or correct its name in the configuration"
        )),
        // HEAD has no body that would say what is missing.
        ("" | "NotFound", 404) => return Failure::NoKey,
        ("QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded", _) | (_, 507) => {
            StoreError::Full(text)
        }
        ("SlowDown" | "RequestTimeout" | "OperationAborted" | "InternalError" | "ServiceUnavailable", _)
        | (_, 408 | 429 | 500..) => StoreError::Unavailable(text),
        (_, 401 | 403 | 301 | 307)
        | (
            "InvalidAccessKeyId"
            | "AuthorizationHeaderMalformed"
            | "InvalidBucketName"
            | "IllegalLocationConstraintException",
            _,
        ) => StoreError::Refused(text),
        _ => StoreError::Broken(text),
    };
    Failure::Fault(fault)
}

/// An error and what caused it, in one line.
fn reasons(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.ends_with(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        cause = error.source();
    }
    text
}

/// One line of bounded length.
fn brief(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_code_and_else_by_its_status() {
        for (status, code, meaning) in [
            (404, "NoSuchKey", "no key"),
            (404, "", "no key"),
            (404, "NotFound", "no key"),
            (404, "NoSuchUpload", "no upload"),
            (400, "InvalidPart", "no upload"),
            (404, "NoSuchBucket", "refuses"),
            (403, "AccessDenied", "refuses"),
            (403, "SignatureDoesNotMatch", "refuses"),
            (301, "PermanentRedirect", "refuses"),
            (403, "QuotaExceeded", "full"),
            (507, "XMinioStorageFull", "full"),
            (503, "SlowDown", "not available"),
            (500, "InternalError", "not available"),
            (502, "", "not available"),
            (429, "TooManyRequests", "not available"),
            (400, "EntityTooSmall", "misbehaves"),
            (418, "", "misbehaves"),
        ] {
            let means = match judge("PUT of a part", status, code, "a message") {
                Failure::NoKey => "no key".to_owned(),
                Failure::NoUpload => "no upload".to_owned(),
                Failure::Fault(error) => error.to_string(),
            };
            assert!(means.contains(meaning), "{status} {code}: {means}");
        }
    }

    #[test]
    fn what_a_store_writes_stays_one_short_line() {
        let text = brief(&format!("a\nb\r{}", "x".repeat(1000)));
        assert!(text.starts_with("a b x") && text.len() == LONGEST, "{text}");
    }
}
