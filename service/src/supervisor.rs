//! What systemd is told, where it is there: nothing of this matters to a program that runs without it.
//!
//! Invariant: only the process that serves says that it is ready, and only one that was told to stop says that it stops:
//! one that has been taken over ends without a word, or the service would be taken for stopped.

use std::time::Duration;

use sd_notify::NotifyState;

/// How often within its limit the watchdog hears of us.
const BEATS: u32 = 3;

/// Serving.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Reading the configuration again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
}

/// Told to stop.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing what is running")]);
}

/// Another process serves from here on.
pub fn taken_over_by(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

/// Shows the watchdog, where there is one, that tasks still run. The beat comes from a task like any other: when the
/// runtime is stuck, so is it.
pub fn beat() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let every = (limit / BEATS).max(Duration::from_millis(1));
    tokio::spawn(async move {
        loop {
            tell(&[NotifyState::Watchdog]);
            tokio::time::sleep(every).await;
        }
    });
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
