//! New repositories.

use pierhead_registry::oci::RepositoryName;
use serde_json::json;

use super::{Registry, RegistryError};
use crate::meta::{Action, MetaError, Performer, Visibility, now};

impl Registry {
    /// Makes a repository, private, because somebody pushes to it. `None`: somebody else was faster, and whether one may push there is to
    /// be asked anew.
    pub(crate) async fn create_by_push(
        &self,
        namespace: i64,
        name: &RepositoryName,
        creator: i64,
        performer: &Performer,
    ) -> Result<Option<i64>, RegistryError> {
        let create = async {
            let change = self.meta.change().await?;
            let made = change.insert_repository(namespace, name.as_str(), Visibility::Private, "").await?;
            change.grant_defaults(made.id, namespace, creator).await?;
            let action = Action::in_repository("create_repo", name.as_str(), json!({ "via": "push" }));
            change.log(performer, action, now()).await?;
            change.commit().await?;
            Ok(made.id)
        };
        match create.await {
            Err(MetaError::Exists) => Ok(None),
            made => Ok(Some(made?)),
        }
    }
}
