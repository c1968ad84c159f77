//! `bind`: where clients connect, and what they are shown.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::file::Bases;
use super::report::Report;
use super::words::Line;
use super::yaml::{Node, Section};

/// An address that is listened on.
#[derive(Clone, Debug)]
pub(super) struct Bind {
    pub(super) line: usize,
    pub(super) address: String,
    pub(super) tls: Option<Tls>,
    pub(super) accept_proxy: bool,
    pub(super) max_connections: Option<String>,
}

/// What clients are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tls {
    certificates: Vec<String>,
    strict_sni: bool,
    only_13: bool,
    client_ca: Option<String>,
    client_auth: Option<String>,
}

impl Bind {
    /// Whether whoever connects to the other connects to this one as well: `[::]` takes IPv4 too.
    pub(super) fn covers(&self, other: &Bind) -> bool {
        let port = |bind: &Bind, all: &str| bind.address.strip_prefix(all).map(str::to_owned);
        let both = port(self, "[::]:").is_some_and(|port_of_all| Some(port_of_all) == port(other, "0.0.0.0:"));
        both && self.tls == other.tls && self.accept_proxy == other.accept_proxy
    }
}

const LEFT_WITH_ARGUMENT: &[&str] = &[
    "backlog",
    "ca-verify-file",
    "ciphers",
    "ciphersuites",
    "client-sigalgs",
    "crl-file",
    "crt-ignore-err",
    "ca-ignore-err",
    "crt-list",
    "curves",
    "default-crt",
    "ecdhe",
    "gid",
    "group",
    "guid-prefix",
    "id",
    "interface",
    "label",
    "level",
    "maxaccept",
    "mode",
    "mss",
    "namespace",
    "nbconn",
    "nice",
    "npn",
    "ocsp-update",
    "process",
    "proto",
    "quic-cc-algo",
    "severity-output",
    "shards",
    "sigalgs",
    "ssl-max-ver",
    "tcp-ut",
    "thread",
    "tls-ticket-keys",
    "uid",
    "user",
];
const SO_ANYWAY: &[&str] = &[
    "no-sslv3",
    "no-tlsv10",
    "no-tlsv11",
    "force-tlsv12",
    "defer-accept",
    "v4v6",
    "v6only",
    "tfo",
    "prefer-client-ciphers",
    "no-alpn",
];

/// `bind ADDRESS,… …`: one listener for each address.
pub(super) fn binds(line: &Line, report: &mut Report) -> Vec<Bind> {
    let words = line.as_strs();
    let [_, addresses, rest @ ..] = words.as_slice() else {
        report.left(line.number, "bind", "is not complete");
        return Vec::new();
    };
    let mut bind =
        Bind { line: line.number, address: String::new(), tls: None, accept_proxy: false, max_connections: None };
    let (mut tls, mut has_tls) = (Tls::default(), false);
    let mut rest = rest.iter().copied();
    while let Some(word) = rest.next() {
        let mut argument = || rest.next().unwrap_or_default().to_owned();
        let left = |report: &mut Report, why: &str| report.left(line.number, format!("bind {word}"), why);
        match word {
            "ssl" => has_tls = true,
            "crt" => tls.certificates.push(argument()),
            "ca-file" => tls.client_ca = Some(argument()),
            "verify" => tls.client_auth = Some(argument()),
            "strict-sni" => tls.strict_sni = true,
            "ssl-min-ver" => tls.only_13 = argument() == "TLSv1.3",
            "force-tlsv13" | "no-tlsv12" => tls.only_13 = true,
            "alpn" => {
                if !argument().contains("h2") {
                    left(report, "HTTP/2 is always offered beside HTTP/1.1");
                }
            }
            "accept-proxy" => bind.accept_proxy = true,
            "maxconn" => bind.max_connections = Some(argument()),
            "name" => drop(argument()),
            "ciphers" | "ciphersuites" | "curves" => {
                argument();
                left(report, "there are two policies: `tls.ciphers: intermediate` or `modern`");
            }
            "crt-list" => {
                argument();
                left(report, "name the files in `tls.certificates`, or their `tls.directory`");
            }
            word if LEFT_WITH_ARGUMENT.contains(&word) => {
                argument();
                left(report, "has no counterpart");
            }
            word if SO_ANYWAY.contains(&word) => {}
            _ => left(report, "is not known"),
        }
    }
    bind.tls = has_tls.then_some(tls);
    let mut binds = Vec::new();
    for written in addresses.split(',') {
        match address(written) {
            Some(address) => binds.push(Bind { address, ..bind.clone() }),
            None => report.left(line.number, format!("bind {written}"), "needs an address and one port"),
        }
    }
    binds
}

/// An address as it is written here.
fn address(text: &str) -> Option<String> {
    let (family, text) = match text.split_once('@') {
        Some((family @ ("ipv4" | "ipv6"), rest)) => (Some(family), rest),
        Some(_) => return None,
        None => (None, text),
    };
    let (host, port) = text.rsplit_once(':')?;
    if host.contains("${") || port.contains("${") {
        return Some(if host.is_empty() || host == "*" { format!("0.0.0.0:{port}") } else { text.to_owned() });
    }
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let host: IpAddr = match host.trim_matches(['[', ']']) {
        "" | "*" if family == Some("ipv6") => Ipv6Addr::UNSPECIFIED.into(),
        "" | "*" => [0, 0, 0, 0].into(),
        "localhost" => [127, 0, 0, 1].into(),
        host => host.parse().ok()?,
    };
    Some(SocketAddr::new(host, port).to_string())
}

impl Tls {
    /// With whole names of files.
    pub(super) fn based(&mut self, bases: &Bases) {
        self.certificates.iter_mut().for_each(|file| bases.certificate(file));
        self.client_ca.iter_mut().for_each(|file| bases.authority(file));
    }

    /// The section `tls`.
    pub(super) fn write(&self, line: usize, is_directory: &dyn Fn(&Path) -> bool, report: &mut Report) -> Section {
        let mut section = Section::default();
        let (directories, files): (Vec<&String>, Vec<&String>) =
            self.certificates.iter().partition(|path| path.ends_with('/') || is_directory(Path::new(path)));
        // A chain and its key in one file.
        let certificate = |file: &&String| {
            let mut both = Section::default();
            both.put("cert", Node::text(*file)).put("key", Node::text(*file));
            Node::from(both)
        };
        section.put("certificates", (!files.is_empty()).then(|| Node::List(files.iter().map(certificate).collect())));
        section.put("directory", directories.first().map(|path| Node::text(*path)));
        if directories.len() > 1 {
            report.left(line, "bind crt", "a listener has one directory of certificates");
        }
        if self.certificates.is_empty() {
            report.left(line, "bind ssl", "no certificate could be carried over");
        }
        section.put("strict_sni", Node::set(self.strict_sni));
        section.put("min_version", self.only_13.then(|| Node::text("1.3")));
        let verified = self.client_auth.as_deref().is_some_and(|verify| verify != "none");
        let authority = self.client_ca.as_ref().filter(|_| verified);
        section.put("client_ca", authority.map(Node::text));
        let optional = self.client_auth.as_deref() == Some("optional") && authority.is_some();
        section.put("client_auth", optional.then(|| Node::text("optional")));
        section
    }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn reads_addresses() {
        for (written, expected) in [
            ("*:80", Some("0.0.0.0:80")),
            (":443", Some("0.0.0.0:443")),
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[::]:80", Some("[::]:80")),
            (":::80", Some("[::]:80")),
            ("ipv6@:80", Some("[::]:80")),
            ("ipv4@10.0.0.1:80", Some("10.0.0.1:80")),
            ("localhost:80", Some("127.0.0.1:80")),
            ("*:${PORT}", Some("0.0.0.0:${PORT}")),
            ("*:8000-8010", None),
            ("unix@/run/a.sock", None),
            ("abns@a", None),
            ("example.com:80", None),
        ] {
            assert_eq!(address(written).as_deref(), expected, "{written}");
        }
    }
}
