//! Where the edge's operators' listener is, and the token that it wants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use pierhead_config::{Admin, Secret};
use url::Url;

use super::CtlError;

/// Where an edge listens for its operators unless its configuration says otherwise.
const USUAL: &str = "http://127.0.0.1:9090";

/// The configuration of an edge that is installed.
pub(crate) const INSTALLED: &str = "/etc/pierhead/pierhead.yaml";

/// Below the directory of a user's state: the configuration of the quickstart while it runs.
const QUICKSTART: &str = "pierhead/quickstart.yaml";

/// An operators' listener, and what it asks for.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Host and port, as in a URL.
    pub(super) authority: String,
    /// For `Authorization`.
    pub(super) token: Option<Secret>,
}

impl Target {
    /// The listener that is meant; what is given goes before what is configured. Where nothing is given there may be
    /// several, in the order in which they are to be tried: the quickstart's while it runs, the installed edge's, the usual
    /// one.
    pub(super) fn find(
        address: Option<&str>,
        token_file: Option<&Path>,
        config: Option<&Path>,
    ) -> Result<Vec<Target>, CtlError> {
        let given = token_file.map(token).transpose()?;
        if let (Some(address), None) = (address, config) {
            return Ok(vec![Target { authority: authority(address)?, token: given }]);
        }
        if let Some(config) = config {
            return Ok(vec![Target::configured(config, address, given.as_ref())?]);
        }
        let known = [quickstart(), Some(INSTALLED.into())].into_iter().flatten().filter(|config| config.exists());
        let known: Vec<_> = known.map(|config| Target::configured(&config, None, given.as_ref())).collect();
        // One that cannot be read matters when there is no other.
        if known.iter().any(Result::is_ok) {
            return Ok(known.into_iter().flatten().collect());
        }
        match known.into_iter().next() {
            Some(problem) => problem.map(|target| vec![target]),
            None => Ok(vec![Target { authority: authority(USUAL)?, token: given }]),
        }
    }

    /// As a configuration has it, but for what was given.
    fn configured(config: &Path, address: Option<&str>, given: Option<&Secret>) -> Result<Target, CtlError> {
        let admin = Admin::load(config).map_err(|problems| CtlError::Config(problems.to_string()))?;
        let authority = match address {
            Some(address) => authority(address)?,
            None => reachable(admin.bind)?.to_string(),
        };
        Ok(Target { authority, token: given.cloned().or(admin.token) })
    }
}

/// Where `scripts/run` leaves a link to the configuration that it uses.
fn quickstart() -> Option<PathBuf> {
    let directory = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = directory("XDG_STATE_HOME").or_else(|| Some(directory("HOME")?.join(".local/state")))?;
    Some(state.join(QUICKSTART))
}

/// `http://host:port`, or `host:port`.
fn authority(address: &str) -> Result<String, CtlError> {
    let wrong = |reason| CtlError::Address { address: address.to_owned(), reason };
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let url = Url::parse(&url).map_err(|_| wrong("is not an address"))?;
    if url.scheme() != "http" {
        return Err(wrong("the admin listener speaks plain http"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || !url.username().is_empty() {
        return Err(wrong("is more than a host and a port"));
    }
    let host = url.host_str().ok_or_else(|| wrong("names no host"))?;
    Ok(format!("{host}:{}", url.port_or_known_default().unwrap_or(80)))
}

/// An address that can be connected to, for one that is listened on.
fn reachable(bind: SocketAddr) -> Result<SocketAddr, CtlError> {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    match bind.port() {
        0 => Err(CtlError::Address {
            address: bind.to_string(),
            reason: "any port, says the configuration: give --address",
        }),
        port => Ok(SocketAddr::new(ip, port)),
    }
}

fn token(path: &Path) -> Result<Secret, CtlError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CtlError::TokenFile { path: path.to_owned(), reason: source.to_string() })?;
    let token = text.trim();
    if token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(CtlError::TokenFile { path: path.to_owned(), reason: "holds no token".to_owned() });
    }
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_short() {
        for (given, expected) in [
            ("http://127.0.0.1:9090", Some("127.0.0.1:9090")),
            ("http://127.0.0.1:9090/", Some("127.0.0.1:9090")),
            ("127.0.0.1:9090", Some("127.0.0.1:9090")),
            ("edge.example.com", Some("edge.example.com:80")),
            ("[::1]:9090", Some("[::1]:9090")),
            ("https://edge.example.com:9090", None),
            ("http://edge.example.com:9090/api", None),
            ("http://user@edge.example.com:9090", None),
            ("", None),
        ] {
            assert_eq!(authority(given).ok().as_deref(), expected, "{given}");
        }
    }

    #[test]
    fn what_is_listened_on_is_not_always_what_is_connected_to() {
        for (bind, expected) in [
            ("127.0.0.1:9090", Some("127.0.0.1:9090")),
            ("0.0.0.0:9090", Some("127.0.0.1:9090")),
            ("[::]:9090", Some("[::1]:9090")),
            ("192.0.2.7:1", Some("192.0.2.7:1")),
            ("127.0.0.1:0", None),
        ] {
            let found = reachable(bind.parse().unwrap()).ok().map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{bind}");
        }
    }

    #[test]
    fn a_token_is_one_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(token(&path).is_err());
        for (text, expected) in [("secret\n", Some("secret")), ("\n", None), ("a b", None), ("a\nb", None)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(token(&path).ok().as_ref().map(Secret::reveal), expected, "{text:?}");
        }
    }
}
