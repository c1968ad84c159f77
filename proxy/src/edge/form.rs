//! The form by which containerd asks for a token: account and scopes are in the body of a POST (distribution specification,
//! "OAuth2 Token Authentication"), so a copy of the body is read once the token was issued.
//!
//! Invariants: the copy is bounded, lives no longer than its request, and is in no log and on no disk. The origin itself is
//! asked about the account that was read, so a form that it reads in another way earns nothing.

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use pierhead_registry::client::Account;
use pingora_http::RequestHeader;
use url::form_urlencoded;

use super::credential::{as_basic, basic, is_nothing};

/// Largest form that is copied, in bytes. Larger ones are forwarded and not read.
const LIMIT: usize = 64 * 1024;
const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// The copy of a form that is on its way to the origin.
pub(crate) struct TokenForm {
    /// `None`: the form is too large.
    copy: Mutex<Option<Vec<u8>>>,
    /// The account in the header, for a form without an account.
    header: Option<Account>,
    /// Whether the header shows nothing.
    anonymous: bool,
}

/// What a form asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AskedByForm {
    /// `None`: for a token without an account.
    pub(super) account: Option<Account>,
    /// The values of `scope`.
    pub(super) scopes: Vec<String>,
}

impl TokenForm {
    /// The form that a request brings; `None`: it brings none, or says that it is too large.
    pub(super) fn of(request: &RequestHeader) -> Option<TokenForm> {
        let fits = length(&request.headers).is_none_or(|length| length <= LIMIT);
        (request.method == Method::POST && is_form(&request.headers) && fits).then(|| TokenForm {
            copy: Mutex::new(Some(Vec::new())),
            header: basic(request.headers.get(AUTHORIZATION)),
            anonymous: is_nothing(request.headers.get(AUTHORIZATION)),
        })
    }

    /// Copies the next piece of the body.
    pub(crate) fn push(&self, piece: &[u8]) {
        let mut copy = self.copy.lock();
        if let Some(bytes) = copy.take().filter(|bytes| bytes.len() + piece.len() <= LIMIT) {
            let bytes = copy.insert(bytes);
            bytes.extend_from_slice(piece);
        }
    }

    /// Reads the form, and forgets the copy.
    pub(super) fn read(&self) -> Option<AskedByForm> {
        read(&self.copy.lock().take()?, self.header.as_ref(), self.anonymous)
    }
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

/// Reads a form. Other grants than a password show no account that could come back to this edge. `anonymous`: the header shows nothing.
fn read(form: &[u8], header: Option<&Account>, anonymous: bool) -> Option<AskedByForm> {
    let (mut grant, mut username, mut password, mut scopes) = (None, None, None, Vec::new());
    for (name, value) in form_urlencoded::parse(form) {
        let field = match &*name {
            "grant_type" => &mut grant,
            "username" => &mut username,
            "password" => &mut password,
            "scope" => {
                scopes.push(value.into_owned());
                continue;
            }
            _ => continue,
        };
        // With two of a kind it is not clear which one the origin took.
        if field.replace(value.into_owned()).is_some() {
            return None;
        }
    }
    let account = match (grant.as_deref(), username, password) {
        (Some("password"), Some(username), Some(password)) if username.is_empty() && password.is_empty() => {
            anonymous.then_some(None)?
        }
        (Some("password"), Some(username), Some(password)) => Some(as_basic(username, password)?),
        (None, None, None) if anonymous => None,
        (None, None, None) => Some(header.cloned()?),
        _ => return None,
    };
    Some(AskedByForm { account, scopes })
}

#[cfg(test)]
mod tests {
    use http::Method;
    use pierhead_registry::client::Account;
    use pingora_http::RequestHeader;

    use super::{AskedByForm, LIMIT, MEDIA_TYPE, TokenForm, read};

    const FORM: &[u8] = b"grant_type=password&username=ann&password=x&scope=repository:a:pull";

    fn request(method: Method, lines: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, b"/v2/auth", None).unwrap();
        for (name, value) in lines {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn reads_passwords() {
        let account =
            |username: &str, password: &str| Account { username: username.to_owned(), password: password.to_owned() };
        let header = account("joe", "y");
        for (form, header, expected) in [
            (
                "grant_type=password&service=r&client_id=containerd-client&scope=repository%3Aa%3Apull+repository%3Ab%3Apull\
                 &username=ann&password=s%3Acr%26t+x",
                None,
                Some((account("ann", "s:cr&t x"), "repository:a:pull repository:b:pull")),
            ),
            ("grant_type=password&username=ann&password=", None, Some((account("ann", ""), ""))),
            ("grant_type=password&username=ann&password=x", Some(&header), Some((account("ann", "x"), ""))),
            ("scope=repository:a:pull", Some(&header), Some((header.clone(), "repository:a:pull"))),
            ("grant_type=password&username=ann", Some(&header), None),
            ("username=ann&password=x", Some(&header), None),
            ("grant_type=password&username=&password=", Some(&header), None),
            // As Basic credentials this would be another account.
            ("grant_type=password&username=a:b&password=x", None, None),
            ("grant_type=refresh_token&refresh_token=x&scope=repository:a:pull", Some(&header), None),
            ("grant_type=password&username=ann&password=x&password=y", None, None),
            ("grant_type=password&username=ann&username=joe&password=x", None, None),
        ] {
            let asked = read(form.as_bytes(), header, false).map(|asked| (asked.account, asked.scopes.join(",")));
            assert_eq!(asked, expected.map(|(account, scopes)| (Some(account), scopes.to_owned())), "{form}");
        }
    }

    #[test]
    fn reads_forms_without_an_account() {
        for (form, anonymous, expected) in [
            ("scope=repository:a:pull", true, true),
            ("grant_type=password&username=&password=&scope=repository:a:pull", true, true),
            // The header shows something that cannot be read.
            ("scope=repository:a:pull", false, false),
            ("grant_type=password&username=&password=&scope=repository:a:pull", false, false),
            ("grant_type=password&scope=repository:a:pull", true, false),
            ("grant_type=refresh_token&refresh_token=x&scope=repository:a:pull", true, false),
            ("username=&password=&scope=repository:a:pull", true, false),
        ] {
            let asked = read(form.as_bytes(), None, anonymous);
            let scopes = vec!["repository:a:pull".to_owned()];
            assert_eq!(asked, expected.then_some(AskedByForm { account: None, scopes }), "{form}");
        }
    }

    #[test]
    fn copies_small_forms_only() {
        let form = |lines: &[(&'static str, &str)]| TokenForm::of(&request(Method::POST, lines));
        assert!(TokenForm::of(&request(Method::GET, &[("content-type", MEDIA_TYPE)])).is_none());
        assert!(form(&[]).is_none());
        assert!(form(&[("content-type", "application/json")]).is_none());
        let (largest, more) = (LIMIT.to_string(), (LIMIT + 1).to_string());
        assert!(form(&[("content-type", MEDIA_TYPE), ("content-length", &more)]).is_none());
        let small =
            [("content-type", "Application/X-WWW-form-urlencoded; charset=utf-8"), ("content-length", &largest)];
        for (padding, is_read) in [(LIMIT - FORM.len(), true), (LIMIT - FORM.len() + 1, false), (10 * LIMIT, false)] {
            let form = form(&small).unwrap();
            // However it is cut.
            FORM.chunks(7).for_each(|piece| form.push(piece));
            vec![b'&'; padding].chunks(1000).for_each(|piece| form.push(piece));
            assert!(form.copy.lock().as_ref().is_none_or(|copy| copy.len() <= LIMIT));
            assert_eq!(form.read().is_some(), is_read, "{padding}");
            assert!(form.read().is_none(), "the copy is kept");
        }
    }
}
