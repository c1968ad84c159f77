//! What a caller shows of itself: the `Authorization` header, read once, and hashed wherever it must be remembered.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use pierhead_registry::client::{Account, Credential};

use super::verifier::Verdict;

/// Longest `Authorization` header that is read: some registries hand out tokens of kilobytes as passwords.
const LIMIT: usize = 16 * 1024;

/// Reads Basic credentials. `None` for nothing, for another scheme, for what cannot be read, and for an empty name
/// with an empty password, which is what podman sends when it was challenged and has nothing.
pub(crate) fn basic(header: Option<&HeaderValue>) -> Option<Account> {
    let (username, password) = decode(header?)?;
    let empty = username.is_empty() && password.is_empty();
    (!empty).then_some(Account { username, password })
}

/// Whether a header shows nothing of the caller: there is none, or it is an empty account.
pub(crate) fn is_nothing(header: Option<&HeaderValue>) -> bool {
    let is_empty = |(username, password): (String, String)| username.is_empty() && password.is_empty();
    header.is_none_or(|header| header.is_empty() || decode(header).is_some_and(is_empty))
}

/// An account that was shown in another way, as Basic credentials show it. `None`: they cannot.
pub(crate) fn as_basic(username: String, password: String) -> Option<Account> {
    let text = format!("{username}:{password}");
    let header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(text))).ok()?;
    basic(Some(&header)).filter(|account| account.username == username && account.password == password)
}

/// Whether a header shows something of another kind than an account.
pub(crate) fn is_other(header: &HeaderValue) -> bool {
    header.len() <= LIMIT && !header.is_empty() && decode(header).is_none()
}

/// The token that a header shows.
pub(crate) fn bearer(header: Option<&HeaderValue>) -> Option<&str> {
    let text = header.filter(|header| header.len() <= LIMIT)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn decode(header: &HeaderValue) -> Option<(String, String)> {
    let header = header.as_bytes();
    if header.len() > LIMIT || header.len() < 6 || !header[..6].eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(header[6..].trim_ascii()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

/// An account as it is remembered: useless to whoever has not the key.
pub(crate) fn account_print(key: &hmac::Key, account: &Account) -> [u8; 32] {
    let length = (account.username.len() as u64).to_be_bytes();
    // The length keeps `ab` + `c` apart from `a` + `bc`.
    print(key, &[&length, account.username.as_bytes(), account.password.as_bytes()])
}

fn fingerprint(key: &hmac::Key, credential: Option<&Credential>) -> [u8; 32] {
    match credential {
        None => print(key, &[]),
        Some(Credential::Account(account)) => account_print(key, account),
        // No account begins like this, nor like `user:`: its first eight bytes are a length.
        Some(Credential::Verbatim(None)) => print(key, &[b"anonymous"]),
        Some(Credential::Verbatim(Some(header))) => print(key, &[b"verbatim:", header.as_bytes()]),
    }
}

fn print(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    let mut print = [0; 32];
    print.copy_from_slice(&context.sign().as_ref()[..32]);
    print
}

/// Who asks a registry whose hits need upstream's yes for that very caller.
#[derive(Clone)]
pub(crate) struct Caller {
    /// What upstream is shown; `None`: nothing, or what anybody may have of its token service.
    pub(crate) credential: Option<Credential>,
    /// What is remembered.
    pub(crate) id: [u8; 32],
    /// Whether it is worth remembering for long: a token is another one in a few minutes.
    pub(crate) lasting: bool,
    /// What its token says, where the edge can verify that.
    pub(crate) verdict: Option<Verdict>,
    /// The user of an account, as it is remembered: apart from any password.
    pub(crate) user: Option<[u8; 32]>,
}

impl Caller {
    /// Somebody who shows this.
    pub(crate) fn new(key: &hmac::Key, credential: Option<Credential>) -> Caller {
        let lasting = !matches!(credential, Some(Credential::Verbatim(Some(_))));
        let user = match &credential {
            Some(Credential::Account(account)) => Some(print(key, &[b"user:", account.username.as_bytes()])),
            Some(Credential::Verbatim(_)) | None => None,
        };
        Caller { id: fingerprint(key, credential.as_ref()), credential, lasting, verdict: None, user }
    }

    /// A caller without an account, of a registry that knows it by a token that its token service issues to everybody. The registry's yes
    /// to this caller means that a repository is public.
    pub(crate) fn public(key: &hmac::Key) -> Caller {
        Caller::new(key, None)
    }

    /// The caller behind an `Authorization` header, at an upstream that is somebody else's: only accounts are passed on,
    /// for a token would have been made out to this edge.
    pub(crate) fn of_upstream(key: &hmac::Key, header: Option<&HeaderValue>) -> Caller {
        Caller::new(key, basic(header).map(Credential::Account))
    }

    /// The same at the origin behind this edge, whose tokens callers hold. `at_home`: where it is named as it names
    /// itself. A caller who has nothing then gets the origin's own answer, and can ask its token service by itself.
    pub(crate) fn of_origin(key: &hmac::Key, header: Option<&HeaderValue>, at_home: bool) -> Caller {
        let nothing = at_home.then_some(Credential::Verbatim(None));
        let credential = match (header, basic(header)) {
            (_, Some(account)) => Some(Credential::Account(account)),
            // What is too long to be remembered is shown by nobody else than the caller itself.
            (Some(header), None) if is_other(header) => {
                let mut header = header.clone();
                header.set_sensitive(true);
                Some(Credential::Verbatim(Some(header)))
            }
            _ => nothing,
        };
        Caller::new(key, credential)
    }

    /// Whether this is [`Caller::public`].
    pub(crate) fn is_public(&self) -> bool {
        self.credential.is_none()
    }

    /// Whether the caller has neither an account nor a token: podman and skopeo then send an empty account.
    pub(crate) fn shows_nothing(&self) -> bool {
        matches!(self.credential, None | Some(Credential::Verbatim(None)))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderValue;
    use pierhead_registry::client::{Account, Credential};

    use super::{Caller, basic, bearer, fingerprint, is_nothing};

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[1; 32])
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
            let read = read.as_ref().map(|account| (account.username.as_str(), account.password.as_str()));
            assert_eq!(read, expected, "{value}");
        }
        assert!(basic(None).is_none());
    }

    #[test]
    fn an_empty_account_shows_nothing() {
        let basic = |text: &str| Some(format!("Basic {}", STANDARD.encode(text)));
        for (value, expected) in [
            (None, true),
            (Some(String::new()), true),
            (basic(":"), true),
            (basic("ann:"), false),
            (basic(":x"), false),
            (basic("::"), false),
            (basic(""), false),
            (basic("public:"), false),
            (Some("Basic !!!".to_owned()), false),
            (Some("Bearer x".to_owned()), false),
        ] {
            let header = value.as_deref().map(header);
            assert_eq!(is_nothing(header.as_ref()), expected, "{value:?}");
        }
    }

    #[test]
    fn no_account_is_the_public() {
        let public = Caller::public(&key());
        for account in ["public:", ":x", "ann:", "anonymous:anonymous"] {
            let header = header(&format!("Basic {}", STANDARD.encode(account)));
            for caller in [Caller::of_origin(&key(), Some(&header), true), Caller::of_upstream(&key(), Some(&header))] {
                assert!(caller.id != public.id && caller.user != Some(public.id), "{account}");
            }
        }
        // Neither a token nor a request without any header is the caller that stands for everybody.
        assert_ne!(Caller::of_origin(&key(), Some(&header("Bearer x")), true).id, public.id);
        assert_ne!(Caller::of_origin(&key(), None, true).id, public.id);
    }

    #[test]
    fn reads_tokens() {
        for (value, expected) in
            [("Bearer abc", Some("abc")), ("bEARER  abc ", Some("abc")), ("Bearer", None), ("Basic abc", None)]
        {
            assert_eq!(bearer(Some(&header(value))), expected, "{value}");
        }
        assert_eq!(bearer(Some(&header(&format!("Bearer {}", "x".repeat(20_000))))), None);
        assert_eq!(bearer(None), None);
    }

    #[test]
    fn an_origin_is_shown_what_the_caller_showed() {
        let account = |name: &str| {
            Some(Credential::Account(Account { username: name.to_owned(), password: "secret".to_owned() }))
        };
        let verbatim = |text: &str| Some(Credential::Verbatim(Some(header(text))));
        let nothing = Some(Credential::Verbatim(None));
        let ann = format!("Basic {}", STANDARD.encode("ann:secret"));
        let nobody = format!("Basic {}", STANDARD.encode(":"));
        let endless = format!("Bearer {}", "x".repeat(20_000));
        for (value, at_home, expected) in [
            (None, true, nothing.clone()),
            (None, false, None),
            (Some(ann.as_str()), true, account("ann")),
            (Some(&ann), false, account("ann")),
            (Some(&nobody), true, nothing.clone()),
            (Some("Bearer abc"), true, verbatim("Bearer abc")),
            (Some("Bearer abc"), false, verbatim("Bearer abc")),
            (Some(&endless), true, nothing),
        ] {
            let header = value.map(header);
            let caller = Caller::of_origin(&key(), header.as_ref(), at_home);
            assert_eq!(caller.credential, expected, "{at_home}");
            assert_eq!(
                caller.shows_nothing(),
                matches!(expected, None | Some(Credential::Verbatim(None))),
                "{value:?}"
            );
            assert!(!format!("{:?}", caller.credential).contains("abc"), "a token is printed");
            let upstream = Caller::of_upstream(&key(), header.as_ref()).credential;
            assert_eq!(upstream, basic(header.as_ref()).map(Credential::Account));
        }
        assert!(!Caller::of_origin(&key(), Some(&header("Bearer abc")), true).lasting);
        assert!(Caller::of_origin(&key(), Some(&header(&ann)), true).lasting);
    }

    #[test]
    fn fingerprints_tell_callers_apart() {
        let account = |username: &str, password: &str| {
            Credential::Account(Account { username: username.to_owned(), password: password.to_owned() })
        };
        let verbatim = |text: &str| Credential::Verbatim(Some(header(text)));
        let all = [
            None,
            Some(account("ab", "c")),
            Some(account("a", "bc")),
            Some(account("a", "")),
            Some(Credential::Verbatim(None)),
            Some(verbatim("Bearer a")),
            Some(verbatim("Bearer b")),
        ];
        let prints: std::collections::HashSet<_> =
            all.iter().map(|credential| fingerprint(&key(), credential.as_ref())).collect();
        assert_eq!(prints.len(), all.len());
        assert_eq!(fingerprint(&key(), Some(&account("a", "b"))), fingerprint(&key(), Some(&account("a", "b"))));
        assert_ne!(fingerprint(&key(), None), fingerprint(&hmac::Key::new(hmac::HMAC_SHA256, &[2; 32]), None));
    }
}
