//! The keys that sign tokens. The private halves are here and in the memory of nodes, nowhere else.

use sea_orm::ActiveValue::Set;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseBackend, EntityTrait, QueryFilter, QueryOrder, Select,
};

use super::entity::service::service_key;
use super::{Change, Meta, MetaError, Millis};

pub(crate) use super::entity::service::service_key::Model as ServiceKey;

/// The key of the lock under which keys are made; any number that no other program uses in the same database.
const ROTATION_LOCK: i64 = 0x7069_6572_6b65;

impl Meta {
    /// The keys that are still published, the newest last.
    pub(crate) async fn service_keys(&self, now: Millis) -> Result<Vec<ServiceKey>, MetaError> {
        Ok(published(now).all(&self.connections).await?)
    }
}

impl Change {
    /// The same, with nobody else at it until this change ends.
    pub(crate) async fn service_keys(&self, now: Millis) -> Result<Vec<ServiceKey>, MetaError> {
        // SQLite has one writer anyway.
        if self.transaction.get_database_backend() == DatabaseBackend::Postgres {
            self.transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({ROTATION_LOCK})")).await?;
        }
        Ok(published(now).all(&self.transaction).await?)
    }

    /// Keeps a key.
    pub(crate) async fn add_service_key(&self, key: ServiceKey) -> Result<(), MetaError> {
        let row = service_key::ActiveModel {
            kid: Set(key.kid),
            algorithm: Set(key.algorithm),
            private_key: Set(key.private_key),
            public_key: Set(key.public_key),
            created: Set(key.created),
            signs_from: Set(key.signs_from),
            signs_until: Set(key.signs_until),
            published_until: Set(key.published_until),
        };
        row.insert(&self.transaction).await?;
        Ok(())
    }
}

fn published(now: Millis) -> Select<service_key::Entity> {
    service_key::Entity::find()
        .filter(service_key::Column::PublishedUntil.gt(now))
        .order_by_asc(service_key::Column::SignsFrom)
        .order_by_asc(service_key::Column::Kid)
}
