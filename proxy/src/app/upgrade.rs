//! Upgrade: the program that now lies where this one was started from takes over the listening sockets, while this process
//! finishes what it has begun.
//!
//! 1. The new process is started, gets the sockets, checks its configuration, and builds all that needs no store.
//! 2. This one stops accepting (connections wait in the kernel's queues), gives the store away, and says so, and what
//!    it knows of servers: what operators have said, what DNS said last, who is down.
//! 3. The new one opens the store, serves, and says so. This one drains, serves what runs past the store, and ends.
//!
//! Invariants: no connection is refused, for each socket has a holder all the time; two processes never write to one
//! store; whatever goes wrong before the new process serves, it is ended, and this one takes everything back.
//!
//! See `docs/decisions/0003-upgrade.md` for why the edges do this among themselves.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pierhead_service::supervisor;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::channel::{self, Channel, Unheard, Word};
use super::generation::{Foundation, Running};
use crate::pool::Heritage;

/// How long the new process may take to read and check its configuration. This one serves meanwhile.
const START_LIMIT: Duration = Duration::from_secs(25);
/// How long it may take from then on to serve. Clients wait meanwhile.
const SERVE_LIMIT: Duration = Duration::from_secs(30);

/// How long a new process that gave up may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Told by systemd to one process, and not true for another.
const NOT_INHERITED: [&str; 5] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_FDS_FIRST_FD", "WATCHDOG_PID"];

/// The new process, ready but for the store. Dropping it ends it.
pub(super) struct Successor {
    child: Child,
    channel: Channel,
}

/// Starts the new process, and waits until it needs the store.
pub(super) async fn start(program: &Path, config: &Path, running: &Running) -> Result<Successor, String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed("channel"))?;
    channel::send_sockets(&ours, &running.sockets()).map_err(failed("sockets"))?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(config).arg("--take-over");
    command.stdin(Stdio::from(OwnedFd::from(theirs))).kill_on_drop(true);
    for variable in NOT_INHERITED {
        command.env_remove(variable);
    }
    let child = command.spawn().map_err(failed(&program.display().to_string()))?;
    // The command holds the new process's end of the channel, which must have one holder only.
    drop(command);
    let mut successor = Successor { child, channel: Channel::new(ours).map_err(failed("channel"))? };
    match timeout(START_LIMIT, successor.channel.hear(Word::Opening)).await {
        Ok(Ok(())) => Ok(successor),
        Ok(Err(unheard)) => Err(successor.ended(unheard).await),
        Err(_) => Err("the new process took too long to read its configuration".to_owned()),
    }
}

impl Successor {
    /// Gives it the store, and waits until it serves. From here on this process accepts nothing, unless it takes everything
    /// back.
    pub(super) async fn serve(mut self, foundation: &Foundation, running: &Running) -> Result<(), String> {
        foundation.common.drain.pause(true);
        if let Some(cache) = running.cache() {
            cache.release().await.map_err(|error| format!("the store cannot be released: {error}"))?;
        }
        let heritage = running.heritage();
        let serving = async {
            self.channel.say(Word::Released).await?;
            self.channel.tell(&serde_json::to_vec(&heritage).map_err(io::Error::from)?).await?;
            self.channel.hear(Word::Ready).await
        };
        match timeout(SERVE_LIMIT, serving).await {
            Ok(Ok(())) => {}
            Ok(Err(unheard)) => return Err(self.ended(unheard).await),
            Err(_) => {
                self.end().await;
                return Err("the new process took too long to serve".to_owned());
            }
        }
        if let Some(process) = self.child.id() {
            tracing::info!(process, "a new process serves; this one finishes what is running");
            supervisor::taken_over_by(process);
        }
        // It serves whether it hears this or not.
        drop(self.channel.say(Word::Told).await);
        let _left_alone = std::mem::ManuallyDrop::new(self.child);
        Ok(())
    }

    /// Why it does not take over, in its own words where it has any.
    async fn ended(&mut self, unheard: Unheard) -> String {
        // One that said why, or is gone, ends by itself, and how it ended may be all that it says.
        let status = timeout(END_LIMIT, self.child.wait()).await;
        self.end().await;
        match (unheard, status) {
            (Unheard::Refused(reasons), _) => format!("the new process cannot start: {reasons}"),
            (Unheard::Broken(_), Ok(Ok(status))) => format!("the new process ended without a reason: {status}"),
            (Unheard::Broken(error), _) => format!("the new process does not answer as an edge does: {error}"),
        }
    }

    /// Ends it, and waits until it has: it must not hold the store any more.
    async fn end(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "ending the new process");
        }
    }
}

/// The new process's side: this one was started to take over.
pub(super) struct Predecessor {
    channel: Channel,
}

impl Predecessor {
    /// Needs the runtime.
    pub(super) fn new(stream: UnixStream) -> io::Result<Predecessor> {
        Ok(Predecessor { channel: Channel::new(stream)? })
    }

    /// Waits until the store is free, and nobody else obeys operators; what is known of servers. A predecessor that is gone
    /// holds nothing.
    pub(super) async fn store(&mut self) -> Heritage {
        let released = async {
            self.channel.say(Word::Opening).await?;
            self.channel.hear(Word::Released).await?;
            Ok(serde_json::from_slice(&self.channel.listen().await?).map_err(io::Error::from)?)
        };
        released.await.unwrap_or_else(|error: Unheard| {
            tracing::warn!(%error, "the process before has gone, and with it what it knew of servers");
            Heritage::default()
        })
    }

    /// This process serves. Waits until whoever supervises knows.
    pub(super) async fn ready(mut self) {
        let told = async {
            self.channel.say(Word::Ready).await?;
            self.channel.hear(Word::Told).await
        };
        if !matches!(timeout(START_LIMIT, told).await, Ok(Ok(()))) {
            tracing::warn!("the process before has gone");
        }
    }
}

/// The channel that a process which is to take over was given as its standard input.
pub(super) fn channel() -> io::Result<UnixStream> {
    use std::os::fd::AsFd;
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}
