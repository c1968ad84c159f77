//! `option httpchk`, `http-check`, `option tcp-check`, `tcp-check` and their like: what servers are asked.

use super::report::Report;
use super::words::Line;
use super::yaml::{Node, Section};

/// What is asked of servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Check {
    /// To accept a connection, or a handshake where there is TLS.
    #[default]
    Connection,
    /// A handshake, whatever the servers' own TLS.
    Handshake,
    /// A request.
    Http(Http),
    /// A conversation, of which PING and a role are understood.
    Conversation(Conversation),
}

/// A request, and what is expected.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Http {
    /// Where it is said, and which.
    method: (usize, String),
    path: Option<String>,
    host: Option<String>,
    statuses: Vec<Node>,
    body: Option<String>,
}

/// What a `tcp-check` says, as far as it is Redis.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Conversation {
    ping: bool,
    primary: bool,
    password: Option<String>,
    username: Option<String>,
    port: Option<String>,
    tls: bool,
}

impl Check {
    /// `option …-check`; whether it is one.
    pub(super) fn option(&mut self, line: &Line, words: &[&str], report: &mut Report) -> bool {
        match words {
            ["httpchk", rest @ ..] => *self = Check::Http(http(line, rest, report)),
            ["tcp-check"] => *self = Check::Conversation(Conversation::default()),
            ["redis-check"] => *self = Check::Conversation(Conversation { ping: true, ..Conversation::default() }),
            ["ssl-hello-chk"] => *self = Check::Handshake,
            [
                name @ ("mysql-check" | "pgsql-check" | "ldap-check" | "smtpchk" | "spop-check" | "external-check"),
                ..,
            ] => {
                *self = Check::Connection;
                report.left(line.number, format!("option {name}"), "servers are asked to accept a connection instead");
            }
            _ => return false,
        }
        true
    }

    /// `http-check …`
    pub(super) fn http_check(&mut self, line: &Line, words: &[&str], report: &mut Report) {
        let left = |report: &mut Report, why: &str| {
            report.left(line.number, format!("http-check {}", words.first().unwrap_or(&"")), why);
        };
        let Check::Http(http) = self else { return left(report, "is nothing without `option httpchk`") };
        match words {
            ["send", rest @ ..] => send(http, line, rest, report),
            ["connect" | "comment" | "send-state", ..] => left(report, "checks go to the server, as its traffic does"),
            ["expect", rest @ ..] if !expect(http, rest) => {
                left(report, "is not understood: write `statuses`, `body` or `json` of the pool's `health`");
            }
            ["expect", ..] => {}
            _ => left(report, "has no counterpart"),
        }
    }

    /// `tcp-check …`
    pub(super) fn tcp_check(&mut self, line: &Line, words: &[&str], report: &mut Report) {
        let left = |report: &mut Report, why: &str| {
            report.left(line.number, format!("tcp-check {}", words.first().unwrap_or(&"")), why);
        };
        let Check::Conversation(said) = self else { return left(report, "is nothing without `option tcp-check`") };
        match words {
            ["connect", rest @ ..] => {
                let mut rest = rest.iter();
                while let Some(word) = rest.next() {
                    match *word {
                        "ssl" => said.tls = true,
                        "port" => said.port = rest.next().map(|port| (*port).to_owned()),
                        "default" | "linger" => {}
                        _ => left(report, "only `port` and `ssl` are understood"),
                    }
                }
            }
            ["send", text] => match text.split_whitespace().collect::<Vec<_>>().as_slice() {
                [word] if word.eq_ignore_ascii_case("ping") => said.ping = true,
                [word] if word.eq_ignore_ascii_case("quit") => {}
                [word, ..] if word.eq_ignore_ascii_case("info") => {}
                [word] if word.eq_ignore_ascii_case("role") => {}
                [word, password] if word.eq_ignore_ascii_case("auth") => said.password = Some((*password).to_owned()),
                [word, username, password] if word.eq_ignore_ascii_case("auth") => {
                    (said.username, said.password) = (Some((*username).to_owned()), Some((*password).to_owned()));
                }
                _ => left(report, "only Redis is understood: AUTH, PING, INFO, QUIT"),
            },
            ["expect", "string", text] if matches!(text.trim(), "role:master" | "master") => {
                (said.ping, said.primary) = (true, true);
            }
            ["expect", "string", text] if matches!(text.trim(), "+PONG" | "+OK" | "PONG" | "OK") => {}
            ["comment", ..] => {}
            _ => left(report, "only Redis is understood: +PONG, +OK, role:master"),
        }
    }

    /// The keys of `health` that say what is asked. `tls` is whether servers are spoken to with TLS.
    pub(super) fn write(&self, tls: bool, health: &mut Section, report: &mut Report) {
        match self {
            Check::Handshake => drop(health.put("kind", Node::text("tls"))),
            Check::Connection => drop(health.put("kind", Node::text(if tls { "tls" } else { "tcp" }))),
            Check::Conversation(said) if said.ping => {
                health.put("kind", Node::text("redis"));
                health.put("role", said.primary.then(|| Node::text("primary")));
                health.put("username", said.username.as_ref().map(Node::text));
                health.put("password", said.password.as_ref().map(Node::text));
                health.put("port", said.port.as_ref().map(Node::plain));
            }
            Check::Conversation(said) => {
                health.put("kind", Node::text(if tls || said.tls { "tls" } else { "tcp" }));
                health.put("port", said.port.as_ref().map(Node::plain));
            }
            Check::Http(http) => {
                let (line, method) = &http.method;
                if method != "GET" {
                    report.left(*line, format!("the check's {method}"), "GET is asked instead");
                }
                health.put("kind", Node::text("http"));
                health.put("path", http.path.as_ref().map(Node::text));
                health.put("host", http.host.as_ref().map(Node::text));
                health.put("statuses", Some(Node::List(http.statuses.clone())).filter(|_| !http.statuses.is_empty()));
                health.put("body", http.body.as_ref().map(Node::text));
            }
        }
    }

    /// Whether the check itself asks for TLS.
    pub(super) fn asks_for_tls(&self) -> bool {
        matches!(self, Check::Handshake) || matches!(self, Check::Conversation(said) if said.tls)
    }

    /// Whether it says where it goes.
    pub(super) fn has_port(&self) -> bool {
        matches!(self, Check::Conversation(said) if said.port.is_some())
    }
}

/// `option httpchk [METHOD] [PATH] [VERSION and headers]`
fn http(line: &Line, words: &[&str], report: &mut Report) -> Http {
    let (method, path, version) = match words {
        [] => ("OPTIONS", None, None),
        [path] => ("OPTIONS", Some(*path), None),
        [method, path] => (*method, Some(*path), None),
        [method, path, version, ..] => (*method, Some(*path), Some(*version)),
    };
    let method = (line.number, method.to_owned());
    let mut http = Http { method, path: path.map(str::to_owned), ..Http::default() };
    for header in version.into_iter().flat_map(|text| text.split("\r\n")).skip(1).filter(|text| !text.is_empty()) {
        match header.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("host") => {
                http.host = Some(value.trim().to_lowercase());
            }
            _ => report.left(line.number, "option httpchk", "no header but Host is sent"),
        }
    }
    http
}

/// `http-check send meth GET uri / ver HTTP/1.1 hdr Host name`
fn send(http: &mut Http, line: &Line, words: &[&str], report: &mut Report) {
    let mut rest = words.iter().copied();
    while let Some(word) = rest.next() {
        match word {
            "meth" => http.method = (line.number, rest.next().unwrap_or_default().to_owned()),
            "uri" => http.path = rest.next().map(str::to_owned),
            "ver" => drop(rest.next()),
            "hdr" => match (rest.next(), rest.next()) {
                (Some(name), Some(value)) if name.eq_ignore_ascii_case("host") => {
                    http.host = Some(value.to_lowercase());
                }
                _ => report.left(line.number, "http-check send hdr", "no header but Host is sent"),
            },
            _ => report.left(line.number, format!("http-check send {word}"), "has no counterpart"),
        }
    }
}

/// Whether it is understood.
fn expect(http: &mut Http, words: &[&str]) -> bool {
    match words {
        ["status", statuses] => {
            let list: Vec<&str> = statuses.split(',').collect();
            if !list.iter().all(|entry| entry.split('-').all(is_status) && entry.split('-').count() <= 2) {
                return false;
            }
            let node = |entry: &&str| if entry.contains('-') { Node::text(*entry) } else { Node::plain(entry) };
            http.statuses = list.iter().map(node).collect();
        }
        ["rstatus", pattern] => match ranges(pattern) {
            Some(statuses) => http.statuses = statuses,
            None => return false,
        },
        ["string", text] => http.body = Some((*text).to_owned()),
        _ => return false,
    }
    true
}

fn is_status(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The statuses that a pattern such as `(2|3)[0-9][0-9]` means, where it is as plain as that.
fn ranges(pattern: &str) -> Option<Vec<Node>> {
    let (begins, ends) = (pattern.starts_with('^'), pattern.ends_with('$'));
    let inside = pattern.trim_start_matches('^').trim_end_matches('$');
    let group = inside.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let alternatives = match group.filter(|group| !group.contains(['(', ')'])) {
        Some(group) => group.split('|').collect(),
        None => vec![inside],
    };
    // What only begins as a status does: any digits may follow.
    let open = begins && !ends;
    let statuses = alternatives.into_iter().map(|one| digits(one, open)).collect::<Option<Vec<_>>>()?;
    let fits = |status: &u16| {
        let number = [status / 100, status / 10 % 10, status % 10];
        statuses.iter().any(|digits| digits.iter().zip(number).all(|(these, digit)| these.contains(&digit)))
    };
    let mut found: Vec<(u16, u16)> = Vec::new();
    for status in (100..=599).filter(fits) {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == status => *last = status,
            _ => found.push((status, status)),
        }
    }
    let node = |(first, last)| if first == last { Node::plain(first) } else { Node::text(format!("{first}-{last}")) };
    Some(found.into_iter().map(node).collect::<Vec<_>>()).filter(|statuses| !statuses.is_empty())
}

/// What each digit of a status may be.
fn digits(pattern: &str, open: bool) -> Option<[Vec<u16>; 3]> {
    let mut rest = pattern;
    let mut digits = Vec::new();
    while !rest.is_empty() {
        let (digit, after) = one_digit(rest)?;
        digits.push(digit);
        rest = after;
    }
    if open && (1..3).contains(&digits.len()) {
        digits.resize_with(3, || (0..10).collect());
    }
    digits.try_into().ok()
}

/// The digits that the beginning of a pattern means, and the rest of it.
fn one_digit(pattern: &str) -> Option<(Vec<u16>, &str)> {
    if let Some(rest) = pattern.strip_prefix('.').or_else(|| pattern.strip_prefix("\\d")) {
        return Some(((0..10).collect(), rest));
    }
    if let Some((inside, rest)) = pattern.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let characters: Vec<char> = inside.chars().collect();
        let digits = match characters.as_slice() {
            [first, '-', last] => (first.to_digit(10)?..=last.to_digit(10)?).collect(),
            several => several.iter().map(|c| c.to_digit(10)).collect::<Option<Vec<u32>>>()?,
        };
        return Some((digits.into_iter().map(|digit| digit as u16).collect(), rest));
    }
    if let Some((inside, rest)) = pattern.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        let digits: Option<Vec<u16>> =
            inside.split('|').map(|one| one.parse().ok().filter(|digit| *digit < 10)).collect();
        return Some((digits?, rest));
    }
    let digit = pattern.chars().next()?.to_digit(10)?;
    Some((vec![digit as u16], &pattern[1..]))
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn understands_plain_patterns() {
        for (pattern, expected) in [
            ("(2|3)[0-9][0-9]", Some(r#"[Text("200-399")]"#)),
            ("^2..$", Some(r#"[Text("200-299")]"#)),
            ("20[04]", Some(r#"[Plain("200"), Plain("204")]"#)),
            (r"^[23]\d\d", Some(r#"[Text("200-399")]"#)),
            ("[2-4]0[0-1]", Some(r#"[Text("200-201"), Text("300-301"), Text("400-401")]"#)),
            ("(200|401)", Some(r#"[Plain("200"), Plain("401")]"#)),
            ("^(2..|401)$", Some(r#"[Text("200-299"), Plain("401")]"#)),
            ("^[23]", Some(r#"[Text("200-399")]"#)),
            ("^2$", None),
            ("(2|3)", None),
            ("(200|)", None),
            ("2.*", None),
            ("2", None),
            ("", None),
        ] {
            assert_eq!(ranges(pattern).map(|nodes| format!("{nodes:?}")).as_deref(), expected, "{pattern}");
        }
    }
}
