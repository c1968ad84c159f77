//! Which callers a registry authorised for a repository: one small file of it, so that a permission outlives the index.
//!
//! Invariants: a caller is a keyed hash of a credential, never the credential; the file holds the [`CALLERS`] newest
//! permissions at most; it is written whole or not at all. Times are of the day they were written: they only decide
//! which permissions are too old to count.

use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Tree, read_small};
use crate::cache::RepositoryId;
use crate::cache::records::Written;

/// Most callers of one repository.
const CALLERS: usize = 10_000;

/// A caller's hash, and when it was last authorised, in seconds since 1970.
type Permissions = HashMap<[u8; 32], u64>;

impl Tree {
    /// Keeps (`Some`) or forgets (`None`) that a caller is authorised. Returns, too, the callers that there is no room for.
    pub(in crate::cache) fn write_caller(
        &self,
        id: &RepositoryId,
        caller: &[u8; 32],
        when: Option<SystemTime>,
    ) -> io::Result<(Written, Vec<[u8; 32]>)> {
        let path = self.layout.callers(id);
        let _alone = self.callers.lock();
        let mut permissions = match read_small(&path) {
            Ok(bytes) => parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Permissions::new(),
            Err(error) => return Err(error),
        };
        match when {
            Some(when) => {
                permissions.insert(*caller, when.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
            }
            None if permissions.remove(caller).is_none() => return Ok(Default::default()),
            None => {}
        }
        if permissions.is_empty() {
            return Ok((Written { before: self.remove_record(&path)?, after: 0 }, Vec::new()));
        }
        let (text, dropped) = text(&permissions);
        Ok((self.write_record(&path, &[text.as_bytes()])?, dropped))
    }

    /// All callers that are authorised for a repository.
    pub(in crate::cache) fn callers(&self, id: &RepositoryId) -> Vec<([u8; 32], SystemTime)> {
        let permissions = read_small(&self.layout.callers(id)).map(|bytes| parse(&bytes)).unwrap_or_default();
        let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        permissions.into_iter().filter_map(|(caller, seconds)| Some((caller, time(seconds)?))).collect()
    }

    /// Forgets all callers of a repository. Returns what they took.
    pub(in crate::cache) fn remove_callers(&self, id: &RepositoryId) -> io::Result<u64> {
        let _alone = self.callers.lock();
        self.remove_record(&self.layout.callers(id))
    }
}

/// A line that cannot be read is a permission that is lost: the registry is asked again.
fn parse(bytes: &[u8]) -> Permissions {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let line = |line: &str| {
        let (caller, seconds) = line.split_once(' ')?;
        Some((URL_SAFE_NO_PAD.decode(caller).ok()?.try_into().ok()?, seconds.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// The newest first, and no more than there may be; and whose are left out.
fn text(permissions: &Permissions) -> (String, Vec<[u8; 32]>) {
    let mut newest: Vec<_> = permissions.iter().collect();
    newest.sort_unstable_by_key(|(caller, seconds)| (std::cmp::Reverse(**seconds), **caller));
    let mut text = String::with_capacity(80 * newest.len().min(CALLERS));
    for (caller, seconds) in newest.iter().take(CALLERS) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {seconds}", URL_SAFE_NO_PAD.encode(caller));
    }
    (text, newest.into_iter().skip(CALLERS).map(|(caller, _)| *caller).collect())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::{CALLERS, Permissions, parse, text};

    #[test]
    fn the_newest_permissions_are_kept_and_read_again() {
        let caller = |number: u64| {
            let mut caller = [0xab; 32];
            caller[..8].copy_from_slice(&number.to_be_bytes());
            caller
        };
        let many: Permissions = (0..CALLERS as u64 + 5).map(|number| (caller(number), 1000 + number)).collect();
        let (text, dropped) = text(&many);
        let kept = parse(text.as_bytes());
        assert_eq!((kept.len(), dropped.len()), (CALLERS, 5));
        assert!((0..5).all(|number| dropped.contains(&caller(number))));
        assert!((0..5).all(|number| !kept.contains_key(&caller(number))));
        assert_eq!(kept[&caller(7)], 1007);
        let [zeroes, ones] = [[0; 32], [1; 32]].map(|caller: [u8; 32]| URL_SAFE_NO_PAD.encode(caller));
        let broken = format!("x 1\n{zeroes} 5\n{ones} x\n\n");
        assert_eq!(parse(broken.as_bytes()), Permissions::from([([0; 32], 5)]));
        assert!(parse(&[0xff, 0xfe]).is_empty());
    }
}
