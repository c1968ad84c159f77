//! Default permissions of organisations, which their new repositories begin with. Quay calls them prototypes.

use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::entity::repositories::{Role, default_permission};
use super::permissions::Grantee;
use super::{Change, Meta, MetaError};

pub(crate) use super::entity::repositories::default_permission::Model as DefaultPermission;

impl Meta {
    /// An organisation's default permissions, in the order in which they were made.
    pub(crate) async fn default_permissions(
        &self,
        organization: i64,
        limit: u64,
    ) -> Result<Vec<DefaultPermission>, MetaError> {
        let query = default_permission::Entity::find()
            .filter(default_permission::Column::OrganizationId.eq(organization))
            .order_by_asc(default_permission::Column::Id)
            .limit(limit);
        Ok(query.all(&self.connections).await?)
    }

    /// One of them, by its public name.
    pub(crate) async fn default_permission(
        &self,
        organization: i64,
        uuid: &str,
    ) -> Result<Option<DefaultPermission>, MetaError> {
        let query = default_permission::Entity::find()
            .filter(default_permission::Column::OrganizationId.eq(organization))
            .filter(default_permission::Column::Uuid.eq(uuid));
        Ok(query.one(&self.connections).await?)
    }
}

impl Change {
    /// Makes one; `activating`: only for repositories that this account creates.
    pub(crate) async fn create_default_permission(
        &self,
        uuid: String,
        organization: i64,
        activating: Option<i64>,
        who: Grantee,
        role: Role,
    ) -> Result<DefaultPermission, MetaError> {
        let (account_id, team_id) = match who {
            Grantee::Account(id) => (Some(id), None),
            Grantee::Team(id) => (None, Some(id)),
        };
        let row = default_permission::ActiveModel {
            uuid: Set(uuid),
            organization_id: Set(organization),
            activating_id: Set(activating),
            account_id: Set(account_id),
            team_id: Set(team_id),
            role: Set(role),
            ..Default::default()
        };
        Ok(row.insert(&self.transaction).await?)
    }

    /// Changes its role.
    pub(crate) async fn edit_default_permission(&self, id: i64, role: Role) -> Result<(), MetaError> {
        let row = default_permission::ActiveModel { role: Set(role), ..Default::default() };
        let edit = default_permission::Entity::update_many().set(row).filter(default_permission::Column::Id.eq(id));
        edit.exec(&self.transaction).await?;
        Ok(())
    }

    /// Takes it away. What repositories got by it stays.
    pub(crate) async fn delete_default_permission(&self, id: i64) -> Result<(), MetaError> {
        default_permission::Entity::delete_by_id(id).exec(&self.transaction).await?;
        Ok(())
    }
}
