//! Pipes that bulk is moved through.
//!
//! Invariants: there is a limited number of them, for each takes two descriptors and memory of the kernel's; who gets
//! none copies. A pipe that is used again is empty.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// How much one holds, if the system allows.
const SIZE: usize = 256 * 1024;

/// How many there may be: at most 64 MiB in all, which is also what Linux grants to a user who is not root.
const MOST: usize = 256;

/// How many are kept for the next.
const KEPT: usize = 32;

static OPEN: AtomicUsize = AtomicUsize::new(0);
static SPARE: Mutex<Vec<Arc<Ends>>> = Mutex::new(Vec::new());

/// A pipe, in use.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Arc<Ends>,
    /// How many bytes are in it.
    pub(super) held: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
}

impl Pipe {
    /// One that is empty, unless there are too many.
    pub(super) fn take() -> Option<Pipe> {
        let spare = SPARE.lock().pop();
        let ends = spare.or_else(|| Ends::open().map(Arc::new))?;
        Some(Pipe { ends, held: 0 })
    }

    /// Where it is read.
    pub(super) fn read(&self) -> &OwnedFd {
        &self.ends.read
    }

    /// Where it is written.
    pub(super) fn write(&self) -> &OwnedFd {
        &self.ends.write
    }

    /// How much fits in.
    pub(super) fn size(&self) -> usize {
        self.ends.size
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.held == 0 {
            let mut spare = SPARE.lock();
            if spare.len() < KEPT {
                spare.push(Arc::clone(&self.ends));
            }
        }
    }
}

impl Ends {
    fn open() -> Option<Ends> {
        if OPEN.fetch_add(1, Ordering::Relaxed) >= MOST {
            OPEN.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let opened = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).and_then(|(read, write)| {
            // Past a user's share, the system keeps pipes small: they still serve.
            let size = fcntl_setpipe_size(&write, SIZE).or_else(|_| fcntl_getpipe_size(&write))?;
            Ok(Ends { read, write, size })
        });
        if opened.is_err() {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
        opened.ok()
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_is_used_again_is_empty() {
        let mut pipe = Pipe::take().unwrap();
        rustix::io::write(pipe.write(), b"left").unwrap();
        pipe.held = 4;
        drop(pipe);
        let pipes: Vec<Pipe> = std::iter::from_fn(Pipe::take).take(KEPT + 1).collect();
        for pipe in &pipes {
            let found = rustix::io::read(pipe.read(), &mut [0_u8; 4]);
            assert_eq!(found, Err(rustix::io::Errno::AGAIN));
        }
    }
}
