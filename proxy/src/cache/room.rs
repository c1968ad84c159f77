//! How much the store may take: the configured size, or what the disk can give where that is less. Pure.
//!
//! A disk that is smaller than `max_size` is a limit like `max_size`: what is old makes room for what is new. Some of the
//! disk stays free, for records, the index, and other programs.

use std::io;
use std::path::Path;

/// What stays free unless the configuration says otherwise: a hundredth of the disk, within these bounds.
const LEAST_FREE: u64 = 1 << 20;
const MOST_FREE: u64 = 1 << 30;

/// A file system, as it is at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// All of it, in bytes.
    pub(crate) size: u64,
    /// What may still be written.
    pub(crate) free: u64,
}

impl Disk {
    /// The disk that a path is on, or will be once it is made.
    pub(crate) fn of(path: &Path) -> io::Result<Disk> {
        let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
        let found = rustix::fs::statvfs(there)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Disk { size: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }

    /// What stays free of it.
    pub(crate) fn min_free(&self, configured: Option<u64>) -> u64 {
        configured.unwrap_or_else(|| (self.size / 100).clamp(LEAST_FREE, MOST_FREE))
    }

    /// Most bytes of content that it can hold, of which `held` are there already.
    pub(crate) fn capacity(&self, held: u64, min_free: Option<u64>) -> u64 {
        held.saturating_add(self.free).saturating_sub(self.min_free(min_free))
    }
}

/// A share of the store, in bytes.
pub(super) fn share(limit: u64, percent: u8) -> u64 {
    limit / 100 * u64::from(percent) + limit % 100 * u64::from(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::{Disk, share};

    #[test]
    fn a_disk_holds_what_is_there_and_what_is_free_but_for_some() {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        for (size, free, held, min_free, expected) in [
            (40 * MIB, 40 * MIB, 0, None, 39 * MIB),
            (40 * MIB, 12 * MIB, 28 * MIB, None, 39 * MIB),
            (40 * MIB, 12 * MIB, 28 * MIB, Some(8 * MIB), 32 * MIB),
            (40 * MIB, 12 * MIB, 28 * MIB, Some(0), 40 * MIB),
            (1024 * GIB, 1024 * GIB, 0, None, 1023 * GIB),
            (40 * MIB, 0, 0, None, 0),
            (40 * MIB, 0, 5 * MIB, None, 4 * MIB),
        ] {
            assert_eq!(Disk { size, free }.capacity(held, min_free), expected, "{size} {free} {held} {min_free:?}");
        }
    }

    #[test]
    fn shares_do_not_overflow() {
        assert_eq!(share(1000, 80), 800);
        assert_eq!(share(999, 50), 499);
        assert_eq!(share(u64::MAX, 100), u64::MAX);
    }
}
