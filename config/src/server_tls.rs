//! TLS to servers.

use crate::field::Field;
use crate::host;
use crate::model::{ServerTls, TlsVersion};
use crate::tls::{certificate_files, min_version};

/// `tls` of a pool, or of its checks.
pub(crate) fn server_tls(field: Field<'_>) -> Option<ServerTls> {
    let mut section = field.section()?;
    let ca = section.optional("ca", |field| field.readable_file());
    let sni = section.optional("sni", |field| host::name(&field));
    let verify = section.flag("verify", true);
    let client_certificate = section.optional("client_certificate", certificate_files);
    let min_version = min_version(&mut section, TlsVersion::Tls12);
    if !verify {
        section.meaningless(&["ca"], "has a meaning only with `verify: true`");
    }
    section.finish();
    Some(ServerTls { ca: ca?, sni: sni?, verify, client_certificate: client_certificate?, min_version })
}
