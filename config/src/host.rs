//! Host names with an optional port, as they stand in references, Host headers and realms.

use std::net::IpAddr;

use crate::field::Field;

/// Longest host name (RFC 1035).
const LIMIT: usize = 253;

/// `registry.example.com` or `localhost:5000`, in lower case.
pub(crate) fn host(field: &Field<'_>) -> Option<String> {
    let expected = "a host name such as `registry.example.com` or `localhost:5000`, in lower case";
    let text = field.text(expected)?;
    if is_host(&text) {
        return Some(text);
    }
    field.problem(format!("expected {expected}"));
    None
}

/// `registry.example.com`, in lower case, or an address.
pub(crate) fn name(field: &Field<'_>) -> Option<String> {
    let expected = "a host name such as `registry.example.com`, in lower case and without a port";
    let text = field.text(expected)?;
    if text.parse::<IpAddr>().is_ok() || (is_host(&text) && !text.contains(':')) {
        return Some(text);
    }
    field.problem(format!("expected {expected}"));
    None
}

/// `registry.example.com`, or `*.example.com` for one label in front of a domain, in lower case.
pub(crate) fn pattern(field: &Field<'_>) -> Option<String> {
    let expected = "a host name such as `registry.example.com` or `*.example.com`, in lower case";
    let text = field.text(expected)?;
    let domain = text.strip_prefix("*.").unwrap_or(&text);
    if is_host(domain) && !domain.contains(':') {
        return Some(text);
    }
    field.problem(format!("expected {expected}"));
    None
}

/// A name that DNS is asked for. Services and containers are also named with a `_`.
pub(crate) fn is_dns_name(text: &str) -> bool {
    is_host(&text.replace('_', "u").to_lowercase()) && !text.contains(':')
}

/// Lower-case letters, digits, `-` and `.`, then perhaps a port.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let port_is_fine = port.is_none_or(|port| !port.starts_with(['0', '+']) && port.parse::<u16>().is_ok());
    name.len() <= LIMIT && port_is_fine && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&label.len()) && label.bytes().all(allowed) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::is_host;

    #[test]
    fn tells_hosts() {
        for good in ["a", "docker.io", "registry-1.docker.io", "localhost:5000", "10.0.0.1:5000"] {
            assert!(is_host(good), "{good}");
        }
        let long = "a.".repeat(130);
        for bad in
            ["", ".", "a.", "A.b", "a_b", "-a", "a-", "a:", "a:x", "a:0", "a:99999", "a:+1", "a:1:2", "a/b", &long]
        {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
