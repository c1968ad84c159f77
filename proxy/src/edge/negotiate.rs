//! Content negotiation (`Accept`), done here as distribution does it. Pure.
//!
//! Upstream is always asked for everything, so that a tag has one canonical answer whoever asks first. What a client
//! cannot read is then found out here: a Docker list becomes its linux/amd64 child, an OCI manifest or index becomes
//! a 404 that says so, and everything else is served as it is. A request by digest names exact bytes and is not negotiated.

use http::HeaderMap;
use http::header::ACCEPT;
use pierhead_registry::oci::{Digest, media_type};
use serde::Deserialize;

/// Most media ranges that are looked at.
const MEDIA_RANGES: usize = 64;

/// What a client gets of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The manifest itself.
    Serve,
    /// Of a list, the child for linux/amd64.
    DefaultChild,
    /// Nothing; the text says why.
    Refuse(&'static str),
}

/// Decides by the manifest's media type and the request's `Accept` lines.
pub(crate) fn choose(headers: &HeaderMap, manifest: &str) -> Choice {
    // Docker's single manifests, schema 1 and artifacts are served to everybody.
    let (refused, negotiated) = match manifest {
        media_type::DOCKER_LIST => (Choice::DefaultChild, true),
        media_type::OCI_INDEX => {
            (Choice::Refuse("an OCI index was found, but the Accept header does not allow OCI indexes"), true)
        }
        media_type::OCI_MANIFEST => {
            (Choice::Refuse("an OCI manifest was found, but the Accept header does not allow OCI manifests"), true)
        }
        _ => (Choice::Serve, false),
    };
    if !negotiated || accepts(headers, manifest) { Choice::Serve } else { refused }
}

/// Whether any `Accept` line allows a media type. No line, or none that can be read, allows everything.
pub(crate) fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let mut best: Option<(u8, bool)> = None;
    let mut seen = 0;
    for line in headers.get_all(ACCEPT) {
        let Ok(line) = line.to_str() else { continue };
        for range in line.split(',') {
            let mut parts = range.split(';');
            let name = parts.next().unwrap_or_default().trim();
            if name.is_empty() {
                continue;
            }
            seen += 1;
            if seen > MEDIA_RANGES {
                break;
            }
            let Some(precision) = precision(name, wanted) else { continue };
            let allowed = !parts.any(is_zero_quality);
            // The most precise range decides; `a/b;q=0, */*` refuses a/b.
            if best.is_none_or(|(known, _)| precision > known) {
                best = Some((precision, allowed));
            }
        }
    }
    seen == 0 || best.is_some_and(|(_, allowed)| allowed)
}

fn precision(range: &str, wanted: &str) -> Option<u8> {
    if range.eq_ignore_ascii_case(wanted) {
        Some(3)
    } else if range == "*/*" {
        Some(1)
    } else {
        let kind = range.strip_suffix("/*")?;
        let (wanted, _) = wanted.split_once('/')?;
        kind.eq_ignore_ascii_case(wanted).then_some(2)
    }
}

fn is_zero_quality(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    name.trim().eq_ignore_ascii_case("q") && value.trim().parse::<f32>().is_ok_and(|quality| quality <= 0.0)
}

/// The linux/amd64 child of a list, which is what a client that knows no lists gets.
pub(crate) fn default_child(list: &[u8]) -> Option<Digest> {
    #[derive(Deserialize)]
    struct List {
        manifests: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        digest: String,
        platform: Option<Platform>,
    }
    #[derive(Deserialize)]
    struct Platform {
        architecture: String,
        os: String,
    }
    let list: List = serde_json::from_slice(list).ok()?;
    let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == "amd64";
    list.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(fits))?.digest.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;
    use http::{HeaderMap, HeaderValue};
    use pierhead_registry::oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

    use super::{Choice, choose, default_child};

    fn accept(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (ACCEPT, HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn choices() {
        let many_lines = [DOCKER_MANIFEST, OCI_MANIFEST, DOCKER_LIST, OCI_INDEX];
        let one_line = many_lines.join(", ");
        for (lines, manifest, serve) in [
            (&[][..], OCI_INDEX, true),
            (&["*/*"], OCI_INDEX, true),
            (&["application/*"], OCI_INDEX, true),
            (&["application/*;q=0.5"], OCI_INDEX, true),
            (&many_lines, OCI_INDEX, true),
            (&[one_line.as_str()], OCI_MANIFEST, true),
            (&[DOCKER_MANIFEST], OCI_INDEX, false),
            (&[DOCKER_MANIFEST], OCI_MANIFEST, false),
            (&[DOCKER_MANIFEST], DOCKER_LIST, false),
            (&["text/html"], DOCKER_MANIFEST, true),
            (&["text/html"], "application/vnd.example", true),
            (&["application/vnd.oci.image.index.v1+json;q=0, */*"], OCI_INDEX, false),
            (&["application/vnd.oci.image.index.v1+json; q=0.3"], OCI_INDEX, true),
            (&[""], OCI_INDEX, true),
        ] {
            assert_eq!(choose(&accept(lines), manifest) == Choice::Serve, serve, "{lines:?} {manifest}");
        }
        assert_eq!(choose(&accept(&[DOCKER_MANIFEST]), DOCKER_LIST), Choice::DefaultChild);
        assert!(matches!(choose(&accept(&[DOCKER_MANIFEST]), OCI_INDEX), Choice::Refuse(_)));
    }

    #[test]
    fn default_child_is_linux_amd64() {
        let (arm, amd) = ("a".repeat(64), "b".repeat(64));
        let list = format!(
            r#"{{"manifests":[{{"digest":"sha256:{arm}","platform":{{"architecture":"arm64","os":"linux"}}}},
            {{"digest":"sha256:{amd}","platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#
        );
        assert_eq!(default_child(list.as_bytes()).map(|digest| digest.hex()), Some(amd));
        assert_eq!(default_child(b"{\"manifests\":[]}"), None);
        assert_eq!(default_child(b"[]"), None);
    }
}
