//! What a 401 asks for: the `WWW-Authenticate` header, read into the two schemes that registries use.
//!
//! Pure, and tolerant as Go's clients are: real registries send values without quotes that RFC 9110 wants quoted, such as
//! `realm=https://host/token`. A header that cannot be read is passed over, since a registry may offer unknown schemes
//! beside a known one.

/// Longest scope that is taken over from a challenge.
const SCOPE_LIMIT: usize = 1024;
/// Most items in it.
const SCOPE_ITEMS: usize = 4;

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
        /// What the token must be good for, if it is of a usual form.
        scope: Option<String>,
    },
}

/// Reads all challenges of an answer, one header line or several, one challenge a line or several.
pub(super) fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    lines.flat_map(schemes).filter_map(|scheme| known(&scheme)).collect()
}

/// Whether the token that was shown is not good any more (RFC 6750, section 3.1), as opposed to not good enough.
pub(super) fn says_invalid_token<'a>(lines: impl Iterator<Item = &'a str>) -> bool {
    let is_error = |(name, value): &(&str, String)| name.eq_ignore_ascii_case("error") && value == "invalid_token";
    lines.flat_map(schemes).any(|offered| offered.params.iter().any(is_error))
}

/// One scheme with its parameters.
struct Offered<'a> {
    name: &'a str,
    params: Vec<(&'a str, String)>,
}

fn known(offered: &Offered<'_>) -> Option<Challenge> {
    if offered.name.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !offered.name.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let value = |name: &str| {
        let named = offered.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    Some(Challenge::Bearer {
        realm: value("realm")?,
        service: value("service"),
        scope: value("scope").filter(|scope| is_scope(scope)),
    })
}

/// `repository:team/app:pull`, or a few of these.
fn is_scope(text: &str) -> bool {
    let items: Vec<&str> = text.split(' ').collect();
    let is_item =
        |item: &&str| item.split(':').count() >= 3 && item.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    text.len() <= SCOPE_LIMIT && items.len() <= SCOPE_ITEMS && items.iter().all(is_item)
}

/// Splits a header line into schemes. Where it can be read no further, the rest is dropped.
fn schemes(line: &str) -> Vec<Offered<'_>> {
    let mut found: Vec<Offered<'_>> = Vec::new();
    let mut rest = line.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(|c: char| !is_token(c)).unwrap_or(rest.len()));
        if word.is_empty() {
            break;
        }
        if let Some(value) = after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            // A parameter of the scheme before it.
            let Some((value, after)) = value_of(value.trim_start_matches([' ', '\t'])) else { break };
            let Some(offered) = found.last_mut() else { break };
            offered.params.push((word, value));
            rest = after;
        } else {
            found.push(Offered { name: word, params: Vec::new() });
            rest = after;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    found
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A value, quoted or not, and what follows it. One without quotes ends at a comma or a space.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return Some((value.to_owned(), rest));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, quoted.get(at + 1..)?)),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Challenge, parse};

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned), scope: None }
    }

    fn scoped(realm: &str, service: &str, scope: &str) -> Challenge {
        let (realm, service) = (realm.to_owned(), Some(service.to_owned()));
        Challenge::Bearer { realm, service, scope: Some(scope.to_owned()) }
    }

    #[test]
    fn reads_what_registries_send() {
        for (line, expected) in [
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            ("basic realm=x", vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                vec![scoped("https://auth.docker.io/token", "registry.docker.io", "repository:library/alpine:pull")],
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
            ("Bearer realm=https://a/t?x=1,service=b.c:5000", vec![bearer("https://a/t?x=1", Some("b.c:5000"))]),
            (r#"Bearer realm = "https://a/t" , service = "x y""#, vec![bearer("https://a/t", Some("x y"))]),
            (r#"Bearer realm="https://a/t",service="""#, vec![bearer("https://a/t", None)]),
            (r#"Bearer realm="https://a/t",scope="x""#, vec![bearer("https://a/t", None)]),
            ("Negotiate, Basic realm=a", vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://a/t",service="s",scope="repository:p/a:pull,push registry:x:*""#,
                vec![scoped("https://a/t", "s", "repository:p/a:pull,push registry:x:*")],
            ),
        ] {
            assert_eq!(parse([line].into_iter()), expected, "{line}");
        }
    }

    #[test]
    fn tells_a_token_that_has_ended_from_one_that_is_not_enough() {
        for (line, expected) in [
            (r#"Bearer realm="https://a.io/token",error="invalid_token""#, true),
            (r#"Basic realm="a", Bearer realm=https://a.io/token, Error=invalid_token"#, true),
            (r#"Bearer realm="https://a.io/token",error="insufficient_scope""#, false),
            (r#"Bearer realm="https://a.io/token",scope="invalid_token""#, false),
            ("Basic realm=\"invalid_token\"", false),
            ("", false),
        ] {
            assert_eq!(super::says_invalid_token([line].into_iter()), expected, "{line}");
        }
    }

    #[test]
    fn reads_several_lines() {
        let lines = ["Negotiate", r#"Bearer realm="https://a/t""#, "Basic realm=\"r\""];
        assert_eq!(parse(lines.into_iter()), [bearer("https://a/t", None), Challenge::Basic]);
    }
}
