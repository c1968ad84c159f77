//! Requests that a browser sends for a page of another site: it adds the password that its user once typed here.
//!
//! Invariant: no such request changes anything, on any path. Browsers say where a request comes from in `Sec-Fetch-Site`, older ones in
//! `Origin` alone, some only in `Referer`; each of them that is there must name this registry. Other clients send none of them. Pure.

use http::header::{ORIGIN, REFERER};
use http::{HeaderMap, HeaderValue, Method, Uri};

/// Whether a request that may change something comes from a page of another site. `hosts`: what this registry is called, with ports.
pub(super) fn is_foreign(method: &Method, headers: &HeaderMap, hosts: &[&str]) -> bool {
    if method.is_safe() {
        return false;
    }
    let site = headers.get_all("sec-fetch-site").iter().map(HeaderValue::as_bytes);
    let own = |value: &HeaderValue| value.to_str().is_ok_and(|text| hosts.iter().any(|host| names(text, host)));
    let (mut origins, mut referers) = (headers.get_all(ORIGIN).iter(), headers.get_all(REFERER).iter());
    // A page may have its `Referer` left out or cut to nothing, and cannot do so to `Origin`.
    site.into_iter().any(|site| site != b"same-origin" && site != b"none")
        || !origins.all(own)
        || !referers.all(|value| value.is_empty() || own(value))
}

/// Whether a URL is of this host. `null`, which a page in a sandbox sends, is of none.
fn names(url: &str, host: &str) -> bool {
    let Some(uri) = url.parse::<Uri>().ok() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let default = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return false,
    };
    let bare = |text: &str| text.strip_suffix(default).unwrap_or(text).to_ascii_lowercase();
    bare(authority.as_str()) == bare(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_registry_change_anything() {
        let hosts = ["registry.test", "127.0.0.1:5000"];
        for (headers, foreign) in [
            (&[][..], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "nonsense")], true),
            (&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], true),
            (&[("origin", "https://registry.test")], false),
            (&[("origin", "https://Registry.TEST:443")], false),
            (&[("origin", "http://registry.test:80")], false),
            (&[("origin", "http://127.0.0.1:5000")], false),
            (&[("origin", "http://127.0.0.1:5001")], true),
            (&[("origin", "http://127.0.0.1")], true),
            (&[("origin", "https://registry.test:80")], true),
            (&[("origin", "https://evil.example")], true),
            (&[("origin", "https://registry.test.evil.example")], true),
            (&[("origin", "https://evil.example@registry.test")], true),
            (&[("origin", "null")], true),
            (&[("origin", "")], true),
            (&[("origin", "chrome-extension://registry.test")], true),
            (&[("origin", "https://registry.test"), ("origin", "null")], true),
            (&[("sec-fetch-site", "same-origin"), ("origin", "null")], true),
            (&[("referer", "https://registry.test/page?x=1")], false),
            (&[("referer", "https://evil.example/page")], true),
            (&[("referer", "about:blank")], true),
            (&[("referer", "")], false),
            (&[("origin", "https://registry.test"), ("referer", "https://evil.example/")], true),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                assert_eq!(is_foreign(&method, &map, &hosts), foreign, "{method} {headers:?}");
            }
            assert!(!is_foreign(&Method::GET, &map, &hosts) && !is_foreign(&Method::HEAD, &map, &hosts));
        }
    }
}
