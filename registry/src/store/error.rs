//! What can go wrong with a store, by whose fault it is and whether trying again can help.

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or says that it cannot now: trying again later can help.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// It has no room left.
    #[error("the store is full: {0}")]
    Full(String),
    /// It refuses: credentials, permissions, a bucket that is not there. Trying again does not help.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// What the store has of an upload is less than its checkpoint says, or nothing.
    #[error("the store has lost this upload")]
    Lost,
    /// Read back, the bytes do not have the digest that they were to be committed under.
    #[error("the content does not have the digest")]
    Mismatch,
    /// What it answers makes no sense.
    #[error("the store misbehaves: {0}")]
    Broken(String),
}
