//! What a token says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize};

/// How far the clock of who verifies may be ahead: so long a token is taken beyond its end.
const LEEWAY: Duration = Duration::from_secs(30);

/// How far the clock of who issued may be ahead: so long before its time a token is taken.
const AHEAD: Duration = Duration::from_secs(60);

/// Something that the bearer of a token may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `repository`, or `registry`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which.
    pub name: String,
    /// `pull`, `push`, `delete`, or `*` for all.
    #[serde(default)]
    pub actions: Vec<String>,
    /// When that repository was made, in milliseconds since the epoch, and 0 where there is none yet: so it is told from others that
    /// had its name before, or get it later. Other registries' tokens do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
}

/// What a token says. Times are seconds since the epoch, as they stand in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// To whom; empty: to nobody in particular.
    pub sub: String,
    /// For which service.
    pub aud: String,
    /// From when on it is worth nothing.
    pub exp: u64,
    /// Before when it is worth nothing.
    pub nbf: u64,
    /// When it was issued.
    pub iat: u64,
    /// Its own name, for logs.
    pub jti: String,
    /// The number of the account that it was issued to: another account may get the name later. Other registries' tokens do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<i64>,
    /// What its bearer may do; nothing for those who only logged in.
    pub access: Vec<Access>,
    /// Repositories that the client asked for as well, and in which nothing was granted. Other registries' tokens do not say them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

impl Claims {
    /// Whether the token grants an action on a repository.
    pub fn allows(&self, repository: &str, action: &str) -> bool {
        let repositories = self.access.iter().filter(|access| access.kind == "repository" && access.name == repository);
        repositories.flat_map(|access| &access.actions).any(|granted| granted == action || granted == "*")
    }

    /// Whether the client asked for something in a repository, granted or not.
    pub fn names(&self, repository: &str) -> bool {
        let mut granted = self.access.iter().filter(|access| access.kind == "repository");
        granted.any(|access| access.name == repository) || self.refused.iter().any(|refused| refused == repository)
    }

    /// When the repository was made that the token means by a name, if it says so.
    pub fn created(&self, repository: &str) -> Option<i64> {
        let mut meant = self.access.iter().filter(|access| access.kind == "repository" && access.name == repository);
        meant.find_map(|access| access.created)
    }

    /// From when on the token is taken by nobody, not even by whose clock is behind. `None`: after the end of time.
    pub fn ends(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.exp))?.checked_add(LEEWAY)
    }

    /// Before when nobody takes it, not even whose clock is ahead. `None`: it never begins.
    pub(super) fn begins(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.nbf).saturating_sub(AHEAD))
    }
}

/// Claims as others write them.
#[derive(Deserialize)]
pub(super) struct Written {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(default)]
    iat: u64,
    #[serde(default)]
    jti: String,
    // Another registry may mean something else by it.
    #[serde(default, deserialize_with = "number_if_any")]
    account: Option<i64>,
    #[serde(default)]
    access: Vec<Access>,
    #[serde(default, deserialize_with = "names_if_any")]
    refused: Vec<String>,
}

/// One service, or several (RFC 7519, section 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Written {
    /// The claims, if they are for a service; of several that one is left.
    pub(super) fn for_service(self, service: &str) -> Option<Claims> {
        let meant = match &self.aud {
            Audience::One(one) => one == service,
            Audience::Several(several) => several.iter().any(|one| one == service),
        };
        let Written { iss, sub, aud: _, exp, nbf, iat, jti, account, access, refused } = self;
        meant.then(|| Claims { iss, sub, aud: service.to_owned(), exp, nbf, iat, jti, account, access, refused })
    }
}

fn names_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let names = value.as_array().into_iter().flatten();
    Ok(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
}

fn number_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_i64())
}
