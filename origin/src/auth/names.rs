//! The names of accounts, in Quay's grammar: users, organisations, robots and teams.
//!
//! Users and organisations share one namespace, for both stand before the first slash of a repository's name. A robot's
//! name is that of the one it belongs to, a plus sign and its own: no user can be called like a robot.

use std::fmt;
use std::str::FromStr;

/// Shortest name of a user or organisation.
const SHORTEST: usize = 2;
/// Longest name.
const LONGEST: usize = 255;

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// Too short or too long.
    #[error("a name has {SHORTEST} to {LONGEST} characters")]
    Length,
    /// Not `[a-z0-9]+([._-][a-z0-9]+)*`.
    #[error("a name is lower-case letters and digits, joined by single '.', '_' or '-'")]
    Characters,
    /// A path of this registry begins with it, or clients give it a meaning of their own.
    #[error("this name is reserved: choose another")]
    Reserved,
    /// Not `namespace+name`.
    #[error("a robot's name is that of its owner, '+', and its own")]
    Robot,
}

/// The name of a user, organisation or team.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(String);

/// Names that no new user or organisation gets: first parts of paths of this registry's programs, now or soon, and what clients take
/// for something else. `library` is where Docker looks for official images; `localhost/x` is a host to Docker.
const RESERVED: [&str; 27] = [
    "api",
    "assets",
    "auth",
    "console",
    "favicon.ico",
    "health",
    "healthz",
    "index.html",
    "keys",
    "library",
    "livez",
    "localhost",
    "login",
    "logout",
    "metrics",
    "oauth",
    "oauth1",
    "oauth2",
    "readyz",
    "robots.txt",
    "signin",
    "signout",
    "signup",
    "static",
    "v1",
    "v2",
    "webhooks",
];

impl Name {
    /// The name of a user or organisation that is about to be made. Accounts that have a reserved name keep it.
    pub(crate) fn of_new_account(text: &str) -> Result<Name, NameError> {
        let name: Name = text.parse()?;
        if RESERVED.contains(&name.as_str()) { Err(NameError::Reserved) } else { Ok(name) }
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        if !(SHORTEST..=LONGEST).contains(&text.len()) {
            return Err(NameError::Length);
        }
        if is_name(text) { Ok(Name(text.to_owned())) } else { Err(NameError::Characters) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The whole name of a robot: `owner+own`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RobotName(String);

impl RobotName {
    /// A robot of a user or organisation.
    pub(crate) fn new(owner: &Name, own: &str) -> Result<RobotName, NameError> {
        format!("{owner}+{own}").parse()
    }

    /// The whole name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RobotName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<RobotName, NameError> {
        let (owner, own) = text.split_once('+').ok_or(NameError::Robot)?;
        owner.parse::<Name>()?;
        if own.is_empty() || text.len() > LONGEST {
            return Err(NameError::Length);
        }
        if is_name(own) { Ok(RobotName(text.to_owned())) } else { Err(NameError::Characters) }
    }
}

impl fmt::Display for RobotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[a-z0-9]+([._-][a-z0-9]+)*`
fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.split(['.', '_', '-']).all(|part| !part.is_empty() && part.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::{Name, NameError, RobotName};

    #[test]
    fn names_of_users_and_teams() {
        for good in ["ab", "ann", "a.b", "a_b", "a-b", "0a", "a1.b2-c3_d4", &"a".repeat(255)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for (bad, error) in [
            ("", NameError::Length),
            ("a", NameError::Length),
            (&"a".repeat(256), NameError::Length),
            ("Ann", NameError::Characters),
            ("a..b", NameError::Characters),
            ("a__b", NameError::Characters),
            (".ab", NameError::Characters),
            ("ab-", NameError::Characters),
            ("a/b", NameError::Characters),
            ("a+b", NameError::Characters),
            ("a b", NameError::Characters),
            ("äb", NameError::Characters),
            ("$app", NameError::Characters),
        ] {
            assert_eq!(bad.parse::<Name>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn new_accounts_get_no_reserved_name() {
        for reserved in
            ["library", "api", "v1", "v2", "keys", "auth", "oauth", "oauth2", "health", "metrics", "localhost"]
        {
            assert_eq!(Name::of_new_account(reserved), Err(NameError::Reserved), "{reserved}");
            // An account that has the name already keeps it, and so do its robots.
            let name: Name = reserved.parse().unwrap();
            assert!(RobotName::new(&name, "ci").is_ok());
        }
        for free in ["libraries", "my-api", "v2x", "admin", "root", "quay", "keys2"] {
            assert!(Name::of_new_account(free).is_ok(), "{free}");
        }
        // In other letters it is no name at all.
        for other in ["Library", "LIBRARY", "Api", "V2"] {
            assert_eq!(Name::of_new_account(other), Err(NameError::Characters), "{other}");
        }
    }

    #[test]
    fn names_of_robots() {
        let robot: RobotName = "acme+ci.deploy".parse().unwrap();
        assert_eq!(robot.as_str(), "acme+ci.deploy");
        assert_eq!(RobotName::new(&"acme".parse().unwrap(), "ci").unwrap().as_str(), "acme+ci");
        for bad in
            ["acme", "acme+", "+ci", "acme+CI", "acme+a+b", "a+ci", "acme+a/b", &format!("acme+{}", "a".repeat(255))]
        {
            assert!(bad.parse::<RobotName>().is_err(), "{bad}");
        }
    }
}
