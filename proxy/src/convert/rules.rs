//! `acl` and `use_backend`: which names lead to which backend.
//!
//! Only names decide here: the Host of a request, or what a TLS client asks for.

use std::collections::HashMap;

/// By what a condition tells names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The Host header, or the name of a TLS connection that was opened.
    Host,
    /// The name of a TLS connection that is passed through.
    Sni,
}

/// Names, as this configuration writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) by: By,
    pub(super) names: Vec<String>,
}

/// Named conditions; those that are not about names are there as `None`.
pub(super) type Acls = HashMap<String, Option<Vec<Names>>>;

/// A condition of `acl`, or within `{ … }`.
pub(super) fn condition(words: &[&str]) -> Option<Names> {
    let (criterion, rest) = words.split_first()?;
    // What makes a Host comparable (`,lower`, `,field(1,:)`) is done here anyway.
    let fetched = criterion.split(',').next()?;
    let mut ends = false;
    let by = match fetched {
        "hdr(host)" | "hdr(Host)" | "req.hdr(host)" | "req.hdr(Host)" | "hdr_dom(host)" | "ssl_fc_sni" => By::Host,
        "hdr_end(host)" => {
            ends = true;
            By::Host
        }
        "req.ssl_sni" | "req_ssl_sni" => By::Sni,
        "req.ssl_sni_end" | "req_ssl_sni_end" => {
            ends = true;
            By::Sni
        }
        "ssl_fc_sni_end" => {
            ends = true;
            By::Host
        }
        _ => return None,
    };
    let mut rest = rest.iter().copied();
    let mut names = Vec::new();
    while let Some(word) = rest.next() {
        match word {
            "-i" | "--" => {}
            "-m" => match rest.next()? {
                "str" => {}
                "end" => ends = true,
                _ => return None,
            },
            word if word.starts_with('-') => return None,
            name => names.push(name.to_lowercase()),
        }
    }
    if ends {
        // `.example.com` is a name with something in front.
        let wild = names.iter().map(|name| name.starts_with('.').then(|| format!("*{name}")));
        names = wild.collect::<Option<Vec<_>>>()?;
    }
    (!names.is_empty()).then_some(Names { by, names })
}

/// What stands behind `if`: one condition, or several of which one is enough.
pub(super) fn conditions(words: &[&str], acls: &Acls) -> Option<Vec<Names>> {
    let mut found = Vec::new();
    for one in words.split(|word| matches!(*word, "or" | "||")) {
        match one {
            ["{", inside @ .., "}"] if !inside.contains(&"{") => found.push(condition(inside)?),
            [name] => found.extend(acls.get(*name)?.clone()?),
            _ => return None,
        }
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::{Acls, By, condition, conditions};

    #[test]
    fn understands_names() {
        for (text, expected) in [
            ("hdr(host) -i Quay.example.com b.io", Some((By::Host, "quay.example.com b.io"))),
            ("req.hdr(host),field(1,:),lower -m str a.io", Some((By::Host, "a.io"))),
            ("req.ssl_sni -i a.io", Some((By::Sni, "a.io"))),
            ("req_ssl_sni -m end .a.io", Some((By::Sni, "*.a.io"))),
            ("hdr_end(host) -i .a.io", Some((By::Host, "*.a.io"))),
            ("req.ssl_sni -m end a.io", None),
            ("req.ssl_sni -m reg a", None),
            ("req.ssl_sni", None),
            ("path_beg /v2/", None),
            ("hdr(host) -f hosts.lst", None),
        ] {
            let words: Vec<&str> = text.split(' ').collect();
            let found = condition(&words).map(|names| (names.by, names.names.join(" ")));
            assert_eq!(found, expected.map(|(by, names)| (by, names.to_owned())), "{text}");
        }
    }

    #[test]
    fn understands_alternatives_and_nothing_else() {
        let acl = |text: &str| condition(&text.split(' ').collect::<Vec<_>>()).map(|names| vec![names]);
        let acls = Acls::from([
            ("a".to_owned(), acl("hdr(host) a.io")),
            ("b".to_owned(), acl("hdr(host) b.io")),
            ("path".to_owned(), None),
        ]);
        for (text, expected) in [
            ("a", Some(1)),
            ("a or b", Some(2)),
            ("a || { hdr(host) c.io }", Some(2)),
            ("a b", None),
            ("a !b", None),
            ("path", None),
            ("unknown", None),
            ("a { hdr(host) c.io }", None),
            ("", None),
        ] {
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(conditions(&words, &acls).map(|found| found.len()), expected, "{text}");
        }
    }
}
