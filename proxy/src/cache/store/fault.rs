//! What an error of the file system is a fault of. Pure.
//!
//! Only what concerns the disk as a whole keeps content from being stored. All else is the fault of one blob, of its claimed
//! length for example, or of this process for a moment: that blob is served past the store, and others are stored.

use std::io::{Error, ErrorKind};

use rustix::io::Errno;

/// What is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Fault {
    /// One blob, or one attempt.
    Blob,
    /// The disk: nothing can be stored.
    Disk,
}

/// Sorts an error.
pub(in crate::cache) fn fault(error: &Error) -> Fault {
    let of_the_disk = [
        Errno::IO,
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::ROFS,
        Errno::ACCESS,
        Errno::PERM,
        // The tree is gone.
        Errno::NOENT,
        // The device, or its server, is gone or damaged.
        Errno::NODEV,
        Errno::NXIO,
        Errno::NOMEDIUM,
        Errno::STALE,
        Errno::TIMEDOUT,
        Errno::HOSTDOWN,
        Errno::NOTCONN,
        Errno::REMOTEIO,
        Errno::BADMSG,
        Errno::UCLEAN,
    ];
    let disk = match Errno::from_io_error(error) {
        Some(errno) => of_the_disk.contains(&errno),
        None => matches!(
            error.kind(),
            ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::PermissionDenied
                | ErrorKind::StaleNetworkFileHandle
        ),
    };
    if disk { Fault::Disk } else { Fault::Blob }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use rustix::io::Errno;

    use super::{Fault, fault};

    #[test]
    fn only_the_disk_is_at_fault_for_what_concerns_it() {
        for (errno, expected) in [
            (Errno::NOSPC, Fault::Disk),
            (Errno::IO, Fault::Disk),
            (Errno::ROFS, Fault::Disk),
            (Errno::DQUOT, Fault::Disk),
            (Errno::ACCESS, Fault::Disk),
            (Errno::STALE, Fault::Disk),
            (Errno::UCLEAN, Fault::Disk),
            (Errno::FBIG, Fault::Blob),
            (Errno::OVERFLOW, Fault::Blob),
            (Errno::INVAL, Fault::Blob),
            (Errno::NAMETOOLONG, Fault::Blob),
            (Errno::LOOP, Fault::Blob),
            (Errno::ISDIR, Fault::Blob),
            (Errno::MFILE, Fault::Blob),
            (Errno::NFILE, Fault::Blob),
            (Errno::NOMEM, Fault::Blob),
            (Errno::INTR, Fault::Blob),
        ] {
            assert_eq!(fault(&Error::from(errno)), expected, "{errno:?}");
        }
        for (kind, expected) in [
            (ErrorKind::StorageFull, Fault::Disk),
            (ErrorKind::ReadOnlyFilesystem, Fault::Disk),
            (ErrorKind::UnexpectedEof, Fault::Blob),
            (ErrorKind::Other, Fault::Blob),
        ] {
            assert_eq!(fault(&Error::from(kind)), expected, "{kind:?}");
        }
    }
}
