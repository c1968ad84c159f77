//! The registry client against Debian's docker-registry, and against upstreams that misbehave.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helping functions too")]

mod accounts;
mod answers;
mod authentication;
mod bodies;
mod documents;
mod endpoints;
mod fake;
mod limits;
mod logins;
mod mirrors;
mod proxies;
mod ranges;
mod reach;
mod real;
mod redirects;
mod registry;
mod secrets;
mod signed;
mod sizes;
mod transports;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pierhead_registry::client::{
    Account, AccountSettings, BlobBody, Client, ClientError, Credential, EndpointSettings, Observer, Repository,
    Settings,
};
use pierhead_registry::oci::{Algorithm, Digest};
use url::Url;

/// What was observed.
#[derive(Default)]
struct Watch {
    statuses: Mutex<Vec<Option<u16>>>,
    bytes: AtomicU64,
    left: AtomicU64,
}

impl Observer for Watch {
    fn request(&self, status: Option<u16>, _elapsed: Duration) {
        self.statuses.lock().unwrap().push(status);
    }

    fn received(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    fn rate_limit_remaining(&self, left: u64) {
        self.left.store(left, Ordering::SeqCst);
    }
}

/// Settings with limits short enough for tests.
fn settings(urls: &[Url]) -> Settings {
    let endpoint = |url: &Url| EndpointSettings {
        url: url.clone(),
        repository_prefix: None,
        account: None,
        ca: None,
        client_certificate: None,
        transport: None,
    };
    Settings {
        name: "registry.test".to_owned(),
        endpoints: urls.iter().map(endpoint).collect(),
        realms: Vec::new(),
        redirects_to: Vec::new(),
        listeners: Vec::new(),
        edge: None,
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        retries: 2,
        resume_for: Duration::from_secs(10),
        cool_down: Duration::from_secs(30),
        max_manifest_size: 64 * 1024,
    }
}

fn login(username: &str, password: &str) -> Account {
    Account { username: username.to_owned(), password: password.to_owned() }
}

/// An account as the configuration gives it.
fn configured(account: Account) -> AccountSettings {
    AccountSettings { account, password_file: None }
}

fn as_account(account: Account) -> Credential {
    Credential::Account(account)
}

fn client(settings: Settings) -> Client {
    Client::new(settings, Arc::new(Watch::default())).unwrap()
}

fn team(client: &Client) -> Repository {
    client.repository(&"team/app".parse().unwrap(), None)
}

/// The repository `team/app` at these addresses.
fn repository(urls: &[Url]) -> Repository {
    team(&client(settings(urls)))
}

/// Bytes that differ from place to place.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// Reads a body to its end.
async fn drain(body: &mut BlobBody) -> Result<Vec<u8>, ClientError> {
    let mut all = Vec::new();
    while let Some(piece) = body.chunk().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

/// Nothing that was secret stands in the error, whichever way it is printed.
fn silent_about(error: &ClientError, secrets: &[&str]) {
    let text = format!("{error} {error:?}");
    for secret in secrets {
        assert!(!text.contains(secret), "{text}");
    }
}
