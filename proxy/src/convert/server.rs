//! `server`, `default-server` and `server-template`.

use std::time::Duration;

use super::duration;
use super::report::Report;
use super::words::Line;

/// How servers are spoken to with TLS.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServerTls {
    /// `verify none`
    pub(super) unverified: bool,
    /// `ca-file`
    pub(super) ca: Option<String>,
    /// `verifyhost`, or a fixed `sni`.
    pub(super) name: Option<String>,
    /// `crt`
    pub(super) certificate: Option<String>,
    /// `ssl-min-ver TLSv1.3`
    pub(super) only_13: bool,
}

/// What is one for a pool here, and may differ from server to server there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shared {
    pub(super) checked: bool,
    pub(super) inter: Option<Duration>,
    pub(super) fastinter: Option<Duration>,
    pub(super) rise: Option<String>,
    pub(super) fall: Option<String>,
    pub(super) check_port: Option<String>,
    pub(super) check_tls: bool,
    pub(super) check_name: Option<String>,
    pub(super) tls: bool,
    pub(super) tls_settings: ServerTls,
    pub(super) send_proxy: Option<&'static str>,
    pub(super) close_on_down: bool,
    pub(super) slow_start: Option<Duration>,
    pub(super) observe: Option<String>,
    pub(super) error_limit: Option<String>,
    pub(super) mark_down: bool,
    pub(super) resolvers: Option<String>,
}

/// The parameters of a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parameters {
    pub(super) shared: Shared,
    pub(super) weight: Option<String>,
    pub(super) backup: bool,
    pub(super) max_connections: Option<String>,
}

/// A server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) line: usize,
    pub(super) name: String,
    /// `host:port`
    pub(super) address: String,
    pub(super) parameters: Parameters,
}

/// Servers that DNS names.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) port: Option<String>,
    pub(super) parameters: Parameters,
}

/// Parameters with one argument that have no counterpart.
const LEFT_WITH_ARGUMENT: &[&str] = &[
    "addr",
    "agent-addr",
    "agent-inter",
    "agent-port",
    "agent-send",
    "alpn",
    "check-alpn",
    "check-proto",
    "ciphers",
    "ciphersuites",
    "cookie",
    "crl-file",
    "curves",
    "downinter",
    "guid",
    "hash-key",
    "id",
    "init-addr",
    "log-proto",
    "max-reuse",
    "maxqueue",
    "minconn",
    "namespace",
    "npn",
    "pool-low-conn",
    "pool-max-conn",
    "pool-purge-delay",
    "proto",
    "proxy-v2-options",
    "redir",
    "resolve-net",
    "resolve-opts",
    "resolve-prefer",
    "set-proxy-v2-tlv-fmt",
    "shard",
    "sigalgs",
    "socks4",
    "source",
    "ssl-max-ver",
    "tcp-ut",
    "track",
    "ws",
];

/// Parameters that ask for what is so anyway.
const SO_ANYWAY: &[&str] = &[
    "enabled",
    "no-backup",
    "no-check",
    "no-send-proxy",
    "no-send-proxy-v2",
    "no-ssl",
    "no-sslv3",
    "no-tlsv10",
    "no-tlsv11",
    "no-verifyhost",
    "non-stick",
    "ssl-reuse",
    "tls-tickets",
    "check-send-proxy",
];

/// Reads what follows the address.
pub(super) fn parameters(line: &Line, words: &[&str], mut read: Parameters, report: &mut Report) -> Parameters {
    let mut rest = words.iter().copied();
    let of = |word: &str| format!("{} {}", line.words[0], word);
    while let Some(word) = rest.next() {
        let shared = &mut read.shared;
        let mut argument = || rest.next().unwrap_or_default().to_owned();
        let mut time = |report: &mut Report| {
            let text = argument();
            let parsed = duration::parse(&text).filter(|time| !time.is_zero());
            if parsed.is_none() {
                report.left(line.number, of(word), "is no duration that could be carried over");
            }
            parsed
        };
        match word {
            "check" => shared.checked = true,
            "inter" => shared.inter = time(report),
            "fastinter" => shared.fastinter = time(report),
            "slowstart" => shared.slow_start = time(report),
            "rise" => shared.rise = Some(argument()),
            "fall" => shared.fall = Some(argument()),
            "port" => shared.check_port = Some(argument()),
            "check-ssl" => shared.check_tls = true,
            "check-sni" => shared.check_name = Some(argument()),
            "ssl" => shared.tls = true,
            "verify" => shared.tls_settings.unverified = argument() == "none",
            "ca-file" => shared.tls_settings.ca = Some(argument()).filter(|file| file != "@system-ca"),
            "crt" => shared.tls_settings.certificate = Some(argument()),
            "verifyhost" => shared.tls_settings.name = Some(argument()),
            "sni" => match argument().strip_prefix("str(").and_then(|text| text.strip_suffix(')')) {
                Some(name) => shared.tls_settings.name = Some(name.trim_matches(['\'', '"']).to_owned()),
                None => report.left(line.number, of(word), "a pool has one name for all requests: `tls.sni`"),
            },
            "ssl-min-ver" => shared.tls_settings.only_13 = argument() == "TLSv1.3",
            "force-tlsv13" => shared.tls_settings.only_13 = true,
            "send-proxy" => shared.send_proxy = Some("v1"),
            "send-proxy-v2" => shared.send_proxy = Some("v2"),
            "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => {
                shared.send_proxy = Some("v2");
                report.left(line.number, of(word), "the header is sent without details of the client's TLS");
            }
            "on-marked-down" => shared.close_on_down = argument() == "shutdown-sessions",
            "on-marked-up" => {
                argument();
                report.left(line.number, of(word), "sessions of backups go on when another server comes up");
            }
            "observe" => shared.observe = Some(argument()),
            "error-limit" => shared.error_limit = Some(argument()),
            "on-error" => shared.mark_down = argument() == "mark-down",
            "resolvers" => shared.resolvers = Some(argument()),
            "weight" => read.weight = Some(argument()),
            "backup" => read.backup = true,
            "maxconn" => read.max_connections = Some(argument()).filter(|number| number != "0"),
            "disabled" => {
                report.left(line.number, of(word), "take it out when the edge runs: `pierhead ctl maintenance`");
            }
            "agent-check" => report.left(line.number, of(word), "there are no agents: `health` asks the server itself"),
            word if LEFT_WITH_ARGUMENT.contains(&word) => {
                argument();
                report.left(line.number, of(word), "has no counterpart");
            }
            word if SO_ANYWAY.contains(&word) => {}
            word => report.left(line.number, of(word), "is not known"),
        }
    }
    read
}

/// `server NAME ADDRESS …`
pub(super) fn server(line: &Line, defaults: &Parameters, report: &mut Report) -> Option<Server> {
    let words = line.as_strs();
    let [_, name, written, rest @ ..] = words.as_slice() else {
        report.left(line.number, "server", "is not complete");
        return None;
    };
    let Some(address) = address(written) else {
        report.left(
            line.number,
            format!("server {name}"),
            "needs a host and a port; sockets of the system have no counterpart",
        );
        return None;
    };
    let parameters = parameters(line, rest, defaults.clone(), report);
    Some(Server { line: line.number, name: (*name).to_owned(), address, parameters })
}

/// `server-template PREFIX NUMBER NAME[:PORT] …`
pub(super) fn template(line: &Line, defaults: &Parameters, report: &mut Report) -> Option<Template> {
    let words = line.as_strs();
    let [_, _, _, name, rest @ ..] = words.as_slice() else {
        report.left(line.number, "server-template", "is not complete");
        return None;
    };
    let (name, port) = match name.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.to_owned())),
        None => (*name, None),
    };
    if port.is_none() && !name.starts_with('_') {
        report.left(line.number, "server-template", "needs a port: that of each client has no counterpart");
        return None;
    }
    let parameters = parameters(line, rest, defaults.clone(), report);
    Some(Template { line: line.number, name: name.to_owned(), port, parameters })
}

/// `host:port` as it is written here; none for what is no address of the network, or has no fixed port.
pub(super) fn address(text: &str) -> Option<String> {
    let text = text.strip_prefix("ipv4@").or_else(|| text.strip_prefix("ipv6@")).unwrap_or(text);
    if text.contains('@') || text.starts_with('/') {
        return None;
    }
    let (host, port) = text.rsplit_once(':')?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0) || port.starts_with("${");
    if host.is_empty() || !is_port || port.starts_with('+') {
        return None;
    }
    // An IPv6 address may stand there without brackets.
    Some(if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn reads_addresses() {
        for (written, expected) in [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("quay01:8080", Some("quay01:8080")),
            ("ipv4@10.0.0.1:80", Some("10.0.0.1:80")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]:80")),
            ("2001:db8::1:80", Some("[2001:db8::1]:80")),
            ("${QUAY}:443", Some("${QUAY}:443")),
            ("quay01", None),
            ("quay01:+10", None),
            (":80", None),
            ("/run/quay.sock", None),
            ("unix@/run/quay.sock", None),
            ("quay01:0", None),
        ] {
            assert_eq!(address(written).as_deref(), expected, "{written}");
        }
    }
}
