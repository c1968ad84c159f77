//! How much the store may take: the configured size, or what the disk can give where that is less. Pure.
//!
//! A disk that is smaller than `max_size` is a limit like `max_size`: what is old makes room for what is new. Some of the
//! disk stays free, for the index and for other programs; of the files that it can have, too.

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
    /// How many files it can have; 0: it does not say, or there is no such limit.
    pub(crate) files: u64,
    /// How many more files it can have.
    pub(crate) free_files: u64,
}

/// What the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    /// Files and directories.
    pub(crate) files: u64,
}

impl Disk {
    /// The disk that a path is on, or will be once it is made.
    pub(crate) fn of(path: &Path) -> io::Result<Disk> {
        let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
        let found = rustix::fs::statvfs(there)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Disk {
            size: bytes(found.f_blocks),
            free: bytes(found.f_bavail),
            files: found.f_files,
            free_files: found.f_favail,
        })
    }

    /// What stays free of it.
    pub(crate) fn min_free(&self, configured: Option<u64>) -> u64 {
        configured.unwrap_or_else(|| (self.size / 100).clamp(LEAST_FREE, MOST_FREE))
    }

    /// Most bytes of content that it can hold, with those that are there already. Where it lacks files, it can hold less
    /// than it does: as much less as the files take that must go, at the size of an average one.
    pub(crate) fn capacity(&self, held: Held, min_free: Option<u64>) -> u64 {
        let bytes = held.bytes.saturating_add(self.free).saturating_sub(self.min_free(min_free));
        let lacking = (self.files / 100).saturating_sub(self.free_files);
        if lacking == 0 {
            return bytes;
        }
        let average = held.bytes.div_ceil(held.files.max(1));
        bytes.min(held.bytes.saturating_sub(average.saturating_mul(lacking)))
    }
}

/// A share of the store, in bytes.
pub(super) fn share(limit: u64, percent: u8) -> u64 {
    limit / 100 * u64::from(percent) + limit % 100 * u64::from(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::{Disk, Held, share};

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
            let disk = Disk { size, free, files: 0, free_files: 0 };
            let held = Held { bytes: held, files: 1 };
            assert_eq!(disk.capacity(held, min_free), expected, "{disk:?} {held:?} {min_free:?}");
        }
    }

    #[test]
    fn a_disk_that_lacks_files_holds_less_than_is_there() {
        for (files, free_files, held, expected) in [
            (1000, 500, (100, 10), 1100),
            (1000, 10, (100, 10), 1100),
            (1000, 9, (100, 10), 90),
            (1000, 6, (100, 10), 60),
            (1000, 0, (100, 10), 0),
            (1000, 0, (0, 0), 0),
            (0, 0, (100, 10), 1100),
        ] {
            let disk = Disk { size: 2000, free: 1000, files, free_files };
            let held = Held { bytes: held.0, files: held.1 };
            assert_eq!(disk.capacity(held, Some(0)), expected, "{disk:?} {held:?}");
        }
    }

    #[test]
    fn shares_do_not_overflow() {
        assert_eq!(share(1000, 80), 800);
        assert_eq!(share(999, 50), 499);
        assert_eq!(share(u64::MAX, 100), u64::MAX);
    }
}
