//! `access`: who may pull, from an htpasswd file.
//!
//! Only bcrypt: every other htpasswd scheme can be guessed by the million a second. A hash never reaches a message.

use std::collections::BTreeSet;

use crate::claims::Claims;
use crate::field::Field;
use crate::load::read_limited;
use crate::model::Access;
use crate::secret::Secret;

/// A higher cost takes seconds a login.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;
/// Salt and hash, in bcrypt's own base 64.
const SALT_AND_HASH: usize = 53;

/// The section. A registry that is sent the callers' own credentials leaves no header for the edge's.
pub(crate) fn access(field: Field<'_>, claims: &Claims) -> Option<Access> {
    let mut section = field.section()?;
    let users = section.required("htpasswd").and_then(|field| {
        if let Some(path) = claims.passthrough_path() {
            let reason = "a request has one Authorization header, which can't be for the edge and for upstream";
            field.problem(format!("cannot be together with {path}: passthrough: {reason}"));
        }
        users(&field)
    });
    section.finish();
    Some(Access { users: users? })
}

fn users(field: &Field<'_>) -> Option<Vec<(String, Secret)>> {
    let path = field.path("the path of an htpasswd file")?;
    let text = match read_limited(&path) {
        Ok(text) => text,
        Err(message) => {
            field.problem(format!("{}: {message}", path.display()));
            return None;
        }
    };
    let mut users = Vec::new();
    let mut names = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match user(line) {
            Ok((name, _)) if !names.insert(name.to_owned()) => {
                field.problem(format!("{}: line {}: the user is there twice", path.display(), index + 1));
            }
            Ok((name, hash)) => users.push((name.to_owned(), Secret::new(hash))),
            Err(message) => field.problem(format!("{}: line {}: {message}", path.display(), index + 1)),
        }
    }
    if names.is_empty() {
        field.problem(format!("{}: has no users", path.display()));
    }
    Some(users)
}

/// One line: name and bcrypt hash.
fn user(line: &str) -> Result<(&str, &str), &'static str> {
    let (name, hash) = line.split_once(':').ok_or("expected `user:hash`")?;
    if name.is_empty() {
        return Err("the user has no name");
    }
    let not_bcrypt = "expected a bcrypt hash, as `htpasswd -B` makes it";
    let parts: Vec<&str> = hash.split('$').collect();
    let ["", "2a" | "2b" | "2x" | "2y", cost, rest] = parts.as_slice() else { return Err(not_bcrypt) };
    let base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'/');
    if cost.len() != 2 || rest.len() != SALT_AND_HASH || !rest.bytes().all(base64) {
        return Err(not_bcrypt);
    }
    match cost.parse::<u32>() {
        Ok(cost) if COSTS.contains(&cost) => Ok((name, hash)),
        Ok(_) => Err("the bcrypt cost must be from 4 to 16"),
        Err(_) => Err(not_bcrypt),
    }
}

#[cfg(test)]
mod tests {
    use super::user;

    #[test]
    fn reads_bcrypt_and_nothing_else() {
        let rest = "a".repeat(53);
        assert!(user(&format!("me:$2y$10${rest}")).is_ok());
        for bad in [
            "me".to_owned(),
            format!(":$2y$10${rest}"),
            "me:secret".to_owned(),
            "me:$apr1$salt$hash".to_owned(),
            "me:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(),
            format!("me:$2y$31${rest}"),
            format!("me:$2y$1${rest}"),
            format!("me:$2y$10${rest}a"),
            format!("me:$2y$10${}", "ä".repeat(53)),
        ] {
            assert!(user(&bad).is_err(), "{bad}");
        }
    }
}
