//! The query and the body of a request, each read whole before a handler begins.
//!
//! The parsers name types of this program. An error here names the parameter or the key, and what is wrong with it.

use std::error::Error;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::BODY_LIMIT;
use super::error::ApiError;

/// What the parsers say of a text that is no number of the right kind, and the same for operators.
const NUMBERS: [(&str, &str); 3] = [
    ("invalid digit found in string", "must be a whole number of at least 0"),
    ("cannot parse integer from empty string", "must be a whole number of at least 0"),
    ("number too large to fit in target type", "the number is too large"),
];

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, ApiError> {
        let read: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        read.map(|Query(asked)| Asked(asked)).map_err(|error| {
            let said = error.source().map_or_else(|| error.body_text(), ToString::to_string);
            invalid(error.status(), format!("the query: {}", in_words(&said)))
        })
    }
}

/// The body. The guard has seen that it is sent as JSON.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Sent<T>, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|error| match error.status() {
            status @ StatusCode::PAYLOAD_TOO_LARGE => {
                invalid(status, format!("the body is larger than {BODY_LIMIT} bytes"))
            }
            status => invalid(status, error.body_text()),
        })?;
        read(&bytes).map(Sent)
    }
}

/// Reads a body. Only an object is taken, though the parser takes a list for a struct.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let is_object = match bytes.trim_ascii_start().first() {
        None => return Err(invalid(StatusCode::BAD_REQUEST, "the body is empty; send a JSON object".to_owned())),
        Some(first) => *first == b'{',
    };
    match Json::from_bytes(bytes) {
        Ok(Json(sent)) if is_object => Ok(sent),
        Err(error @ JsonRejection::JsonSyntaxError(_)) => {
            let said = error.source().map_or_else(|| error.body_text(), ToString::to_string);
            let place = said.rsplit_once(" at ").map(|(_, place)| format!(" (at {place})")).unwrap_or_default();
            Err(invalid(error.status(), format!("the body is not valid JSON{place}; send a JSON object")))
        }
        Err(error) if is_object => {
            let said = error.source().map_or_else(|| error.body_text(), ToString::to_string);
            Err(invalid(error.status(), format!("the body: {}", in_words(&said))))
        }
        _ => Err(invalid(StatusCode::UNPROCESSABLE_ENTITY, "the body is not a JSON object; send one".to_owned())),
    }
}

fn invalid(status: StatusCode, message: String) -> ApiError {
    ApiError::Invalid { status, message }
}

/// What a parser says of a value, for operators. Pure.
fn in_words(said: &str) -> String {
    let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
    let (key, said) = match said.split_once(": ") {
        Some((key, said)) if !key.contains([' ', '`']) => (Some(key), said),
        _ => (None, said),
    };
    // What follows names the key itself.
    if let Some(name) = said.strip_prefix("missing field ") {
        return format!("{name} is missing");
    }
    if let Some(name) = said.strip_prefix("duplicate field ") {
        return format!("{name} is given twice");
    }
    if let Some((name, known)) = said.strip_prefix("unknown field ").and_then(|rest| rest.split_once(", ")) {
        let known = known.strip_prefix("expected ").map(|known| known.strip_prefix("one of ").unwrap_or(known));
        return format!("{name} is not known{}", known.map(|known| format!("; use {known}")).unwrap_or_default());
    }
    let number = NUMBERS.iter().find(|(parsers, _)| said == *parsers).map(|(_, ours)| (*ours).to_owned());
    let said = number.unwrap_or_else(|| match said.strip_prefix("invalid type: ") {
        Some(rest) => rest.replace("expected variant identifier", "expected a string"),
        None => said.replace("unknown variant", "unknown value"),
    });
    key.map(|key| format!("`{key}`: {said}")).unwrap_or(said)
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;
    use serde::Deserialize;

    use super::super::shape::{Order, Part};
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is only read into")]
    struct Wanted {
        registry: String,
        limit: Option<usize>,
    }

    const WEIGHT: &str =
        "the body: `weight`: must be a whole number from 0 to 65535, or left out for the configured one";

    #[tokio::test]
    async fn what_is_wrong_with_a_query_is_said_in_words() {
        for (query, expected) in [
            ("registry=a&limit=abc", "the query: `limit`: must be a whole number of at least 0"),
            ("registry=a&limit=-1", "the query: `limit`: must be a whole number of at least 0"),
            ("registry=a&limit=", "the query: `limit`: must be a whole number of at least 0"),
            ("registry=a&limit=99999999999999999999", "the query: `limit`: the number is too large"),
            ("limit=1", "the query: `registry` is missing"),
            ("registry=a&registry=b", "the query: `registry` is given twice"),
            ("registry=a&lmiit=1", "the query: `lmiit` is not known; use `registry` or `limit`"),
        ] {
            let uri: Uri = format!("/?{query}").parse().unwrap();
            let (mut parts, ()) = axum::http::Request::get(uri).body(()).unwrap().into_parts();
            let error = Asked::<Wanted>::from_request_parts(&mut parts, &()).await.err().unwrap();
            assert_eq!(error, invalid(StatusCode::BAD_REQUEST, expected.to_owned()), "{query}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said_in_words() {
        let part = |body: &str| read::<Part>(body.as_bytes()).unwrap_err();
        for (body, status, expected) in [
            ("", 400, "the body is empty; send a JSON object"),
            (" \n", 400, "the body is empty; send a JSON object"),
            ("{", 400, "the body is not valid JSON (at line 1 column 1); send a JSON object"),
            ("registry", 400, "the body is not valid JSON (at line 1 column 1); send a JSON object"),
            ("[]", 422, "the body is not a JSON object; send one"),
            (r#"["a.io","b","c"]"#, 422, "the body is not a JSON object; send one"),
            ("\"a.io\"", 422, "the body is not a JSON object; send one"),
            ("null", 422, "the body is not a JSON object; send one"),
            ("{}", 422, "the body: `registry` is missing"),
            (r#"{"registry":1}"#, 422, "the body: `registry`: integer `1`, expected a string"),
            (r#"{"registry":"a","registry":"b"}"#, 422, "the body: `registry` is given twice"),
            (
                r#"{"registry":"a","tag":"b"}"#,
                422,
                "the body: `tag` is not known; use `registry`, `repository`, `reference`",
            ),
        ] {
            assert_eq!(part(body), invalid(StatusCode::from_u16(status).unwrap(), expected.to_owned()), "{body}");
        }
        for (body, weight) in [(r#"{"action":"weight","weight":65535}"#, Some(65535)), (r#"{"action":"weight"}"#, None)]
        {
            assert_eq!(read::<Order>(body.as_bytes()), Ok(Order::Weight { weight }), "{body}");
        }
        for (body, expected) in [
            ("[\"drain\"]", "the body is not a JSON object; send one"),
            (r#"{"action":"drain","now":true}"#, "the body: `now` is not known"),
            ("{}", "the body: `action` is missing"),
            (r#"{"action":5}"#, "the body: `action`: integer `5`, expected a string"),
            (r#"{"action":"weight","weight":-1}"#, WEIGHT),
            (r#"{"action":"weight","weight":1.5}"#, WEIGHT),
            (r#"{"action":"weight","weight":"7"}"#, WEIGHT),
            (r#"{"action":"weight","weight":65536}"#, WEIGHT),
        ] {
            let error = read::<Order>(body.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), expected, "{body}");
        }
        let unknown = read::<Order>(br#"{"action":"explode"}"#).unwrap_err().to_string();
        assert!(
            unknown.starts_with("the body: `action`: unknown value `explode`, expected one of `drain`"),
            "{unknown}"
        );
    }
}
