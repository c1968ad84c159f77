//! How the tables came to be, step by step. A step that was released is never changed: databases have taken it.

mod m0001_first;
mod m0002_tokens;
mod m0003_upload_account;

use sea_orm_migration::{MigrationTrait, MigratorTrait};

/// All steps, in order.
pub(super) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_first::First),
            Box::new(m0002_tokens::Tokens),
            Box::new(m0003_upload_account::UploadAccount),
        ]
    }
}
