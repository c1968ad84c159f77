//! What this edge is called in `CDN-Loop`, so that it knows its own requests when they come back.
//!
//! The id is the store's: a process that takes over has the id of the process before it. A copy of the store on another
//! machine, or elsewhere on this one, is another edge's, and must not look like this one. So host name and path count, too.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aws_lc_rs::hmac;
use pierhead_registry::client::EdgeId;

/// Derives the id from a secret of the store, its path and the host name.
pub(super) fn derive(secret: &[u8; 32], store: &Path) -> EdgeId {
    // Without it, the path still counts.
    let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    from(secret, &host, store)
}

fn from(secret: &[u8; 32], host: &[u8], store: &Path) -> EdgeId {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    for part in [b"CDN-Loop", host, store.as_os_str().as_bytes()] {
        context.update(part);
        context.update(&[0]);
    }
    let mut id = [0; 16];
    let tag = context.sign();
    id.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    EdgeId::new(id)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::from;

    #[test]
    fn a_copy_of_a_store_is_another_edge() {
        let id = from(&[7; 32], b"one", Path::new("/cache"));
        assert_eq!(id, from(&[7; 32], b"one", Path::new("/cache")));
        for (secret, host, store) in [(8, "one", "/cache"), (7, "two", "/cache"), (7, "one", "/copy")] {
            assert_ne!(id, from(&[secret; 32], host.as_bytes(), Path::new(store)), "{secret} {host} {store}");
        }
    }
}
