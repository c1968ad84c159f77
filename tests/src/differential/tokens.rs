//! Who may ask an upstream: the challenge of each answer, and the token service that it names.
//!
//! A token is good for what its request named and no more: the realm's repository, the scope as the challenge spells
//! it, so many requests. So a client that mixes up challenges is refused.

use std::collections::HashMap;

use serde_json::json;

use super::behaviour::{Auth, Bearer, ChallengeForm, ScopeSpelling};
use super::content::REPOSITORIES;
use crate::http::{Answer, Request};

/// The account.
pub const ACCOUNT: (&str, &str) = ("edge", "edge-password");
const SERVICE: &str = "registry.test";

/// The tokens that were issued.
#[derive(Default)]
pub struct Gate {
    tokens: HashMap<String, Token>,
    asked: u32,
    failed: usize,
}

struct Token {
    /// Where it was asked for.
    realm: String,
    scopes: String,
    left: Option<u32>,
}

/// What an upstream says to a request's credentials.
pub enum Permit {
    /// Nothing.
    Granted,
    /// 401 with these lines.
    Challenge(Vec<String>),
}

impl Gate {
    /// Judges a request about a repository; `None`: about none, for which any token will do. `issuer`: base URL of the
    /// token service.
    pub fn admit(&mut self, auth: &Auth, issuer: &str, repository: Option<&str>, request: &Request) -> Permit {
        let bearer = match auth {
            Auth::None => return Permit::Granted,
            Auth::Basic if request.basic().as_ref().is_some_and(is_account) => return Permit::Granted,
            Auth::Basic => return Permit::Challenge(vec!["Basic realm=\"registry\"".to_owned()]),
            Auth::Bearer(bearer) => bearer,
        };
        let challenge =
            |error: Option<&str>, wider: bool| Permit::Challenge(challenge(bearer, issuer, repository, error, wider));
        let shown = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let Some(shown) = shown else { return challenge(None, false) };
        let Some(token) = self.tokens.get_mut(shown) else { return challenge(Some("invalid_token"), false) };
        if let Some(left) = &mut token.left {
            if *left == 0 {
                return challenge(Some("invalid_token"), false);
            }
            *left -= 1;
        }
        let Some(repository) = repository else { return Permit::Granted };
        if token.realm != realm_path(bearer, Some(repository)) {
            return challenge(Some("insufficient_scope"), false);
        }
        let granted: Vec<&str> = token.scopes.split(' ').collect();
        let wanted = scope(bearer, repository, bearer.scope == ScopeSpelling::Widened);
        match wanted.split(' ').all(|scope| granted.contains(&scope)) {
            true => Permit::Granted,
            false => challenge(Some("insufficient_scope"), true),
        }
    }

    /// How many requests for a token failed because the service did.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Answers a request for a token. `path` is what follows `/token`.
    pub fn issue(&mut self, bearer: &Bearer, path: &str, request: &Request) -> Answer {
        if let (Some(status), None) = (bearer.moved, path.strip_prefix("/moved")) {
            let location = format!("/token/moved{path}?{}", request.query);
            return Answer::new(status, &[("Location", &location)], "");
        }
        self.asked += 1;
        if let Some((status, times)) = bearer.failing
            && self.asked <= times
        {
            self.failed += 1;
            return Answer::new(status, &[("Content-Type", "application/json")], r#"{"details":"no"}"#);
        }
        if request.basic().is_some_and(|account| !is_account(&account)) || (bearer.account && request.basic().is_none())
        {
            return Answer::new(401, &[("Content-Type", "application/json")], r#"{"details":"incorrect password"}"#);
        }
        if bearer.service && request.parameter("service").as_deref() != Some(SERVICE) {
            return Answer::new(400, &[], "");
        }
        let text = format!("token-{}-{}", self.asked, request.query.len());
        let scopes: Vec<String> = request.parameters("scope").collect();
        let realm = path.strip_prefix("/moved").unwrap_or(path).to_owned();
        let token = Token { realm, scopes: scopes.join(" "), left: bearer.uses };
        self.tokens.insert(text.clone(), token);
        let mut body = json!({ "expires_in": 300 });
        body[bearer.field] = json!(text);
        Answer::new(200, &[("Content-Type", "application/json")], body.to_string())
    }
}

fn is_account(shown: &(String, String)) -> bool {
    shown.0 == ACCOUNT.0 && shown.1 == ACCOUNT.1
}

/// What follows `/token` in the realm of a repository.
fn realm_path(bearer: &Bearer, repository: Option<&str>) -> String {
    let number = REPOSITORIES.iter().position(|name| Some(*name) == repository);
    match number.filter(|_| bearer.per_repository) {
        Some(number) => format!("/{number}"),
        None => String::new(),
    }
}

fn scope(bearer: &Bearer, repository: &str, wider: bool) -> String {
    match bearer.scope {
        ScopeSpelling::Prefixed => format!("repository:proxy/{repository}:pull"),
        ScopeSpelling::Widened if wider => {
            format!("repository:{repository}:pull repository:{repository}:metadata_read")
        }
        _ => format!("repository:{repository}:pull"),
    }
}

fn challenge(bearer: &Bearer, issuer: &str, repository: Option<&str>, error: Option<&str>, wider: bool) -> Vec<String> {
    let mut fields = vec![("realm", format!("{issuer}/token{}", realm_path(bearer, repository)))];
    if bearer.service {
        fields.push(("service", SERVICE.to_owned()));
    }
    if let Some(repository) = repository.filter(|_| bearer.scope != ScopeSpelling::Missing) {
        fields.push(("scope", scope(bearer, repository, wider)));
    }
    fields.extend(error.map(|error| ("error", error.to_owned())));
    let written = |open: &str, close: &str, separator: &str| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}{open}{value}{close}")).collect();
        fields.join(separator)
    };
    let plain = format!("Bearer {}", written("=\"", "\"", ","));
    match bearer.form {
        ChallengeForm::Plain => vec![plain],
        // A value with a space needs quotes.
        ChallengeForm::Unquoted if wider => vec![plain],
        ChallengeForm::Unquoted => vec![format!("Bearer {}", written("=", "", ","))],
        ChallengeForm::Spaced => vec![format!("bearer {}", written(" = \"", "\"", " , "))],
        ChallengeForm::BasicBefore => vec!["Basic realm=\"registry\"".to_owned(), plain],
        ChallengeForm::NegotiateAfter => vec![plain, "Negotiate".to_owned()],
        ChallengeForm::OneLine => vec![format!("Basic realm=\"a, b\", {plain}")],
    }
}
