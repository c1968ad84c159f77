//! Who there is: users, organisations and robots in one table, since their names share one space; teams; application tokens.

use sea_orm::entity::prelude::*;

/// What an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum AccountKind {
    /// A person, with a password and a namespace.
    #[sea_orm(num_value = 0)]
    User,
    /// A namespace that teams share. Nobody logs in as it.
    #[sea_orm(num_value = 1)]
    Organization,
    /// A machine of a user or organisation, named `owner+name`, with a token.
    #[sea_orm(num_value = 2)]
    Robot,
}

/// Whether an account stands above the rights of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum Superuser {
    /// No.
    #[sea_orm(num_value = 0)]
    No,
    /// It may read everything.
    #[sea_orm(num_value = 1)]
    ReadOnly,
    /// It may do everything.
    #[sea_orm(num_value = 2)]
    Full,
}

/// What members of a team may do in its organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum TeamRole {
    /// What the team was given in repositories.
    #[sea_orm(num_value = 0)]
    Member,
    /// Create repositories as well.
    #[sea_orm(num_value = 1)]
    Creator,
    /// Everything.
    #[sea_orm(num_value = 2)]
    Admin,
}

/// `account`
pub mod account {
    use sea_orm::entity::prelude::*;

    use super::{AccountKind, Superuser};

    /// A user, organisation or robot.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "account")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        /// Unique among all kinds.
        pub name: String,
        pub kind: AccountKind,
        pub email: Option<String>,
        /// Argon2, in PHC format: users only.
        pub password: Option<String>,
        /// Whose robot it is.
        pub owner_id: Option<i64>,
        /// SHA-256 of a robot's token, in hexadecimal.
        pub token_hash: Option<String>,
        /// A robot's token, sealed: only where it may be read again.
        pub token_sealed: Option<Vec<u8>>,
        pub description: String,
        pub superuser: Superuser,
        pub enabled: bool,
        /// When the password was last changed by somebody: guesses before it are forgotten.
        pub password_set: Option<i64>,
        pub last_login: Option<i64>,
        pub created: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `team`
pub mod team {
    use sea_orm::entity::prelude::*;

    use super::TeamRole;

    /// A team of an organisation.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "team")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub organization_id: i64,
        /// Unique in its organisation.
        pub name: String,
        pub role: TeamRole,
        pub description: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `team_member`
pub mod team_member {
    use sea_orm::entity::prelude::*;

    /// A user or robot in a team.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "team_member")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub team_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub account_id: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `app_token`
pub mod app_token {
    use sea_orm::entity::prelude::*;

    /// A token that stands for a user where a password would.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "app_token")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        /// Its public name, unique.
        pub uuid: String,
        pub account_id: i64,
        pub title: String,
        /// SHA-256 of the token, in hexadecimal, unique.
        pub token_hash: String,
        pub created: i64,
        pub last_accessed: Option<i64>,
        pub expires: Option<i64>,
        /// What it may do, separated by spaces. `None`: it was made without scopes.
        pub scopes: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
