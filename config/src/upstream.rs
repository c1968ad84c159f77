//! The part of `registries[]` that says where and how a registry is fetched.
//!
//! A credential in a URL would reach logs and errors: it is refused here, and never repeated in a message.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::field::{Field, LONGEST, SHORTEST};
use crate::host;
use crate::listener::certificate_files;
use crate::load::{read_limited, some_of};
use crate::model::{AuthMode, CertificateFiles, Credentials, Source, UpstreamEndpoint, UpstreamSettings};
use crate::secret::Secret;
use crate::section::Section;

const MIB: u64 = 1024 * 1024;

/// How an address is reached, where it does not say so itself.
struct Manner {
    ca: Option<PathBuf>,
    client_certificate: Option<CertificateFiles>,
    insecure: bool,
}

/// Takes the keys that say where a registry is fetched from.
pub(crate) fn upstream(section: &mut Section<'_>, mode: AuthMode) -> Option<UpstreamSettings> {
    let manner = manner(section, None);
    let endpoints = section.required("upstream").and_then(|field| endpoints(&field, &manner));
    if let Some(endpoints) = &endpoints {
        unused(section, endpoints);
    }
    let credentials = section.take("credentials").map(|field| {
        if mode == AuthMode::Passthrough {
            field.problem("cannot be together with `auth: passthrough`, which sends the caller's own");
        }
        credentials(field)
    });
    let realms = section.take("realms").and_then(|field| field.list(|entry| host::host(&entry)));
    let timeouts = SHORTEST..=LONGEST;
    let connect_timeout = section.duration("connect_timeout", Duration::from_secs(5), timeouts.clone());
    let first_byte_timeout = section.duration("first_byte_timeout", Duration::from_secs(30), timeouts.clone());
    let idle_timeout = section.duration("idle_timeout", Duration::from_secs(60), timeouts);
    let retries = section.number("retries", 3, 0..=100);
    let resume_for = section.duration("resume_for", Duration::from_secs(120), Duration::ZERO..=LONGEST);
    let cool_down = section.duration("cool_down", Duration::from_secs(30), Duration::ZERO..=LONGEST);
    let connections = section.number("connections_per_upstream", 8, 1..=1000);
    let parallel_above = section.size("parallel_above", 64 * MIB, 64 * 1024..=i64::MAX as u64);
    let max_manifest_size = section.size("max_manifest_size", 4 * MIB, 1024..=256 * MIB);
    Some(UpstreamSettings {
        source: Source::Upstream(endpoints?),
        credentials: match credentials {
            Some(credentials) => Some(credentials?),
            None => None,
        },
        realms: realms.unwrap_or_default(),
        connect_timeout,
        first_byte_timeout,
        idle_timeout,
        retries: u32::try_from(retries).ok()?,
        resume_for,
        cool_down,
        connections: usize::try_from(connections).ok()?,
        parallel_above,
        max_manifest_size,
    })
}

fn manner(section: &mut Section<'_>, inherited: Option<&Manner>) -> Manner {
    let ca = section.take("ca").and_then(|field| field.readable_file());
    let client_certificate = section.take("client_certificate").and_then(certificate_files);
    Manner {
        ca: ca.or_else(|| inherited.and_then(|manner| manner.ca.clone())),
        client_certificate: client_certificate
            .or_else(|| inherited.and_then(|manner| manner.client_certificate.clone())),
        insecure: section.flag("insecure", inherited.is_some_and(|manner| manner.insecure)),
    }
}

/// TLS settings of a registry that has no address for them.
fn unused(section: &Section<'_>, endpoints: &[UpstreamEndpoint]) {
    let has = |scheme: &str| endpoints.iter().any(|endpoint| endpoint.url.scheme() == scheme);
    for (key, scheme) in [("ca", "https"), ("client_certificate", "https"), ("insecure", "http")] {
        let Some(field) = section.peek(key) else { continue };
        if !has(scheme) && !field.is_false() {
            field.problem(format!("has a meaning only with an {scheme}:// upstream"));
        }
    }
}

/// One address or a list of them.
fn endpoints(field: &Field<'_>, manner: &Manner) -> Option<Vec<UpstreamEndpoint>> {
    let mut seen = BTreeSet::new();
    let mut entry = |entry: Field<'_>| {
        let endpoint = endpoint(entry.clone(), manner)?;
        if !seen.insert(endpoint.url.clone()) {
            entry.problem("is there twice");
        }
        Some(endpoint)
    };
    if field.is_list() { some_of(field, "address", entry) } else { entry(field.clone()).map(|one| vec![one]) }
}

fn endpoint(field: Field<'_>, manner: &Manner) -> Option<UpstreamEndpoint> {
    if !field.is_section() {
        let url = url(&field, manner.insecure)?;
        return Some(made(url, manner));
    }
    let mut section = field.section()?;
    let own = self::manner(&mut section, Some(manner));
    let url = section.required("url").and_then(|field| url(&field, own.insecure));
    let endpoint = url.map(|url| made(url, &own));
    if let Some(endpoint) = &endpoint {
        unused(&section, std::slice::from_ref(endpoint));
    }
    section.finish();
    endpoint
}

/// What was meant for https means nothing for http.
fn made(url: Url, manner: &Manner) -> UpstreamEndpoint {
    let tls = url.scheme() == "https";
    UpstreamEndpoint {
        ca: manner.ca.clone().filter(|_| tls),
        client_certificate: manner.client_certificate.clone().filter(|_| tls),
        url,
    }
}

fn url(field: &Field<'_>, insecure: bool) -> Option<Url> {
    let expected = "a URL such as `https://registry.example.com`";
    let text = field.text(expected)?;
    let url = match Url::parse(&text) {
        Ok(url) => url,
        Err(error) => {
            field.problem(format!("expected {expected}: {error}"));
            return None;
        }
    };
    let wrong = match url.scheme() {
        "https" | "http" if !url.username().is_empty() || url.password().is_some() => {
            Some("a URL must not hold credentials: use `credentials`")
        }
        "http" if !insecure => Some("plain HTTP needs `insecure: true`"),
        "https" | "http" if url.query().is_some() || url.fragment().is_some() => {
            Some("the URL must not have a query or a fragment")
        }
        "https" | "http" if url.path().trim_end_matches('/').ends_with("/v2") => {
            Some("the URL must not have the `/v2` of the API")
        }
        "https" | "http" => None,
        _ => Some("expected a URL that begins with `https://` or `http://`"),
    };
    match wrong {
        Some(message) => {
            field.problem(message);
            None
        }
        None => Some(url),
    }
}

fn credentials(field: Field<'_>) -> Option<Credentials> {
    let mut section = field.section()?;
    let username = section.required("username").and_then(|field| {
        let username = field.text("a user name")?;
        if username.contains(':') {
            field.problem("must not have a `:`");
            return None;
        }
        Some(username)
    });
    let password = password(&mut section);
    section.finish();
    Some(Credentials { username: username?, password: password? })
}

/// Exactly one of the three ways to give a password.
fn password(section: &mut Section<'_>) -> Option<Secret> {
    let plain = section.take("password").map(|field| field.text("a password"));
    let from_file = section.take("password_file").map(|field| secret_file(&field));
    let from_environment = section.take("password_env").map(|field| secret_variable(&field));
    let mut given = [plain, from_file, from_environment].into_iter().flatten();
    let password = given.next();
    if password.is_none() || given.next().is_some() {
        section.problem("needs exactly one of `password`, `password_file` and `password_env`");
    }
    password?.map(Secret::new)
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
