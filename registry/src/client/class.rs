//! Kinds of addresses, as the rule on where an upstream may lead sorts them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Kinds of addresses, the most open first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Public,
    Private,
    Loopback,
    /// Unspecified, link-local, multicast, reserved.
    Never,
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Class::Public => "a public",
            Class::Private => "a private",
            Class::Loopback => "a loopback",
            Class::Never => "a link-local, multicast or reserved",
        })
    }
}

/// Sorts an address.
pub(super) fn class(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => within(address).map_or_else(|| class_v6(address), class_v4),
    }
}

fn class_v4(address: Ipv4Addr) -> Class {
    match address.octets() {
        [127, ..] => Class::Loopback,
        [0 | 224..=255, ..] | [169, 254, ..] => Class::Never,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [192, 0, 0, _] | [100, 64..=127, ..] | [198, 18..=19, ..] => {
            Class::Private
        }
        _ => Class::Public,
    }
}

fn class_v6(address: Ipv6Addr) -> Class {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        [0, 0, 0, 0, 0, 0, 0, 0] | [0xff00..=0xffff, ..] | [0xfe80..=0xfebf, ..] => Class::Never,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => Class::Private,
        _ => Class::Public,
    }
}

/// The IPv4 address that an IPv6 address stands for, if it does: mapped, compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
pub(super) fn within(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Class, class};

    #[test]
    fn sorts_addresses() {
        for (text, expected) in [
            ("1.1.1.1", Class::Public),
            ("2606:4700::1111", Class::Public),
            ("10.0.0.1", Class::Private),
            ("172.31.255.255", Class::Private),
            ("172.32.0.1", Class::Public),
            ("192.168.1.1", Class::Private),
            ("100.100.100.200", Class::Private),
            ("fd00:ec2::254", Class::Private),
            ("127.0.0.1", Class::Loopback),
            ("127.9.9.9", Class::Loopback),
            ("::1", Class::Loopback),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::7f00:1", Class::Loopback),
            ("64:ff9b::7f00:1", Class::Loopback),
            ("2002:7f00:1::", Class::Loopback),
            ("::ffff:10.0.0.1", Class::Private),
            ("64:ff9b::a9fe:a9fe", Class::Never),
            ("169.254.169.254", Class::Never),
            ("fe80::1", Class::Never),
            ("0.0.0.0", Class::Never),
            ("::", Class::Never),
            ("::ffff:0.0.0.0", Class::Never),
            ("224.0.0.1", Class::Never),
            ("ff02::1", Class::Never),
            ("255.255.255.255", Class::Never),
        ] {
            assert_eq!(class(text.parse::<IpAddr>().unwrap()), expected, "{text}");
        }
    }
}
