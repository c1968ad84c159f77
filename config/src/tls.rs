//! `listeners[].tls`: what clients are shown, and what they must show.

use std::path::PathBuf;
use std::time::Duration;

use crate::field::{Field, LONGEST};
use crate::load::some_of;
use crate::model::{CertificateFiles, Ciphers, ClientAuthority, Tls, TlsVersion};
use crate::section::Section;

/// Looking more often is load.
const MOST_OFTEN: Duration = Duration::from_millis(10);

/// The section.
pub(crate) fn tls(field: Field<'_>) -> Option<Tls> {
    let mut section = field.section()?;
    let certificates =
        section.optional("certificates", |field| some_of(&field, "certificate", |entry| certificate_files(entry)));
    let directory = section.optional("directory", |field| field.readable_directory());
    if certificates == Some(None) && directory == Some(None) {
        section.problem("needs `certificates` or a `directory`");
    }
    let strict_sni = section.flag("strict_sni", false);
    let choices = [("modern", Ciphers::Modern), ("intermediate", Ciphers::Intermediate)];
    let ciphers = section.choice("ciphers", Ciphers::Intermediate, &choices);
    let oldest = if ciphers == Ciphers::Modern { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
    let min_version = min_version(&mut section, oldest);
    if min_version < oldest {
        section.meaningless(&["min_version"], "cannot be together with `ciphers: modern`, which are of TLS 1.3 only");
    }
    let client_ca = client_ca(&mut section);
    let watch = section.duration("watch", Duration::from_secs(10), MOST_OFTEN..=LONGEST);
    section.finish();
    Some(Tls {
        certificates: certificates?.unwrap_or_default(),
        directory: directory?,
        strict_sni,
        min_version,
        ciphers,
        client_ca: client_ca?,
        watch,
    })
}

fn client_ca(section: &mut Section<'_>) -> Option<Option<ClientAuthority>> {
    let file = section.optional("client_ca", |field| field.readable_file());
    let required = section.choice("client_auth", true, &[("required", true), ("optional", false)]);
    if file == Some(None) {
        section.meaningless(&["client_auth"], "has a meaning only with `client_ca`");
    }
    Some(file?.map(|file| ClientAuthority { file, required }))
}

/// `{ cert, key }`
pub(crate) fn certificate_files(field: Field<'_>) -> Option<CertificateFiles> {
    pair(field, |field| field.readable_file())
}

/// The same, whether they are there or not.
pub(crate) fn certificate_paths(field: Field<'_>) -> Option<CertificateFiles> {
    pair(field, |field| field.path("the path of a file"))
}

fn pair(field: Field<'_>, file: fn(Field<'_>) -> Option<PathBuf>) -> Option<CertificateFiles> {
    let mut section = field.section()?;
    let cert = section.required("cert").and_then(file);
    let key = section.required("key").and_then(file);
    section.finish();
    Some(CertificateFiles { cert: cert?, key: key? })
}

/// The oldest version of the protocol.
pub(crate) fn min_version(section: &mut Section<'_>, default: TlsVersion) -> TlsVersion {
    section.choice("min_version", default, &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)])
}
