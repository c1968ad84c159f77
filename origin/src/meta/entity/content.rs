//! Of what repositories hold, what is read as a whole: uploads, and the state of a blob. The rest is read by statements that name
//! what they want.

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
        /// The account that began it, a robot's as its owner's. `None`: it began before this was written down.
        pub account: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
