//! Bodies in JSON: what is wrong with one is said in words, and a key that is not known here is ignored, as by Quay.
//!
//! Clients of Quay send keys that this registry has no use for. Such a key is named in a `Warning` header (RFC 9111, section 5.5), so that a
//! spelling mistake is found. Invariant: the header is plain ASCII and short, whatever the keys are.

use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

/// Keys that are named; of more than these it is only said that there are more.
const NAMED: usize = 10;
/// What is shown of a key.
const SHOWN: usize = 64;

/// The keys that a request sent in vain. Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Ignored(Arc<Mutex<Vec<String>>>);

impl Ignored {
    fn add(&self, key: String) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One more than is shown says that there are more.
        if keys.len() <= NAMED {
            keys.push(key);
        }
    }

    /// What the answer says of them, if there are any.
    pub(super) fn warning(&self) -> Option<HeaderValue> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown: Vec<String> = keys.iter().take(NAMED).map(|key| plain(key)).collect();
        let more = if keys.len() > NAMED { ", …" } else { "" };
        let text = format!("299 - \"these keys are not known here and were ignored: {}{more}\"", shown.join(", "));
        // The dots are the only character of it that is not ASCII.
        HeaderValue::from_str(&text.replace('…', "...")).ok().filter(|_| !shown.is_empty())
    }
}

fn plain(key: &str) -> String {
    let safe = |c: char| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | ',') { c } else { '?' };
    key.chars().take(SHOWN).map(safe).collect()
}

/// Reads a body. The error is for the client: which key is wrong, and how. Only an object is taken, though the parser takes a list for a struct.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8], ignored: Option<&Ignored>) -> Result<T, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("the body is empty; an object in JSON is expected".to_owned());
    }
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    if !is_object && serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
        return Err("the body is not an object in JSON; an object is expected".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut place = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut place);
    let read = serde_ignored::deserialize(tracked, |path| {
        // `?` stands for an optional value that was given.
        let key = path.to_string().replace(".?", "");
        ignored.into_iter().for_each(|ignored| ignored.add(key.clone()));
    });
    let read: T = read.map_err(|error| in_words(&error, &place.path().to_string(), bytes))?;
    json.end().map_err(|error| format!("the body goes on after its JSON, {}", place_of(&error)))?;
    Ok(read)
}

fn place_of(error: &serde_json::Error) -> String {
    format!("at line {}, column {}", error.line(), error.column())
}

fn in_words(error: &serde_json::Error, key: &str, bytes: &[u8]) -> String {
    match error.classify() {
        Category::Eof => "the body ends in the middle of its JSON".to_owned(),
        // A number where a word is expected is no fault of the JSON, though the parser says so.
        Category::Syntax if serde_json::from_slice::<IgnoredAny>(bytes).is_ok() => {
            format!("`{}`: the value is of the wrong type", plain(key))
        }
        Category::Syntax | Category::Io => format!("the body is not JSON, {}", place_of(error)),
        Category::Data => {
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or_default();
            let missing = said.strip_prefix("missing field ").map(|field| format!("{field} is missing"));
            let said = missing.unwrap_or_else(|| {
                let said = said.replace("unknown variant", "unknown value").replace("invalid type: ", "");
                expected(&said.replace("invalid value: ", ""))
            });
            if matches!(key, "." | "") { said } else { format!("`{}`: {said}", plain(key)) }
        }
    }
}

/// What a parser expects, in words: it names types of this program.
fn expected(said: &str) -> String {
    let Some((found, kind)) = said.rsplit_once(", expected ") else { return said.to_owned() };
    let kind = match kind {
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        other => other,
    };
    format!("{found}, expected {kind}")
}

/// What is wrong with a parameter of a query, in words. `said` is the parser's: `limit: invalid digit found in string`.
pub(super) fn of_parameter(said: &str) -> String {
    let (key, said) = match said.split_once(": ") {
        Some((key, said)) if !key.contains([' ', '`']) => (Some(key), said),
        _ => (None, said),
    };
    let words = match said {
        "invalid digit found in string" | "cannot parse integer from empty string" => "must be a whole number",
        "number too large to fit in target type" => "the number is too large",
        "number too small to fit in target type" => "the number is too small",
        "provided string was not `true` or `false`" => "must be true or false",
        other => other,
    };
    key.map_or_else(|| words.to_owned(), |key| format!("`{}`: {words}", plain(key)))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Role {
        Read,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is only read into")]
    struct Inner {
        name: String,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is only read into")]
    struct Body {
        role: Role,
        delegate: Option<Inner>,
        until: Option<i64>,
        parts: Option<u32>,
        kept: Option<bool>,
    }

    #[test]
    fn parameters_are_told_in_words() {
        for (said, words) in [
            ("limit: invalid digit found in string", "`limit`: must be a whole number"),
            ("limit: cannot parse integer from empty string", "`limit`: must be a whole number"),
            ("limit: number too large to fit in target type", "`limit`: the number is too large"),
            ("last: provided string was not `true` or `false`", "`last`: must be true or false"),
            ("missing field `query`", "missing field `query`"),
        ] {
            assert_eq!(of_parameter(said), words);
        }
    }

    #[test]
    fn unknown_keys_are_ignored_and_named() {
        for (body, expected) in [
            (r#"{"role":"read"}"#, None),
            (r#"{"role":"read","id":"","x":{"y":[1]}}"#, Some("id, x")),
            (
                r#"{"role":"read","delegate":{"name":"a","kind":"user","is_robot":true}}"#,
                Some("delegate.kind, delegate.is_robot"),
            ),
            (r#"{"role":"read","a\r\nSet-Cookie: b\"":1,"é":2}"#, Some("a??Set-Cookie:?b?, ?")),
        ] {
            let ignored = Ignored::default();
            read::<Body>(body.as_bytes(), Some(&ignored)).unwrap();
            let warning = ignored.warning().map(|value| value.to_str().unwrap().to_owned());
            let expected =
                expected.map(|keys| format!("299 - \"these keys are not known here and were ignored: {keys}\""));
            assert_eq!(warning, expected, "{body}");
        }
        let many: Vec<String> = (0..1000).map(|n| format!("\"{n}{}\":1", "k".repeat(100))).collect();
        let ignored = Ignored::default();
        read::<Body>(format!("{{\"role\":\"read\",{}}}", many.join(",")).as_bytes(), Some(&ignored)).unwrap();
        let warning = ignored.warning().unwrap();
        assert!(warning.len() < 1000 && warning.to_str().unwrap().ends_with(", ...\""), "{warning:?}");
    }

    #[test]
    fn what_is_wrong_is_said_in_words() {
        for (body, expected) in [
            ("", "the body is empty; an object in JSON is expected"),
            (" \n", "the body is empty; an object in JSON is expected"),
            ("{\"role\":", "the body ends in the middle of its JSON"),
            ("[]", "the body is not an object in JSON; an object is expected"),
            (" [\"read\", null]", "the body is not an object in JSON; an object is expected"),
            ("\"read\"", "the body is not an object in JSON; an object is expected"),
            ("null", "the body is not an object in JSON; an object is expected"),
            ("[", "the body ends in the middle of its JSON"),
            ("role", "the body is not JSON, at line 1, column 1"),
            ("{role}", "the body is not JSON, at line 1, column 2"),
            ("{\"role\":\"read\"} x", "the body goes on after its JSON, at line 1, column 17"),
            ("{}", "`role` is missing"),
            ("{\"role\":\"king\"}", "`role`: unknown value `king`, expected `read`"),
            ("{\"role\":\"read\",\"delegate\":{\"name\":1}}", "`delegate.name`: integer `1`, expected a string"),
            (r#"{"role":"read","until":"soon"}"#, "`until`: string \"soon\", expected a whole number"),
            (r#"{"role":"read","parts":-1}"#, "`parts`: integer `-1`, expected a whole number of at least 0"),
            (r#"{"role":"read","kept":1}"#, "`kept`: integer `1`, expected true or false"),
            ("{\"role\":1}", "`role`: the value is of the wrong type"),
        ] {
            let error = read::<Body>(body.as_bytes(), None).unwrap_err();
            assert_eq!(error, expected, "{body}");
        }
        let deep = "[".repeat(100_000);
        assert!(read::<Body>(format!("{{\"role\":\"read\",\"x\":{deep}").as_bytes(), None).is_err());
    }
}
