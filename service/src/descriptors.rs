//! Open files: a program with many clients needs more than the usual soft limit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes all the descriptors that the system allows: the usual soft limit of 1024 is there for programs that use `select`,
/// and would end a server with a few hundred clients. Says so when they are fewer than `wanted`.
pub fn raise_limit(wanted: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    if let Some(allowed) = getrlimit(Resource::Nofile).current
        && allowed < wanted
    {
        tracing::warn!(allowed, wanted, "fewer open files are allowed than max_connections may need");
    }
}
