//! What a caller shows: the `Authorization` header, read once into what it is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use pierhead_config::Secret;

use super::names::{Name, RobotName};

/// Longest header that is read.
const LIMIT: usize = 8 * 1024;

/// What a caller shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Nothing.
    Nothing,
    /// A user's name and password.
    User(Name, Secret),
    /// A robot's name and token.
    Robot(RobotName, Secret),
    /// An application token.
    Application(Secret),
    /// What no account can be behind.
    Nonsense,
}

impl Shown {
    /// Reads a header. `Bearer` is an application token here: tokens of the registry API are for that alone.
    pub(crate) fn read(header: Option<&HeaderValue>) -> Shown {
        let Some(header) = header else { return Shown::Nothing };
        let Some((scheme, rest)) =
            header.to_str().ok().filter(|text| text.len() <= LIMIT).and_then(|text| text.split_once(' '))
        else {
            return Shown::Nonsense;
        };
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
            return Shown::Application(Secret::new(rest));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Shown::Nonsense;
        }
        let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((username, password)) => Shown::account(username, password),
            None => Shown::Nonsense,
        }
    }

    /// A name and a password, however they came.
    pub(crate) fn account(username: &str, password: &str) -> Shown {
        match username {
            // What podman sends when it was challenged and has nothing.
            "" if password.is_empty() => Shown::Nothing,
            "$app" | "$oauthtoken" => Shown::Application(Secret::new(password)),
            robot if robot.contains('+') => match robot.parse() {
                Ok(name) => Shown::Robot(name, Secret::new(password)),
                Err(_) => Shown::Nonsense,
            },
            user => match user.parse() {
                Ok(name) => Shown::User(name, Secret::new(password)),
                Err(_) => Shown::Nonsense,
            },
        }
    }

    /// For metrics, in Quay's words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Shown::Nothing => "anonymous",
            Shown::User(..) => "user",
            Shown::Robot(..) => "robot",
            Shown::Application(_) => "apptoken",
            Shown::Nonsense => "unknown",
        }
    }
}

/// The token of a `Bearer` header.
pub(crate) fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_callers_show() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let user = |name: &str, password: &str| Shown::User(name.parse().unwrap(), Secret::new(password));
        for (header, expected) in [
            (basic("ann:s:cret"), user("ann", "s:cret")),
            (basic("ann:").replace("Basic", "bAsIc"), user("ann", "")),
            (basic(":"), Shown::Nothing),
            (basic("acme+ci:TOKEN"), Shown::Robot("acme+ci".parse().unwrap(), Secret::new("TOKEN"))),
            (basic("$app:TOKEN"), Shown::Application(Secret::new("TOKEN"))),
            (basic("$oauthtoken:TOKEN"), Shown::Application(Secret::new("TOKEN"))),
            ("Bearer TOKEN".to_owned(), Shown::Application(Secret::new("TOKEN"))),
            (basic("Ann:x"), Shown::Nonsense),
            (basic("acme+CI:x"), Shown::Nonsense),
            (basic("ann"), Shown::Nonsense),
            ("Basic !!".to_owned(), Shown::Nonsense),
            ("Basic".to_owned(), Shown::Nonsense),
            ("Digest x".to_owned(), Shown::Nonsense),
            (basic(&"a".repeat(LIMIT)), Shown::Nonsense),
        ] {
            let value = HeaderValue::from_str(&header).unwrap();
            assert_eq!(Shown::read(Some(&value)), expected, "{header}");
        }
        assert_eq!(Shown::read(None), Shown::Nothing);
        assert!(!format!("{:?}", user("ann", "s3cret")).contains("s3cret"));
    }
}
