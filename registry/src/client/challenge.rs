//! What a 401 asks for: the `WWW-Authenticate` header, read into the two schemes that registries use.
//!
//! Pure. A header that cannot be read is passed over rather than refused, since a registry may offer schemes that are
//! none of ours beside one that is.

use http_auth::{ChallengeParser, ChallengeRef, ParamValue};

/// A scheme that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token, issued by the realm.
    Bearer {
        /// URL of the token service, as written: not to be trusted yet.
        realm: String,
        /// What to call the registry there.
        service: Option<String>,
    },
}

/// Reads all challenges of an answer, one header line or several, one challenge a line or several.
pub(super) fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    lines.flat_map(|line| ChallengeParser::new(line).map_while(Result::ok)).filter_map(|c| known(&c)).collect()
}

fn known(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let value = |name: &str| {
        let named = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value): &(&str, ParamValue<'_>)| value.to_unescaped())
    };
    Some(Challenge::Bearer { realm: value("realm")?, service: value("service") })
}

#[cfg(test)]
mod tests {
    use super::{Challenge, parse};

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) }
    }

    #[test]
    fn reads_what_registries_send() {
        for (line, expected) in [
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            ("basic realm=x", vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                vec![bearer("https://auth.docker.io/token", Some("registry.docker.io"))],
            ),
            (r#"bearer Realm="https://a/t""#, vec![bearer("https://a/t", None)]),
            (r#"Bearer realm="https://a/t", error="invalid_token""#, vec![bearer("https://a/t", None)]),
            (r#"Bearer service="x""#, vec![]),
            (r#"Digest realm="x", nonce="y", Basic realm="z""#, vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://a/t?x=\"1\"",Basic realm="b""#,
                vec![bearer("https://a/t?x=\"1\"", None), Challenge::Basic],
            ),
            ("", vec![]),
            (r#"Bearer realm="unclosed"#, vec![]),
            ("=,=,\"", vec![]),
        ] {
            assert_eq!(parse([line].into_iter()), expected, "{line}");
        }
    }

    #[test]
    fn reads_several_lines() {
        let lines = ["Negotiate", r#"Bearer realm="https://a/t""#, "Basic realm=\"r\""];
        assert_eq!(parse(lines.into_iter()), [bearer("https://a/t", None), Challenge::Basic]);
    }
}
