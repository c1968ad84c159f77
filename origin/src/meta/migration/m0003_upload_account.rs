//! Which account began an upload, so that an account cannot have any number of them open.

use sea_orm::DbErr;
use sea_orm::sea_query::{Index, Table};
use sea_orm_migration::schema::string_null;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager, async_trait};

pub(super) struct UploadAccount;

impl MigrationName for UploadAccount {
    fn name(&self) -> &'static str {
        "m0003_upload_account"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for UploadAccount {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("upload").add_column(string_null("account")).take()).await?;
        let mut index = Index::create().name("upload_account").table("upload").col("account").col("touched").take();
        manager.create_index(index.take()).await
    }
}
