//! What the service itself keeps: the keys of its tokens, and who did what.

/// `service_key`
pub mod service_key {
    use sea_orm::entity::prelude::*;

    /// A key that signs tokens, or did.
    #[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "service_key")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub kid: String,
        /// `ES256` or `RS256`.
        pub algorithm: String,
        /// PKCS #8, DER.
        pub private_key: Vec<u8>,
        /// The public half, a JWK.
        pub public_key: String,
        pub created: i64,
        /// From when on it signs: by then every node has published it.
        pub signs_from: i64,
        /// Until when it signs.
        pub signs_until: i64,
        /// Until when it is published: longer than the last token that it signed.
        pub published_until: i64,
    }

    // The private key must not be printed by accident.
    impl std::fmt::Debug for Model {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("ServiceKey").field("kid", &self.kid).finish_non_exhaustive()
        }
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `action`
pub mod action {
    use sea_orm::entity::prelude::*;

    /// Somebody did something. Names are kept as text: the line outlives what it is about.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "action")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        /// Quay's word for it: `push_repo`, `delete_tag`, ….
        pub kind: String,
        pub at: i64,
        /// Whose namespace it was about.
        pub namespace: Option<String>,
        /// The repository's whole name.
        pub repository: Option<String>,
        /// `None`: anonymous.
        pub performer: Option<String>,
        /// The client's address.
        pub ip: Option<String>,
        /// What else there is to know: JSON, Quay's keys.
        pub metadata: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
