//! What operators may ask of the edge as a whole. Who carries it out knows all of it, and so nobody here may know him.

use std::time::SystemTime;

use async_trait::async_trait;

/// Carries out what operators ask for.
#[async_trait]
pub(crate) trait Control: Send + Sync + 'static {
    /// Which configuration is in use.
    fn status(&self) -> Status;

    /// Reads the configuration again. What is wrong with it, a line each, is the error; then nothing has changed.
    async fn reload(&self) -> Result<Status, Vec<String>>;

    /// Has the program that now lies where this one was started from take over. On success this process finishes what is
    /// running, and ends.
    async fn upgrade(&self) -> Result<Status, Vec<String>>;
}

/// Which configuration is in use, and what came of the last look at the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Counted from the start; the first is 1.
    pub(crate) generation: u64,
    /// Since when.
    pub(crate) since: SystemTime,
    /// When the file was last read.
    pub(crate) looked: SystemTime,
    /// What was wrong with it then. Empty: it is the one in use.
    pub(crate) problems: Vec<String>,
}
