//! Realm pinning: which token services a registry may name.
//!
//! The realm of a challenge is where the password goes next. A registry that was taken over, or whoever answers in its
//! place, must not be able to send it elsewhere (CVE-2026-33540). A realm is followed only
//!
//! - on the registry's own origin: scheme, host and port;
//! - on another name of its registrable domain by the public suffix list, at the usual port of its scheme, as
//!   `auth.docker.io` is for `registry-1.docker.io`;
//! - where the configuration lists its host.
//!
//! Another port of the registry's host may belong to someone else. An address or a name without a registrable domain
//! (`localhost`, a bare host name, a public suffix itself) has no siblings. URLs are compared as parsed, so `127.1` is
//! `127.0.0.1`.

use url::{Host, Url};

/// Why a realm is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RealmError {
    /// No absolute http(s) URL.
    #[error("the token realm is no URL")]
    Shape,
    /// Plain http for a registry that is spoken to over https.
    #[error("the token realm is not https")]
    Plain,
    /// A host that has nothing to do with the registry.
    #[error("the token realm is on a foreign host")]
    Foreign,
}

/// The token service, if `endpoint` may name it. `listed` are hosts, or `host:port`, that may issue tokens besides;
/// `own` tells of a URL that it is the endpoint's own, by whatever way that is reached.
pub(super) fn pin(
    endpoint: &Url,
    realm: &str,
    listed: &[String],
    own: impl Fn(&Url) -> bool,
) -> Result<Url, RealmError> {
    let realm = Url::parse(realm).map_err(|_| RealmError::Shape)?;
    // `user@` in a realm serves only to deceive the reader of a log.
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err(RealmError::Shape);
    }
    if own(&realm) && matches!(realm.scheme(), "https" | "http") {
        return Ok(realm);
    }
    match (realm.scheme(), endpoint.scheme()) {
        ("https", _) | ("http", "http") => {}
        ("http", _) => return Err(RealmError::Plain),
        _ => return Err(RealmError::Shape),
    }
    let (Some(own), Some(named)) = (endpoint.host(), realm.host()) else { return Err(RealmError::Shape) };
    let sibling = realm.port().is_none() && related(&own, &named);
    if realm.origin() == endpoint.origin() || sibling || listed.iter().any(|entry| is_listed(entry, &realm)) {
        Ok(realm)
    } else {
        Err(RealmError::Foreign)
    }
}

fn related(own: &Host<&str>, named: &Host<&str>) -> bool {
    match (own, named) {
        (Host::Domain(own), Host::Domain(named)) => {
            let (own, named) = (own.trim_end_matches('.'), named.trim_end_matches('.'));
            registrable(own).is_some_and(|domain| registrable(named) == Some(domain))
        }
        _ => false,
    }
}

/// `None` for a single label and for what is itself a public suffix.
fn registrable(host: &str) -> Option<&str> {
    psl::domain_str(host)
}

/// `host` or `host:port`, where an address may be written in any way that a URL may.
pub(super) fn is_listed(entry: &str, realm: &Url) -> bool {
    let Ok(listed) = Url::parse(&format!("{}://{entry}/", realm.scheme())) else { return false };
    // The usual port, written out, must not be taken for none.
    let has_port = entry.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    listed.host() == realm.host() && (!has_port || listed.port_or_known_default() == realm.port_or_known_default())
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::{RealmError, pin};

    #[test]
    fn pins() {
        let listed = ["tokens.example.net".to_owned(), "sso.example.net:8443".to_owned(), "10.0.0.9:8080".to_owned()];
        for (endpoint, realm, expected) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", Ok(())),
            ("https://quay.io", "https://quay.io/v2/auth", Ok(())),
            ("https://registry.example.co.uk", "https://auth.example.co.uk/t", Ok(())),
            ("https://registry.corp.internal", "https://auth.corp.internal/t", Ok(())),
            ("https://registry.example.com:5000", "https://registry.example.com:5000/t", Ok(())),
            ("https://registry.example.com:5000", "https://auth.example.com/t", Ok(())),
            ("https://registry.example.com", "https://registry.example.com:443/t", Ok(())),
            ("https://registry.example.com", "https://tokens.example.net/t", Ok(())),
            ("https://registry.example.com", "https://sso.example.net:8443/t", Ok(())),
            ("http://localhost:5000", "http://localhost:5000/t", Ok(())),
            ("http://127.0.0.1:5000", "http://127.1:5000/t", Ok(())),
            ("http://127.0.0.1:5000", "http://2130706433:5000/t", Ok(())),
            ("http://[::1]:5000", "http://[0:0::1]:5000/t", Ok(())),
            ("http://10.0.0.1", "http://10.0.0.9:8080/t", Ok(())),
            ("https://registry.example.com:5000", "https://registry.example.com:5001/t", Err(RealmError::Foreign)),
            ("https://registry.example.com", "https://auth.example.com:8443/t", Err(RealmError::Foreign)),
            ("http://localhost:5000", "http://localhost:5001/t", Err(RealmError::Foreign)),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/t", Err(RealmError::Foreign)),
            ("http://127.0.0.1:5000", "http://127.1:5001/t", Err(RealmError::Foreign)),
            ("http://[::1]:5000", "http://[::1]:5001/t", Err(RealmError::Foreign)),
            ("http://10.0.0.1", "http://10.0.0.9/t", Err(RealmError::Foreign)),
            ("https://registry.example.com", "https://sso.example.net/t", Err(RealmError::Foreign)),
            ("https://registry-1.docker.io", "https://auth.docker.io.evil.example/token", Err(RealmError::Foreign)),
            ("https://registry-1.docker.io", "https://evildocker.io/token", Err(RealmError::Foreign)),
            ("https://victim.co.uk", "https://evil.co.uk/t", Err(RealmError::Foreign)),
            ("https://victim.github.io", "https://evil.github.io/t", Err(RealmError::Foreign)),
            ("https://registry", "https://evil/t", Err(RealmError::Foreign)),
            ("http://localhost:5000", "http://evil.localhost/t", Err(RealmError::Foreign)),
            ("http://127.0.0.1:5000", "http://127.0.0.2:5000/t", Err(RealmError::Foreign)),
            ("http://10.0.0.1", "http://1.0.0.1/t", Err(RealmError::Foreign)),
            ("https://quay.io", "http://quay.io/v2/auth", Err(RealmError::Plain)),
            ("https://registry.example.com", "http://tokens.example.net/t", Err(RealmError::Plain)),
            ("https://quay.io", "https://quay.io@evil.example/", Err(RealmError::Shape)),
            ("https://quay.io", "ftp://quay.io/", Err(RealmError::Shape)),
            ("https://quay.io", "/v2/auth", Err(RealmError::Shape)),
            ("https://quay.io", "", Err(RealmError::Shape)),
        ] {
            let endpoint = Url::parse(endpoint).unwrap();
            assert_eq!(pin(&endpoint, realm, &listed, |_| false).map(drop), expected, "{endpoint} {realm}");
        }
    }
}
