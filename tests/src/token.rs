//! A token service as docker-registry wants one: ES256, the certificate in the token's header. It publishes its keys as
//! well, and the token's header names the key, for those who verify tokens by them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pierhead_registry::token::{Jwk, SigningKey};
use serde_json::{Value, json};

use crate::http::{Answer, Request, Server};

/// What tokens are made for.
pub const SERVICE: &str = "registry.test";
/// By whom they are made.
pub const ISSUER: &str = "issuer.test";
/// How long tokens live, in seconds.
const LIFE: i64 = 300;

/// Who may pull what. Nobody's name is the empty string.
#[derive(Clone, Default)]
pub struct Policy {
    accounts: HashMap<String, (String, Vec<String>)>,
    pushers: Vec<String>,
}

impl Policy {
    /// Adds a user who may pull from these repositories (`*` for all).
    pub fn user(mut self, name: &str, password: &str, repositories: &[&str]) -> Policy {
        let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
        self.accounts.insert(name.to_owned(), (password.to_owned(), repositories));
        self
    }

    /// Lets a user do everything, and not only pull, where it may do anything.
    pub fn pushes(mut self, name: &str) -> Policy {
        self.pushers.push(name.to_owned());
        self
    }

    /// Lets everybody pull from these repositories.
    pub fn anonymous(self, repositories: &[&str]) -> Policy {
        self.user("", "", repositories)
    }

    fn allows(&self, user: &str, repository: &str) -> bool {
        self.accounts.get(user).is_some_and(|(_, names)| names.iter().any(|name| name == "*" || name == repository))
    }
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
    pem: String,
    jwk: Jwk,
}

impl Signer {
    fn new() -> Signer {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new(vec![ISSUER.to_owned()]).unwrap().self_signed(&pair).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der()).unwrap();
        let jwk = SigningKey::from_pkcs8(&pair.serialize_der()).unwrap().public().clone();
        Signer { key, certificate: certificate.der().to_vec(), pem: certificate.pem(), jwk }
    }

    /// A token that runs out in `left` seconds, or did so before.
    fn token(&self, subject: &str, access: &[Value], left: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let header = json!({
            "typ": "JWT", "alg": "ES256", "kid": self.jwk.kid(), "x5c": [STANDARD.encode(&self.certificate)],
        });
        let claims = json!({
            "iss": ISSUER, "sub": subject, "aud": SERVICE, "jti": format!("{now}"),
            "nbf": now - 600, "iat": now, "exp": now + left, "access": access,
        });
        let text =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// A running token service.
pub struct TokenService {
    /// What it was asked is recorded here.
    pub server: Server,
    /// Those whose keys are published; the last one signs.
    signers: Signers,
}

type Signers = Arc<Mutex<Vec<Arc<Signer>>>>;

fn newest(signers: &Signers) -> Arc<Signer> {
    Arc::clone(signers.lock().unwrap().last().unwrap())
}

impl TokenService {
    /// Starts on a free port.
    pub async fn start(policy: Policy) -> TokenService {
        let signers = Signers::new(Mutex::new(vec![Arc::new(Signer::new())]));
        let issuing = Arc::clone(&signers);
        let answer = move |request: &Request| match request.path.as_str() {
            "/keys" => publish(&issuing),
            _ => issue(request, &policy, &newest(&issuing)),
        };
        let server = Server::start(Ipv4Addr::LOCALHOST, answer).await;
        TokenService { server, signers }
    }

    /// Its `host:port`, for an edge's `realms`: a port of the registry's host is not trusted by itself.
    pub fn authority(&self) -> String {
        self.server.url().trim_start_matches("http://").to_owned()
    }

    /// Where tokens are asked for.
    pub fn realm(&self) -> String {
        format!("{}/token", self.server.url())
    }

    /// Where its keys are published.
    pub fn keys(&self) -> String {
        format!("{}/keys", self.server.url())
    }

    /// Signs with another key from now on, which docker-registry does not know.
    pub fn rotate(&self) {
        self.signers.lock().unwrap().push(Arc::new(Signer::new()));
    }

    /// Publishes no key any more but the one that signs.
    pub fn withdraw(&self) {
        let mut signers = self.signers.lock().unwrap();
        let old = signers.len() - 1;
        signers.drain(..old);
    }

    /// A token that may do anything to a repository, for tests to push with.
    pub fn push_token(&self, repository: &str) -> String {
        newest(&self.signers).token(
            "pusher",
            &[json!({ "type": "repository", "name": repository, "actions": ["pull", "push", "delete"] })],
            LIFE,
        )
    }

    /// A token that may pull from a repository, and runs out in `left` seconds, or did so before.
    pub fn pull_token(&self, repository: &str, left: i64) -> String {
        let access = json!({ "type": "repository", "name": repository, "actions": ["pull"] });
        newest(&self.signers).token("puller", &[access], left)
    }

    /// The part of docker-registry's configuration that trusts this service; writes the certificate into `dir`.
    pub fn registry_config(&self, dir: &Path) -> Value {
        let path = dir.join("issuer.pem");
        std::fs::write(&path, &newest(&self.signers).pem).unwrap();
        json!({ "token": { "realm": self.realm(), "service": SERVICE, "issuer": ISSUER, "rootcertbundle": path } })
    }
}

fn publish(signers: &Signers) -> Answer {
    let keys: Vec<Jwk> = signers.lock().unwrap().iter().map(|signer| signer.jwk.clone()).collect();
    Answer::new(200, &[("Content-Type", "application/json")], json!({ "keys": keys }).to_string())
}

fn issue(request: &Request, policy: &Policy, signer: &Signer) -> Answer {
    let user = match request.basic() {
        None => String::new(),
        Some((user, password)) => match policy.accounts.get(&user) {
            Some((expected, _)) if *expected == password => user,
            _ => return Answer::new(401, &[("Content-Type", "application/json")], r#"{"errors":[]}"#),
        },
    };
    let pushes = policy.pushers.contains(&user);
    // Docker's login asks for none, and clients that push ask for several, one parameter each or all in one.
    let scopes: Vec<String> = request.parameters("scope").collect();
    let granted = |scope: &str| match scope.split(':').collect::<Vec<_>>()[..] {
        ["repository", name, actions] if policy.allows(&user, name) => {
            let actions: Vec<&str> = actions.split(',').filter(|action| pushes || *action == "pull").collect();
            Some(json!({ "type": "repository", "name": name, "actions": actions }))
        }
        _ => None,
    };
    let access: Vec<Value> = scopes.iter().flat_map(|scope| scope.split(' ')).filter_map(granted).collect();
    let body = json!({ "token": signer.token(&user, &access, LIFE), "expires_in": 300 });
    Answer::new(200, &[("Content-Type", "application/json")], body.to_string())
}
