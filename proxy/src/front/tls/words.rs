//! What the TLS library says of a certificate, in words: its own text is the name of a variant.

use webpki::Error;

/// What is wrong with a certificate.
pub(crate) fn of(error: &Error) -> String {
    match error {
        Error::UnsupportedCertVersion => "is of X.509 version 1, which has no names of hosts: issue one of version 3, \
                                          with `subjectAltName` (openssl: `-addext` or `-extfile`)"
            .to_owned(),
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => "is damaged: not a DER certificate".to_owned(),
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
    fn errors_are_said_in_words() {
        for (error, says) in [
            (Error::UnsupportedCertVersion, "version 1"),
            (Error::BadDer, "damaged"),
            (Error::CaUsedAsEndEntity, "ca used as end entity"),
            (Error::InvalidSerialNumber, "invalid serial number"),
        ] {
            assert!(of(&error).contains(says), "{}", of(&error));
        }
    }
}
