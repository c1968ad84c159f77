//! Whether the database answers.

use super::{Meta, MetaError};

impl Meta {
    /// Asks for nothing, over a connection like all others.
    pub(crate) async fn ping(&self) -> Result<(), MetaError> {
        Ok(self.connections.ping().await?)
    }
}
