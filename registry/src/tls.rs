//! What the TLS library says of a certificate or a handshake, in words: its own text is the name of a variant. Pure.

use std::error::Error as StdError;
use std::io;

use rustls::{CertificateError, InvalidMessage};
use webpki::Error;

/// What is wrong with a handshake, if an error or one of its causes is about that.
pub fn fault(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(handshake(found));
    }
    // What an I/O error was made of is none of its causes.
    let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    within.and_then(|within| fault(within)).or_else(|| fault(error.source()?))
}

/// What is wrong with a handshake.
fn handshake(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(fault) => format!("its certificate {}", shown(fault)),
        rustls::Error::NoCertificatesPresented => "it wants a client certificate".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("it refused the handshake: {}", spaced(&format!("{alert:?}"))),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS: perhaps this port is for http://".to_owned()
        }
        other => other.to_string(),
    }
}

/// What is wrong with a certificate that was shown.
fn shown(fault: &CertificateError) -> String {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, Other,
        UnknownIssuer,
    };
    match fault {
        Expired | ExpiredContext { .. } => "has expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "is not valid yet: is the clock of this machine right?".to_owned(),
        UnknownIssuer => "is signed by an authority that is not known here: name its certificate in `ca`".to_owned(),
        NotValidForNameContext { expected, presented } => {
            format!("is not for {}, but for {}", expected.to_str(), presented.join(", "))
        }
        NotValidForName => "is for another name".to_owned(),
        Other(other) => other.0.downcast_ref::<Error>().map_or_else(|| other.to_string(), certificate),
        fault => spaced(&format!("{fault:?}")),
    }
}

/// What is wrong with a certificate.
pub fn certificate(error: &Error) -> String {
    match error {
        Error::UnsupportedCertVersion => "is of X.509 version 1, which has no names of hosts: issue one of version 3, \
                                          with `subjectAltName` (openssl: `-addext` or `-extfile`)"
            .to_owned(),
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => "is damaged: not a DER certificate".to_owned(),
        Error::CaUsedAsEndEntity => {
            "is that of an authority (`CA:TRUE`): issue one for the server itself, with `CA:FALSE`".to_owned()
        }
        Error::UnsupportedCriticalExtension => "has a critical extension that is not supported".to_owned(),
        other => spaced(&format!("{other:?}")),
    }
}

/// `CaUsedAsEndEntity` as `ca used as end entity`; what stands in brackets is left out.
fn spaced(name: &str) -> String {
    let mut words = String::new();
    for (place, c) in name.chars().take_while(|c| c.is_ascii_alphanumeric()).enumerate() {
        if c.is_ascii_uppercase() && place > 0 {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_a_handshake_are_found_among_causes() {
        let plain = || rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        let version = CertificateError::Other(rustls::OtherError(std::sync::Arc::new(Error::UnsupportedCertVersion)));
        for (error, says) in [
            (plain(), Some("http://")),
            (CertificateError::UnknownIssuer.into(), Some("`ca`")),
            (CertificateError::Expired.into(), Some("has expired")),
            (CertificateError::NotValidYet.into(), Some("not valid yet")),
            (CertificateError::Revoked.into(), Some("its certificate revoked")),
            (version.into(), Some("version 1")),
            (rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired), Some("certificate required")),
        ] {
            let within = io::Error::new(io::ErrorKind::InvalidData, error.clone());
            let twice = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error.clone()));
            for found in [fault(&error), fault(&within), fault(&twice)] {
                assert!(
                    says.is_none_or(|says| found.as_deref().is_some_and(|found| found.contains(says))),
                    "{found:?}"
                );
            }
        }
        assert_eq!(fault(&io::Error::other("else")), None);
    }

    #[test]
    fn errors_are_said_in_words() {
        for (error, says) in [
            (Error::UnsupportedCertVersion, "version 1"),
            (Error::BadDer, "damaged"),
            (Error::CaUsedAsEndEntity, "CA:FALSE"),
            (Error::InvalidSerialNumber, "invalid serial number"),
        ] {
            assert!(certificate(&error).contains(says), "{}", certificate(&error));
        }
    }
}
