//! `${NAME}` and `${NAME:-default}` in a value: a file that fits several machines.
//!
//! A variable that is not set, or empty, is a problem unless it has a default. A default may hold variables itself.
//! `$${` stands for `${`; any other `$` for itself.

/// How deep defaults may nest.
const DEPTH_LIMIT: usize = 8;
/// Longest text that may come out.
const LENGTH_LIMIT: usize = 64 * 1024;

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VariableError {
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
    #[error("`${{` without its `}}`")]
    Open,
    #[error("`${{` must be followed by the name of a variable: letters, digits and `_`")]
    Name,
    #[error("variables nest too deeply or grow too long")]
    Limit,
}

/// Replaces every variable of `text` by what `lookup` knows.
pub(crate) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, VariableError> {
    expand_nested(text, lookup, 0)
}

fn expand_nested(text: &str, lookup: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<String, VariableError> {
    if depth > DEPTH_LIMIT {
        return Err(VariableError::Limit);
    }
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &from[2..];
            continue;
        }
        expanded.push_str(before);
        let inside = &from[2..];
        let end = closing_brace(inside).ok_or(VariableError::Open)?;
        expanded.push_str(&value_of(&inside[..end], lookup, depth)?);
        if expanded.len() > LENGTH_LIMIT {
            return Err(VariableError::Limit);
        }
        rest = &inside[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Where the brace is closed that was open before `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 1usize;
    for (at, character) in text.char_indices() {
        match character {
            '{' if text[..at].ends_with('$') => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

/// The value of what stands between the braces.
fn value_of(inside: &str, lookup: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<String, VariableError> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(VariableError::Name);
    }
    match (lookup(name).filter(|value| !value.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => expand_nested(default, lookup, depth + 1),
        (None, None) => Err(VariableError::Unset(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{VariableError, expand};

    fn lookup(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/me".to_owned()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("${HOME}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn expands() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a$b$", "a$b$"),
            ("${HOME}/x", "/home/me/x"),
            ("${NONE:-/tmp}/x", "/tmp/x"),
            ("${NONE:-}", ""),
            ("${EMPTY:-full}", "full"),
            ("${XDG_DATA_HOME:-${HOME}/.local/share}/pierhead", "/home/me/.local/share/pierhead"),
            ("${NONE:-a}b}", "ab}"),
            ("$${HOME}", "${HOME}"),
            ("${ODD}", "${HOME}"),
            ("${HOME}${HOME}", "/home/me/home/me"),
        ] {
            assert_eq!(expand(text, &lookup).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses() {
        let deep = format!("{}x{}", "${A:-".repeat(20), "}".repeat(20));
        for (text, expected) in [
            ("${NONE}", VariableError::Unset("NONE".to_owned())),
            ("${EMPTY}", VariableError::Unset("EMPTY".to_owned())),
            ("${A:-${B}}", VariableError::Unset("B".to_owned())),
            ("${HOME", VariableError::Open),
            ("${}", VariableError::Name),
            ("${1A}", VariableError::Name),
            ("${A-B}", VariableError::Name),
            (deep.as_str(), VariableError::Limit),
        ] {
            assert_eq!(expand(text, &lookup), Err(expected), "{text}");
        }
    }
}
