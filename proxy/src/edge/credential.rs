//! What a caller shows of itself: the `Authorization` header, read once, and hashed wherever it must be remembered.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use pierhead_registry::client::Credential;

/// Longest `Authorization` header that is read: some registries hand out tokens of kilobytes as passwords.
const LIMIT: usize = 16 * 1024;

/// Reads Basic credentials. `None` for nothing, for another scheme, for what cannot be read, and for an empty name
/// with an empty password, which is what podman sends when it was challenged and has nothing.
pub(crate) fn basic(header: Option<&HeaderValue>) -> Option<Credential> {
    let header = header?.as_bytes();
    if header.len() > LIMIT || header.len() < 6 || !header[..6].eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(header[6..].trim_ascii()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    let empty = username.is_empty() && password.is_empty();
    (!empty).then(|| Credential { username: username.to_owned(), password: password.to_owned() })
}

/// A credential as it is remembered: useless to whoever has not the key.
pub(crate) fn fingerprint(key: &hmac::Key, credential: Option<&Credential>) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    if let Some(credential) = credential {
        // The length keeps `ab` + `c` apart from `a` + `bc`.
        context.update(&(credential.username.len() as u64).to_be_bytes());
        context.update(credential.username.as_bytes());
        context.update(credential.password.as_bytes());
    }
    let mut print = [0; 32];
    print.copy_from_slice(&context.sign().as_ref()[..32]);
    print
}

/// Who asks a registry whose hits need upstream's yes for that very caller.
#[derive(Clone)]
pub(crate) struct Caller {
    /// What upstream is shown; `None`: nothing.
    pub(crate) credential: Option<Credential>,
    /// What is remembered.
    pub(crate) id: [u8; 32],
}

impl Caller {
    /// The caller behind an `Authorization` header.
    pub(crate) fn read(key: &hmac::Key, header: Option<&HeaderValue>) -> Caller {
        let credential = basic(header);
        Caller { id: fingerprint(key, credential.as_ref()), credential }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderValue;
    use pierhead_registry::client::Credential;

    use super::{basic, fingerprint};

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    #[test]
    fn reads_basic_only() {
        let encode = |text: &str| STANDARD.encode(text);
        for (value, expected) in [
            (format!("Basic {}", encode("ann:s:cret")), Some(("ann", "s:cret"))),
            (format!("bAsIc {}", encode("ann:")), Some(("ann", ""))),
            (format!("Basic {}", encode(":")), None),
            (format!("Basic {}", encode("ann")), None),
            (format!("Bearer {}", encode("ann:x")), None),
            ("Basic".to_owned(), None),
            ("Basic !!!".to_owned(), None),
            (format!("Basic {}", encode(&"a".repeat(20_000))), None),
        ] {
            let read = basic(Some(&header(&value)));
            let read = read.as_ref().map(|credential| (credential.username.as_str(), credential.password.as_str()));
            assert_eq!(read, expected, "{value}");
        }
        assert!(basic(None).is_none());
    }

    #[test]
    fn fingerprints_tell_callers_apart() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        let print = |username: &str, password: &str| {
            let credential = Credential { username: username.to_owned(), password: password.to_owned() };
            fingerprint(&key, Some(&credential))
        };
        assert_eq!(print("a", "b"), print("a", "b"));
        assert_ne!(print("ab", "c"), print("a", "bc"));
        assert_ne!(print("a", ""), fingerprint(&key, None));
        assert_ne!(fingerprint(&key, None), fingerprint(&hmac::Key::new(hmac::HMAC_SHA256, &[2; 32]), None));
    }
}
