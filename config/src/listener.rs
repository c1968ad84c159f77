//! `listeners[]`: where clients connect.

use std::net::SocketAddr;
use std::time::Duration;

use crate::claims::Claims;
use crate::field::{Field, LONGEST, SHORTEST};
use crate::load::some_of;
use crate::model::{CertificateFiles, Ciphers, HttpListener, HttpTarget, Listener, Mode, Tls, TlsVersion};

const KIB: u64 = 1024;
/// Larger headers are an attack, whatever the operator believes.
const HEADER_LIMIT: u64 = 1024 * KIB;
/// More connections than a machine has ports for one address.
const CONNECTIONS_LIMIT: u64 = 1_000_000;

/// One listener.
pub(crate) fn listener(field: Field<'_>, claims: &mut Claims) -> Option<Listener> {
    let mut section = field.section()?;
    let name = section.required("name").and_then(|field| name(&field, claims));
    let bind = section.required("bind").and_then(|field| bind(&field, claims));
    if let Some(field) = section.take("mode") {
        mode(&field);
    }
    let tls = match section.take("tls") {
        Some(field) => tls(field).map(Some),
        None => Some(None),
    };
    let timeouts = SHORTEST..=LONGEST;
    let header_timeout = section.duration("header_timeout", Duration::from_secs(10), timeouts.clone());
    let max_header_size = section.size("max_header_size", 64 * KIB, KIB..=HEADER_LIMIT);
    let idle_timeout = section.duration("idle_timeout", Duration::from_secs(60), timeouts.clone());
    let write_timeout = section.duration("write_timeout", Duration::from_secs(60), timeouts);
    let max_connections = section.number("max_connections", 10_000, 1..=CONNECTIONS_LIMIT);
    section.unsupported(&["pool", "accept_proxy"]);
    section.finish();
    Some(Listener {
        name: name?,
        bind: bind?,
        accept_proxy: false,
        sni: Vec::new(),
        max_connections: usize::try_from(max_connections).ok()?,
        mode: Mode::Http(HttpListener {
            tls: tls?,
            target: HttpTarget::Registries,
            hsts: None,
            header_timeout,
            max_header_size,
            body_timeout: Duration::from_secs(60),
            idle_timeout,
            write_timeout,
        }),
    })
}

fn name(field: &Field<'_>, claims: &mut Claims) -> Option<String> {
    let expected = "a name of up to 64 letters, digits, `_`, `-` and `.`";
    let name = field.text(expected)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.len() > 64 || !name.chars().all(allowed) {
        field.problem(format!("expected {expected}"));
        return None;
    }
    // Logs and metrics know both by their names.
    if name == "admin" {
        field.problem("`admin` is the name of the operators' own listener");
        return None;
    }
    claims.listener(&name, field);
    Some(name)
}

/// An address that nobody else listens on.
pub(crate) fn bind(field: &Field<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let address = field.address()?;
    claims.address(address, field);
    Some(address)
}

fn mode(field: &Field<'_>) {
    if field.choice(&[("http", true), ("tcp", false)]) == Some(false) {
        field.problem("`tcp` is not supported by this version");
    }
}

fn tls(field: Field<'_>) -> Option<Tls> {
    let mut section = field.section()?;
    let certificates = section
        .required("certificates")
        .and_then(|field| some_of(&field, "certificate", |entry| certificate_files(entry)));
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    let min_version = section.choice("min_version", TlsVersion::Tls12, &versions);
    section.unsupported(&["client_ca"]);
    section.finish();
    Some(Tls {
        certificates: certificates?,
        directory: None,
        strict_sni: false,
        min_version,
        ciphers: Ciphers::Intermediate,
        client_ca: None,
        watch: Duration::from_secs(10),
    })
}

/// `{ cert, key }`
pub(crate) fn certificate_files(field: Field<'_>) -> Option<CertificateFiles> {
    let mut section = field.section()?;
    let cert = section.required("cert").and_then(|field| field.readable_file());
    let key = section.required("key").and_then(|field| field.readable_file());
    section.finish();
    Some(CertificateFiles { cert: cert?, key: key? })
}
