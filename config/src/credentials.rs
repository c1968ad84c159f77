//! Accounts, and the three ways to give a secret: as it is, in a file, in the environment.
//!
//! No message repeats what was found.

use crate::field::Field;
use crate::load::read_limited;
use crate::model::Credentials;
use crate::secret::Secret;
use crate::section::Section;

/// The keys of a password.
pub(crate) const PASSWORD: [&str; 3] = ["password", "password_file", "password_env"];
/// The keys of a token.
pub(crate) const TOKEN: [&str; 3] = ["token", "token_file", "token_env"];

/// What the keys of a secret came to.
pub(crate) enum Given {
    /// None of them is there.
    Nothing,
    /// There is one, and it holds a secret.
    Secret(Secret),
    /// There are several, or one that is no good: noted.
    Wrong,
}

/// `{ username, password }`
pub(crate) fn credentials(field: Field<'_>) -> Option<Credentials> {
    let mut section = field.section()?;
    let username = section.required("username").and_then(|field| username(&field));
    let password_file = section.peek("password_file").and_then(|field| field.path("the path of a file"));
    let password = match secret(&mut section, PASSWORD) {
        Given::Secret(secret) => Some(secret),
        Given::Wrong => None,
        Given::Nothing => {
            section.problem(one_of(PASSWORD));
            None
        }
    };
    section.finish();
    Some(Credentials { username: username?, password: password?, password_file })
}

/// The name of a user.
pub(crate) fn username(field: &Field<'_>) -> Option<String> {
    let username = field.text("a user name")?;
    if username.contains(':') {
        field.problem("must not have a `:`");
        return None;
    }
    Some(username)
}

/// At most one of the ways to give a secret.
pub(crate) fn secret(section: &mut Section<'_>, keys: [&'static str; 3]) -> Given {
    let [plain, file, variable] = keys;
    let plain = section.take(plain).map(|field| field.text("a secret"));
    let from_file = section.take(file).map(|field| secret_file(&field));
    let from_environment = section.take(variable).map(|field| secret_variable(&field));
    let mut given = [plain, from_file, from_environment].into_iter().flatten();
    let Some(secret) = given.next() else { return Given::Nothing };
    if given.next().is_some() {
        section.problem(one_of(keys));
        return Given::Wrong;
    }
    secret.map_or(Given::Wrong, |secret| Given::Secret(Secret::new(secret)))
}

/// That there must be exactly one of the keys of a secret.
fn one_of([plain, file, variable]: [&str; 3]) -> String {
    format!("needs exactly one of `{plain}`, `{file}` and `{variable}`")
}

fn secret_file(field: &Field<'_>) -> Option<String> {
    let path = field.path("the path of a file")?;
    match read_limited(&path) {
        Ok(text) => {
            let secret = text.trim_end_matches(['\r', '\n']);
            if secret.is_empty() {
                field.problem(format!("{}: is empty", path.display()));
                return None;
            }
            Some(secret.to_owned())
        }
        Err(message) => {
            field.problem(format!("{}: {message}", path.display()));
            None
        }
    }
}

fn secret_variable(field: &Field<'_>) -> Option<String> {
    let name = field.text("the name of an environment variable")?;
    let secret = (field.context.lookup)(&name).filter(|secret| !secret.is_empty());
    if secret.is_none() {
        field.problem("the environment variable that it names is not set");
    }
    secret
}
