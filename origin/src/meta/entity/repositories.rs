//! Repositories and who may do what in them.

use sea_orm::entity::prelude::*;

/// Who may pull without a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum Visibility {
    /// Nobody.
    #[sea_orm(num_value = 0)]
    Private,
    /// Everybody.
    #[sea_orm(num_value = 1)]
    Public,
}

/// What may be done with a repository, whatever one's rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum RepositoryState {
    /// Everything.
    #[sea_orm(num_value = 0)]
    Normal,
    /// It may be pulled.
    #[sea_orm(num_value = 1)]
    ReadOnly,
    /// It is gone; garbage collection takes away what it held. Its name is free: it has one here that nobody can ask for.
    #[sea_orm(num_value = 2)]
    Deleted,
}

/// What a permission lets one do in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum Role {
    /// Pull.
    #[sea_orm(num_value = 0)]
    Read,
    /// Push and delete as well.
    #[sea_orm(num_value = 1)]
    Write,
    /// Everything, the repository's settings and permissions too.
    #[sea_orm(num_value = 2)]
    Admin,
}

/// `repository`
pub mod repository {
    use sea_orm::entity::prelude::*;

    use super::{RepositoryState, Visibility};

    /// A repository.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "repository")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        /// The user or organisation that owns it.
        pub namespace_id: i64,
        /// The whole name, `<namespace>/<rest>`: unique, and what lists are ordered by.
        pub name: String,
        pub visibility: Visibility,
        pub state: RepositoryState,
        pub description: String,
        pub created: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `repository_permission`
pub mod repository_permission {
    use sea_orm::entity::prelude::*;

    use super::Role;

    /// What one account or one team may do: exactly one of both is there.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "repository_permission")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub repository_id: i64,
        pub account_id: Option<i64>,
        pub team_id: Option<i64>,
        pub role: Role,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `default_permission`
pub mod default_permission {
    use sea_orm::entity::prelude::*;

    use super::Role;

    /// A permission that every new repository of an organisation begins with (Quay's prototype).
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "default_permission")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        /// Its public name, unique.
        pub uuid: String,
        pub organization_id: i64,
        /// Only for repositories that this account creates.
        pub activating_id: Option<i64>,
        /// Who gets it: exactly one of both is there.
        pub account_id: Option<i64>,
        pub team_id: Option<i64>,
        pub role: Role,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
