//! What repositories hold: manifests, tags with their history, blobs, uploads.

use sea_orm::entity::prelude::*;

/// What is known of a blob's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum BlobState {
    /// Somebody is about to commit them. They may be in the store or not.
    #[sea_orm(num_value = 0)]
    Arriving,
    /// The store has them.
    #[sea_orm(num_value = 1)]
    Present,
    /// Garbage collection takes them away. They may be in the store or not.
    #[sea_orm(num_value = 2)]
    Leaving,
}

/// `manifest`
pub mod manifest {
    use sea_orm::entity::prelude::*;

    /// A manifest or index of one repository.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "manifest")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub repository_id: i64,
        /// Unique in its repository.
        pub digest: String,
        pub media_type: String,
        /// `artifactType`, or the configuration's media type: what referrers are filtered by.
        pub artifact_type: Option<String>,
        /// The digest that it is about, which need not be there.
        pub subject: Option<String>,
        pub content: Vec<u8>,
        pub size: i64,
        /// The blobs that it names, each once.
        pub layers_size: i64,
        /// When it was last pushed.
        pub pushed: i64,
        /// Since when it is gone for all but the time machine.
        pub deleted: Option<i64>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `manifest_blob`
pub mod manifest_blob {
    use sea_orm::entity::prelude::*;

    /// A manifest needs a blob.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "manifest_blob")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub manifest_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub blob_id: i64,
        /// The manifest's.
        pub repository_id: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `manifest_child`
pub mod manifest_child {
    use sea_orm::entity::prelude::*;

    /// An index needs a manifest.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "manifest_child")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub manifest_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub child_id: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `tag`
pub mod tag {
    use sea_orm::entity::prelude::*;

    /// A tag's time on one manifest. The one without an end is the tag as it is; the others are its history.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "tag")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub repository_id: i64,
        pub name: String,
        pub manifest_id: i64,
        pub started: i64,
        pub ended: Option<i64>,
        /// Whether the time machine brought it back.
        pub reversion: bool,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `blob`
pub mod blob {
    use sea_orm::entity::prelude::*;

    use super::BlobState;

    /// A blob in the store, whoever holds it.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "blob")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        /// Unique.
        pub digest: String,
        pub size: i64,
        pub state: BlobState,
        /// When its state last changed.
        pub changed: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `repository_blob`
pub mod repository_blob {
    use sea_orm::entity::prelude::*;

    /// A repository holds a blob: what may be pulled from it and mounted from it.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "repository_blob")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub repository_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub blob_id: i64,
        /// Until when it does so without a manifest that needs the blob.
        pub expires: i64,
        /// Whether it was deleted: nobody can pull it, and garbage collection need not wait.
        pub deleted: bool,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `upload`
pub mod upload {
    use sea_orm::entity::prelude::*;

    /// A push of one blob, as it was at its last checkpoint.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "upload")]
    pub struct Model {
        /// A UUID.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub repository_id: i64,
        /// How many bytes are safe.
        pub length: i64,
        /// What the store must know to go on; `None`: nothing was written yet.
        pub checkpoint: Option<String>,
        /// `sha256` or `sha512`: what is being computed.
        pub algorithm: String,
        /// The state of that computation after `length` bytes.
        pub hash: Vec<u8>,
        pub created: i64,
        /// When it last made progress.
        pub touched: i64,
        /// Who writes it: one request at a time.
        pub writer: Option<String>,
        /// Until when that is believed without a sign of life.
        pub writer_until: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
