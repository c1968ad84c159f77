//! Where the client connects: the one rule for redirects and token services.
//!
//! A registry decides by its answers where the next request goes. A hostile one, or an impostor, must
//! not make this edge ask a service inside the network for it. So a host that the configuration does not name is judged
//! by its *addresses*, at the moment of connecting (a name may resolve to something else a moment later):
//!
//! | address | may be asked |
//! |---|---|
//! | a listener of this edge | never |
//! | named by `redirects_to` | yes |
//! | unspecified, link-local, multicast, reserved | never |
//! | loopback | for what a digest names, where the upstream is on loopback too (a laboratory) |
//! | private | where the upstream is private or on loopback |
//! | any other | yes |
//!
//! The upstream's own address is the most open one that its name has had since the start: whoever owns the name may change
//! its addresses at any time, and must not open private ones by that.
//!
//! IPv4 inside IPv6 (mapped, NAT64, 6to4) counts as that IPv4. Behind a proxy from the environment the proxy resolves
//! names, so there only addresses written in a URL are judged.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::class::{Class, class, within};

/// What an upstream may redirect to besides what the rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectTarget {
    /// A host, on one port or on any.
    Host {
        /// Name or address, in lower case.
        host: String,
        /// `None`: any port.
        port: Option<u16>,
    },
    /// All addresses of a network.
    Network(IpNet),
}

/// Why a host is not connected to. The text names no more than the host, which the upstream named itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreachable {
    /// The rule forbids its address.
    #[error(
        "{host} has {class} address, to which an upstream may not lead: list the host in `redirects_to` to allow it"
    )]
    Address {
        /// Which host.
        host: String,
        /// What kind of address.
        class: Class,
    },
    /// A listener of this edge.
    #[error("{0} is this edge itself, to which an upstream may not lead")]
    Edge(String),
}

/// What is asked for, as far as the rule cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Content that its digest proves: nothing else can be passed off for it.
    Content,
    /// Anything else.
    Other,
}

/// Above every [`Class`]: no address is known yet.
const UNKNOWN: u8 = u8::MAX;

/// The rule of one endpoint.
pub(super) struct Reach {
    allowed: Vec<RedirectTarget>,
    listeners: Vec<SocketAddr>,
    /// The upstream's own host, where it is a name: what its addresses are is learnt.
    name: Option<String>,
    /// The most open class among the upstream's own addresses since the start; [`UNKNOWN`] before the first one.
    own: AtomicU8,
    /// Names are resolved by a proxy.
    proxied: bool,
}

impl Reach {
    /// The rule for an upstream at this URL. `listeners` are the addresses of this edge; `inside`: the upstream is
    /// reached without its URL, by the operator's own pool.
    pub(super) fn new(
        url: &Url,
        allowed: Vec<RedirectTarget>,
        listeners: Vec<SocketAddr>,
        inside: bool,
        proxied: bool,
    ) -> Reach {
        let own = match literal(url) {
            _ if inside => Class::Loopback as u8,
            Some(address) => class(address) as u8,
            None if is_localhost(url) => Class::Loopback as u8,
            None => UNKNOWN,
        };
        // The operator's own pool is where it is, whatever the name says; and behind a proxy no name is resolved.
        let name = (!inside && !proxied && literal(url).is_none()).then(|| host_name(url));
        Reach { allowed, listeners, name, own: AtomicU8::new(own), proxied }
    }

    /// What is not known counts as public.
    fn own(&self) -> Class {
        match self.own.load(Ordering::Relaxed) {
            1 => Class::Private,
            2 => Class::Loopback,
            3 => Class::Never,
            _ => Class::Public,
        }
    }

    /// Learns addresses of the upstream itself. `name` is what was resolved: a token service that the configuration lists
    /// is resolved in the same way, and says nothing of the upstream.
    fn learn(&self, name: &str, addresses: &[SocketAddr]) {
        let is_own = self.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name.trim_end_matches('.')));
        if is_own && let Some(class) = addresses.iter().map(|address| class(address.ip())).min() {
            self.own.fetch_min(class as u8, Ordering::Relaxed);
        }
    }

    /// Judges one address.
    fn judge(&self, host: &str, address: IpAddr, port: Option<u16>, aim: Aim) -> Result<(), Unreachable> {
        let address = match address {
            IpAddr::V6(v6) => within(v6).map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        if port.is_some_and(|port| self.listeners.iter().any(|own| is_listener(*own, address, port))) {
            return Err(Unreachable::Edge(host.to_owned()));
        }
        let named = |target: &RedirectTarget| match target {
            RedirectTarget::Network(network) => network.contains(&address),
            RedirectTarget::Host { host: listed, port: only } => {
                let same = listed == host || listed.parse::<IpAddr>().is_ok_and(|listed| listed == address);
                same && only.is_none_or(|only| port.is_none_or(|port| port == only))
            }
        };
        let (class, own) = (class(address), self.own());
        let fine = self.allowed.iter().any(named)
            || match class {
                Class::Public => true,
                Class::Private => matches!(own, Class::Private | Class::Loopback),
                Class::Loopback => own == Class::Loopback && aim == Aim::Content,
                Class::Never => false,
            };
        if fine { Ok(()) } else { Err(Unreachable::Address { host: host.to_owned(), class }) }
    }

    /// Judges a URL before it is connected to. The addresses of a name are looked up where what comes back is not proven
    /// by a digest: who connects does not know that.
    pub(super) async fn check(&self, url: &Url, aim: Aim) -> Result<(), Unreachable> {
        let (host, port) = (host_name(url), url.port_or_known_default());
        if let Some(address) = literal(url) {
            return self.judge(&host, address, port, aim);
        }
        if is_localhost(url) {
            return self.judge(&host, IpAddr::V4(Ipv4Addr::LOCALHOST), port, aim);
        }
        if self.proxied || aim == Aim::Content {
            return Ok(());
        }
        // A name that cannot be resolved fails where it is connected to.
        let found = tokio::net::lookup_host((host.as_str(), port.unwrap_or_default())).await;
        found.into_iter().flatten().try_for_each(|address| self.judge(&host, address.ip(), port, aim))
    }

    /// Judges what a name resolved to, before a connection to any of it is made. Where the aim matters, [`Reach::check`]
    /// judged before: a connection may be used again for another aim.
    pub(super) fn admit(&self, host: &str, addresses: &[SocketAddr], port: u16) -> Result<(), Unreachable> {
        if self.proxied {
            return Ok(());
        }
        let host = host.trim_end_matches('.');
        addresses.iter().try_for_each(|address| self.judge(host, address.ip(), Some(port), Aim::Content))
    }

    /// Judges where an answer came from in the end.
    pub(super) fn confirm(&self, url: &Url, peer: Option<SocketAddr>, aim: Aim) -> Result<(), Unreachable> {
        match peer {
            Some(peer) if !self.proxied => self.judge(&host_name(url), peer.ip(), Some(peer.port()), aim),
            _ => Ok(()),
        }
    }
}

fn host_name(url: &Url) -> String {
    url.host_str().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.').to_owned()
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    }
}

/// Whether a URL names this machine, by the names that mean nothing else (RFC 6761).
pub(super) fn is_localhost(url: &Url) -> bool {
    let name = host_name(url);
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether a connection to this address ends at that listener. One on all addresses is met at every address of this
/// machine, which are those that a socket can be bound to.
fn is_listener(listener: SocketAddr, address: IpAddr, port: u16) -> bool {
    let is_here = || class(address) == Class::Loopback || std::net::UdpSocket::bind((address, 0)).is_ok();
    port == listener.port()
        && (listener.ip() == address || address.is_unspecified() || (listener.ip().is_unspecified() && is_here()))
}

/// Resolves names for connections to an endpoint itself, and learns where it is.
pub(super) struct OwnResolver(pub(super) Arc<Reach>);

impl Resolve for OwnResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            reach.learn(name.as_str(), &found);
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Resolves names for connections to other hosts. Who connects judges what comes back, by [`Reach::admit`].
pub(super) struct OtherResolver;

impl Resolve for OtherResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use url::Url;

    use super::{Aim, Class, Reach, RedirectTarget};

    #[tokio::test]
    async fn judges_where_an_upstream_may_lead() {
        let (public, private, loopback) = ("http://1.1.1.1", "http://10.0.0.5:5000", "http://127.0.0.1:5000");
        let listed = |text: &str| match text.parse() {
            Ok(network) => RedirectTarget::Network(network),
            Err(_) => RedirectTarget::Host { host: text.to_owned(), port: None },
        };
        // upstream, `redirects_to`, target, whether content and anything else may come from there
        for (upstream, allowed, target, content, other) in [
            (public, "", "http://9.9.9.9/x", true, true),
            (public, "", "http://10.0.0.6/x", false, false),
            (public, "10.0.0.0/8", "http://10.0.0.6/x", true, true),
            (public, "10.0.0.6", "http://10.0.0.6:9000/x", true, true),
            (public, "10.0.0.7", "http://10.0.0.6/x", false, false),
            (private, "", "http://10.0.0.6/x", true, true),
            (private, "", "http://127.0.0.1/x", false, false),
            (private, "", "http://localhost/x", false, false),
            (private, "", "http://169.254.169.254/latest", false, false),
            (loopback, "", "http://127.0.0.1:7000/x", true, false),
            (loopback, "", "http://localhost:7000/x", true, false),
            (loopback, "", "http://2130706433:7000/x", true, false),
            (loopback, "", "http://[::ffff:127.0.0.1]:7000/x", true, false),
            (loopback, "", "http://127.1:7000/x", true, false),
            (loopback, "localhost", "http://localhost:7000/x", true, true),
            (loopback, "127.0.0.1", "http://127.0.0.1:7000/x", true, true),
            (loopback, "127.0.0.0/8", "http://127.0.0.1:7000/x", true, true),
            (loopback, "", "http://0.0.0.0:7000/x", false, false),
            (loopback, "", "http://169.254.169.254/latest", false, false),
            // The edge itself, by whatever spelling, allowed or not.
            (loopback, "127.0.0.0/8", "http://127.0.0.1:9090/metrics", false, false),
            (loopback, "", "http://2130706433:9090/metrics", false, false),
            (loopback, "", "http://[::ffff:127.0.0.1]:9090/metrics", false, false),
            (loopback, "localhost", "http://localhost:9090/metrics", false, false),
            (loopback, "0.0.0.0", "http://0.0.0.0:9090/metrics", false, false),
            (loopback, "127.0.0.0/8", "http://127.0.0.9:443/v2/", false, false),
        ] {
            let allowed_list = Some(allowed).filter(|text| !text.is_empty()).map(listed).into_iter().collect();
            let listeners = vec!["127.0.0.1:9090".parse().unwrap(), "0.0.0.0:443".parse().unwrap()];
            let reach = Reach::new(&Url::parse(upstream).unwrap(), allowed_list, listeners, false, false);
            for (aim, expected) in [(Aim::Content, content), (Aim::Other, other)] {
                let result = reach.check(&Url::parse(target).unwrap(), aim).await;
                assert_eq!(result.is_ok(), expected, "{upstream} [{allowed}] {target} {aim:?}: {result:?}");
            }
        }
    }
    #[tokio::test]
    async fn a_later_address_of_the_upstream_opens_nothing() {
        let target = Url::parse("http://10.7.7.8/v2/x").unwrap();
        // upstream, what names resolve to one after the other, what the upstream then is
        for (upstream, answers, expected) in [
            ("http://up.example.org", &[][..], Class::Public),
            ("http://up.example.org", &[("up.example.org", "93.184.1.10")], Class::Public),
            (
                "http://up.example.org",
                &[("up.example.org", "93.184.1.10"), ("up.example.org", "10.9.9.9")],
                Class::Public,
            ),
            (
                "http://up.example.org",
                &[("up.example.org", "93.184.1.10"), ("up.example.org", "127.0.0.1")],
                Class::Public,
            ),
            (
                "http://up.example.org",
                &[("up.example.org", "10.9.9.9"), ("up.example.org", "93.184.1.10")],
                Class::Public,
            ),
            ("http://up.example.org", &[("up.example.org", "10.9.9.9 93.184.1.10")], Class::Public),
            ("http://up.example.org", &[("up.example.org", "10.9.9.9")], Class::Private),
            (
                "http://up.example.org",
                &[("up.example.org", "10.9.9.9"), ("up.example.org", "127.0.0.1")],
                Class::Private,
            ),
            ("http://Up.Example.org.", &[("up.example.org.", "10.9.9.9")], Class::Private),
            ("http://up.example.org", &[("up.example.org", "127.0.0.1")], Class::Loopback),
            ("http://up.example.org", &[("up.example.org", "169.254.169.254")], Class::Never),
            ("http://up.example.org", &[("up.example.org", "")], Class::Public),
            // Another name says nothing of the upstream.
            ("http://up.example.org", &[("sso.example.org", "10.9.9.9")], Class::Public),
            (
                "http://up.example.org",
                &[("up.example.org", "10.9.9.9"), ("sso.example.org", "9.9.9.9")],
                Class::Private,
            ),
            ("http://10.0.0.5", &[("sso.example.org", "9.9.9.9")], Class::Private),
            ("http://localhost:5000", &[("localhost", "127.0.0.1 ::1")], Class::Loopback),
        ] {
            let reach = Reach::new(&Url::parse(upstream).unwrap(), Vec::new(), Vec::new(), false, false);
            for (name, addresses) in answers {
                let ips = addresses.split_whitespace().map(|address| address.parse::<IpAddr>().unwrap());
                reach.learn(name, &ips.map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>());
            }
            assert_eq!(reach.own(), expected, "{upstream} {answers:?}");
            let private = reach.check(&target, Aim::Other).await.is_ok();
            assert_eq!(private, matches!(expected, Class::Private | Class::Loopback), "{upstream} {answers:?}");
        }
    }
}
