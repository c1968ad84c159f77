//! The part of `registries[]` that says where and how a registry is fetched.
//!
//! A credential in a URL would reach logs and errors: it is refused here, and never repeated in a message.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use pierhead_registry::oci::RepositoryName;
use url::Url;

use crate::claims::Claims;
use crate::credentials::credentials;
use crate::field::{Field, LONGEST, SHORTEST};
use crate::host;
use crate::load::some_of;
use crate::model::{
    AuthMode, CertificateFiles, Credentials, RedirectTarget, Source, UpstreamEndpoint, UpstreamSettings,
};
use crate::section::Section;
use crate::tls::certificate_files;

const MIB: u64 = 1024 * 1024;

/// How an address is reached, where it does not say so itself.
struct Manner {
    repository_prefix: Option<String>,
    ca: Option<PathBuf>,
    client_certificate: Option<CertificateFiles>,
    insecure: bool,
}

/// Takes the keys that say where a registry is fetched from.
pub(crate) fn upstream(section: &mut Section<'_>, mode: AuthMode, claims: &Claims) -> Option<UpstreamSettings> {
    let manner = manner(section, None);
    let source = source(section, &manner, mode, claims);
    let credentials = account(section, mode);
    if let (Some(field), Some(Source::Upstream(endpoints))) = (section.peek("credentials"), &source)
        && endpoints.last().is_some_and(|last| last.credentials.is_some())
    {
        field.problem("belongs to the last address of `upstream`, which has its own: leave one of the two out");
    }
    let realms = section.take("realms").and_then(|field| field.list(|entry| host::host(&entry)));
    let redirects_to = section.take("redirects_to").and_then(|field| field.list(|entry| redirect_target(&entry)));
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
        source: source?,
        credentials: match credentials {
            Some(credentials) => Some(credentials?),
            None => None,
        },
        realms: realms.unwrap_or_default(),
        redirects_to: redirects_to.unwrap_or_default(),
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

/// The account of a registry or of one of its addresses.
fn account(section: &mut Section<'_>, mode: AuthMode) -> Option<Option<Credentials>> {
    section.take("credentials").map(|field| {
        if mode == AuthMode::Passthrough {
            field.problem("cannot be together with `auth: passthrough`, which sends the caller's own");
        }
        credentials(field)
    })
}

/// `cdn.example.com`, `minio.lan:9000`, `10.0.0.0/8` or an address.
fn redirect_target(field: &Field<'_>) -> Option<RedirectTarget> {
    let expected = "a host such as `cdn.example.com` or `minio.lan:9000`, or a network such as `10.0.0.0/8`";
    let text = field.text(expected)?;
    let network: Option<IpNet> = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    if let Some(network) = network {
        return Some(RedirectTarget::Network(network));
    }
    let text = host::host(field)?;
    Some(match text.split_once(':') {
        Some((host, port)) => RedirectTarget::Host { host: host.to_owned(), port: port.parse().ok() },
        None => RedirectTarget::Host { host: text, port: None },
    })
}

/// Exactly one of the two ways to say what to ask.
fn source(section: &mut Section<'_>, manner: &Manner, mode: AuthMode, claims: &Claims) -> Option<Source> {
    let endpoints = section.take("upstream").map(|field| endpoints(&field, manner, mode));
    let pool = section.take("pool").map(|field| claims.pool_named(&field));
    match (endpoints, pool) {
        (Some(endpoints), None) => {
            let endpoints = endpoints?;
            unused(section, &endpoints);
            Some(Source::Upstream(endpoints))
        }
        (None, Some(pool)) => {
            let keys = ["ca", "client_certificate", "insecure", "repository_prefix", "connect_timeout", "cool_down"];
            section.meaningless(&keys, "has a meaning only with `upstream`: the pool says how its servers are reached");
            Some(Source::Pool(pool?))
        }
        _ => {
            section.problem("needs exactly one of `upstream` and `pool`");
            None
        }
    }
}

fn manner(section: &mut Section<'_>, inherited: Option<&Manner>) -> Manner {
    let ca = section.take("ca").and_then(|field| field.readable_file());
    let client_certificate = section.take("client_certificate").and_then(certificate_files);
    let expected = "the beginning of repository names, such as `mirror-project` or `team/mirror`";
    let repository_prefix = section.take("repository_prefix").and_then(|field| {
        let text = field.text(expected)?;
        match text.trim_matches('/').parse::<RepositoryName>() {
            Ok(name) => Some(name.to_string()),
            Err(error) => {
                field.problem(format!("expected {expected}: {error}"));
                None
            }
        }
    });
    Manner {
        repository_prefix: repository_prefix.or_else(|| inherited.and_then(|manner| manner.repository_prefix.clone())),
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
fn endpoints(field: &Field<'_>, manner: &Manner, mode: AuthMode) -> Option<Vec<UpstreamEndpoint>> {
    let mut seen = BTreeSet::new();
    let mut entry = |entry: Field<'_>| {
        let endpoint = endpoint(entry.clone(), manner, mode)?;
        if !seen.insert((endpoint.url.clone(), endpoint.repository_prefix.clone())) {
            entry.problem("is there twice");
        }
        Some(endpoint)
    };
    if field.is_list() { some_of(field, "address", entry) } else { entry(field.clone()).map(|one| vec![one]) }
}

fn endpoint(field: Field<'_>, manner: &Manner, mode: AuthMode) -> Option<UpstreamEndpoint> {
    if !field.is_section() {
        let url = url(&field, manner.insecure)?;
        return Some(made(url, manner, None));
    }
    let mut section = field.section()?;
    let own = self::manner(&mut section, Some(manner));
    let url = section.required("url").and_then(|field| url(&field, own.insecure));
    let credentials = account(&mut section, mode);
    let endpoint = url.map(|url| made(url, &own, credentials.flatten()));
    if let Some(endpoint) = &endpoint {
        unused(&section, std::slice::from_ref(endpoint));
    }
    section.finish();
    endpoint
}

/// What was meant for https means nothing for http.
fn made(url: Url, manner: &Manner, credentials: Option<Credentials>) -> UpstreamEndpoint {
    let tls = url.scheme() == "https";
    UpstreamEndpoint {
        ca: manner.ca.clone().filter(|_| tls),
        client_certificate: manner.client_certificate.clone().filter(|_| tls),
        repository_prefix: manner.repository_prefix.clone(),
        credentials,
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
        "https" | "http" if url.path().contains("/v2/") => {
            Some("the URL must not have the `/v2` of the API: what comes after it goes into `repository_prefix`")
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
