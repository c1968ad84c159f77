//! Scopes of application tokens, and robot tokens that can be read again.

use sea_orm::DbErr;
use sea_orm::sea_query::{ColumnDef, Query, Table};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager, async_trait};

pub(super) struct Tokens;

impl MigrationName for Tokens {
    fn name(&self) -> &'static str {
        "m0002_tokens"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Tokens {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, mut column) in [
            // Without a value: a token of the time before scopes.
            ("app_token", ColumnDef::new("scopes").string().null().take()),
            // Without a value: the token was shown once and is kept as a hash alone.
            ("account", ColumnDef::new("token_sealed").blob().null().take()),
        ] {
            let mut change = Table::alter();
            manager.alter_table(change.table(table).add_column(&mut column).take()).await?;
        }
        let key = rand::random::<[u8; 32]>().to_vec();
        let mut secret = Query::insert();
        secret.into_table("secret").columns(["name", "value"]).values_panic(["robots".into(), key.into()]);
        manager.execute(secret.take()).await?;
        Ok(())
    }
}
