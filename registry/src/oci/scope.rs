//! Scopes: what a client asks a token service to be let do, such as `repository:team/app:pull,push` (the distribution
//! project's "Token Scope Documentation").
//!
//! A scope is only a wish. What nobody here has heard of is read all the same, so that whoever decides can leave it out
//! silently, as clients expect. What breaks the grammar is refused.

use std::fmt;

use super::name::{NameError, RepositoryName};

/// Longest text of one `scope` parameter, which may hold several.
const TEXT_LIMIT: usize = 16 * 1024;
/// Most scopes of one request.
const SCOPES: usize = 64;
/// Most actions of one scope.
const ACTIONS: usize = 16;
/// Longest type or action.
const WORD_LIMIT: usize = 64;
/// Longest name of something that is no repository.
const NAME_LIMIT: usize = 255;

/// Why a text is no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Not three parts, or one of them has characters that it cannot have.
    #[error("a scope reads <type>:<name>:<action>,<action>")]
    Shape,
    /// The type is `repository`, and the name is none of a repository.
    #[error("invalid name in a scope: {0}")]
    Name(#[from] NameError),
    /// Longer than anything sensible.
    #[error("a scope is too long")]
    TooLong,
    /// More than anybody needs at once.
    #[error("more than {SCOPES} scopes, or more than {ACTIONS} actions in one")]
    TooMany,
}

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A repository of this registry.
    Repository {
        /// Its name, without the registry's.
        name: RepositoryName,
        /// What is kept there, as in `repository(plugin)`.
        class: Option<String>,
    },
    /// Anything else, such as `registry:catalog`.
    Other {
        /// `registry`
        kind: String,
        /// `catalog`
        name: String,
    },
}

/// What a client asks to be let do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// With what.
    pub resource: Resource,
    /// `pull`, `push`, `delete`, `*`, or what nobody knows. No action stands twice.
    pub actions: Vec<String>,
}

impl Scope {
    /// Reads one scope. `host` is what clients call this registry, with its port: some put it before the repository.
    pub fn parse(text: &str, host: &str) -> Result<Scope, ScopeError> {
        if text.len() > TEXT_LIMIT {
            return Err(ScopeError::TooLong);
        }
        // From both ends: a registry's name in the middle may have a port.
        let (kind, rest) = text.split_once(':').ok_or(ScopeError::Shape)?;
        let (name, actions) = rest.rsplit_once(':').ok_or(ScopeError::Shape)?;
        let (kind, class) = kind_and_class(kind)?;
        let actions = read_actions(actions)?;
        let resource = match (kind, class) {
            ("repository", class) => {
                let own = name.strip_prefix(host).and_then(|name| name.strip_prefix('/')).filter(|_| !host.is_empty());
                Resource::Repository { name: own.unwrap_or(name).parse()?, class: class.map(str::to_owned) }
            }
            (_, None) if is_name(name) => Resource::Other { kind: kind.to_owned(), name: name.to_owned() },
            _ => return Err(ScopeError::Shape),
        };
        Ok(Scope { resource, actions })
    }

    /// Reads the `scope` parameters of a request: one each, or several in one with spaces between them.
    pub fn parse_all<'a>(parameters: impl IntoIterator<Item = &'a str>, host: &str) -> Result<Vec<Scope>, ScopeError> {
        let mut scopes = Vec::new();
        for parameter in parameters {
            if parameter.len() > TEXT_LIMIT {
                return Err(ScopeError::TooLong);
            }
            for text in parameter.split(' ').filter(|text| !text.is_empty()) {
                if scopes.len() == SCOPES {
                    return Err(ScopeError::TooMany);
                }
                scopes.push(Scope::parse(text, host)?);
            }
        }
        Ok(scopes)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.resource {
            Resource::Repository { name, class: None } => write!(f, "repository:{name}:")?,
            Resource::Repository { name, class: Some(class) } => write!(f, "repository({class}):{name}:")?,
            Resource::Other { kind, name } => write!(f, "{kind}:{name}:")?,
        }
        f.write_str(&self.actions.join(","))
    }
}

/// `repository`, or `repository(plugin)`.
fn kind_and_class(text: &str) -> Result<(&str, Option<&str>), ScopeError> {
    let word = |text: &str| {
        let fits = (1..=WORD_LIMIT).contains(&text.len());
        fits && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    let (kind, class) = match text.split_once('(') {
        None => (text, None),
        Some((kind, class)) => (kind, Some(class.strip_suffix(')').ok_or(ScopeError::Shape)?)),
    };
    if word(kind) && class.is_none_or(word) { Ok((kind, class)) } else { Err(ScopeError::Shape) }
}

/// `pull,push`, or `*`. None at all is a wish for nothing, and grammatical.
fn read_actions(text: &str) -> Result<Vec<String>, ScopeError> {
    let mut actions: Vec<String> = Vec::new();
    for (position, action) in text.split(',').enumerate() {
        if position == ACTIONS {
            return Err(ScopeError::TooMany);
        }
        let lower = action.len() <= WORD_LIMIT && action.bytes().all(|c| c.is_ascii_lowercase());
        if !lower && action != "*" {
            return Err(ScopeError::Shape);
        }
        if !action.is_empty() && !actions.iter().any(|known| known == action) {
            actions.push(action.to_owned());
        }
    }
    Ok(actions)
}

/// The name of something that we do not know: of printable ASCII, so that it may be logged.
fn is_name(text: &str) -> bool {
    (1..=NAME_LIMIT).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::{NameError, Resource, Scope, ScopeError};

    const HOST: &str = "registry.example.com:5000";

    #[test]
    fn reads_scopes() {
        for (text, expected) in [
            ("repository:team/app:pull", "repository:team/app:pull"),
            ("repository:team/app:pull,push,pull", "repository:team/app:pull,push"),
            ("repository:app:*", "repository:app:*"),
            ("repository:app:", "repository:app:"),
            ("repository(plugin):team/app:pull", "repository(plugin):team/app:pull"),
            ("registry:catalog:*", "registry:catalog:*"),
            ("artifact:urn:x:read", "artifact:urn:x:read"),
            ("repository:registry.example.com:5000/team/app:pull", "repository:team/app:pull"),
            ("repository:registry.example.com/app:pull", "repository:registry.example.com/app:pull"),
        ] {
            assert_eq!(Scope::parse(text, HOST).map(|scope| scope.to_string()).as_deref(), Ok(expected), "{text}");
        }
        let scope = Scope::parse("repository:team/app:push", HOST).unwrap();
        assert_eq!(scope.resource, Resource::Repository { name: "team/app".parse().unwrap(), class: None });
        let without = Scope::parse("repository:/app:push", "");
        assert_eq!(without, Err(ScopeError::Name(NameError::Repository)), "no host is no prefix");
    }

    #[test]
    fn refuses_the_rest() {
        let long = format!("repository:a:{}", "p".repeat(65));
        let endless = format!("repository:{}:pull", "a/".repeat(10_000));
        let many = format!("repository:a:{}", "pull,".repeat(16));
        for (text, expected) in [
            ("", ScopeError::Shape),
            ("repository", ScopeError::Shape),
            ("repository:a", ScopeError::Shape),
            (":a:pull", ScopeError::Shape),
            ("Repository:a:pull", ScopeError::Shape),
            ("repository(:a:pull", ScopeError::Shape),
            ("repository():a:pull", ScopeError::Shape),
            ("registry(x):catalog:*", ScopeError::Shape),
            ("registry::*", ScopeError::Shape),
            ("registry:cat\nalog:*", ScopeError::Shape),
            ("repository:a:pull;push", ScopeError::Shape),
            ("repository:a:PULL", ScopeError::Shape),
            ("repository:a:**", ScopeError::Shape),
            ("repository:A:pull", ScopeError::Name(NameError::Repository)),
            ("repository::pull", ScopeError::Name(NameError::Repository)),
            ("repository:elsewhere.example.com:5000/a:pull", ScopeError::Name(NameError::Repository)),
            (&long, ScopeError::Shape),
            (&endless, ScopeError::TooLong),
            (&many, ScopeError::TooMany),
        ] {
            assert_eq!(Scope::parse(text, HOST), Err(expected), "{text}");
        }
    }

    #[test]
    fn several_at_once() {
        let several = ["repository:a:pull  repository:b:push", "", "registry:catalog:*"];
        let read = Scope::parse_all(several, HOST).unwrap();
        let texts: Vec<_> = read.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["repository:a:pull", "repository:b:push", "registry:catalog:*"]);
        let many = "repository:a:pull ".repeat(65);
        assert_eq!(Scope::parse_all([many.as_str()], HOST), Err(ScopeError::TooMany));
        let endless = " ".repeat(20_000);
        assert_eq!(Scope::parse_all([endless.as_str()], HOST), Err(ScopeError::TooLong));
    }
}
