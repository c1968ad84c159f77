//! `registries[].token_keys`: by which keys, and as what, the tokens of a registry are verified here.

use url::Url;

use crate::field::Field;
use crate::model::{KeySource, TokenKeys};
use crate::section::Section;

/// Longest path, issuer or audience.
const LIMIT: usize = 1024;

/// The section.
pub(crate) fn token_keys(field: Field<'_>) -> Option<TokenKeys> {
    let mut section = field.section()?;
    let insecure = section.flag("insecure", false);
    let source = source(&mut section, insecure);
    let issuer = section.required("issuer").and_then(|field| name(&field, "who issues the tokens, such as `pierhead`"));
    let audience = section
        .required("audience")
        .and_then(|field| name(&field, "what the tokens are for, such as `registry.example.com`"));
    section.finish();
    Some(TokenKeys { source: source?, issuer: issuer?, audience: audience? })
}

/// Exactly one of the two ways to say where the keys are.
fn source(section: &mut Section<'_>, insecure: bool) -> Option<KeySource> {
    let path = section.take("path").map(|field| path(&field));
    let url = section.take("url").map(|field| url(&field, insecure));
    match (path, url) {
        (Some(path), None) => {
            section.meaningless(&["insecure"], "has a meaning only with `url`: the registry says how it is reached");
            path.map(KeySource::Path)
        }
        (None, Some(url)) => url.map(KeySource::Url),
        _ => {
            section.problem("needs exactly one of `path` and `url`");
            None
        }
    }
}

fn path(field: &Field<'_>) -> Option<String> {
    let expected = "a path such as `/keys/services/pierhead/keys`";
    let text = field.text(expected)?;
    let plain = text.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'?' | b'#' | b'\\'));
    if text.starts_with('/') && plain && text.len() <= LIMIT {
        return Some(text);
    }
    field.problem(format!("expected {expected}"));
    None
}

fn url(field: &Field<'_>, insecure: bool) -> Option<Url> {
    let expected = "a URL such as `https://registry.example.com/keys`";
    let text = field.text(expected)?;
    let wrong = match Url::parse(&text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => "a URL must not hold credentials",
        // Whoever can put keys in their place signs tokens that are believed.
        Ok(url) if url.scheme() == "http" && !insecure => "plain HTTP needs `insecure: true`",
        Ok(url) if matches!(url.scheme(), "https" | "http") => return Some(url),
        _ => expected,
    };
    field.problem(if wrong == expected { format!("expected {expected}") } else { wrong.to_owned() });
    None
}

fn name(field: &Field<'_>, expected: &str) -> Option<String> {
    let text = field.text(expected)?;
    if text.len() <= LIMIT {
        return Some(text);
    }
    field.problem(format!("expected {expected}"));
    None
}
