//! The tables of the first version.
//!
//! What must hold is said to the database where it can be: names are unique, a tag has one present, and a blob that a manifest
//! needs cannot be taken away, whatever a worker believes.

use sea_orm::sea_query::{
    ColumnDef, ConditionalStatement, Expr, ExprTrait, ForeignKey, ForeignKeyAction, ForeignKeyCreateStatement, Index,
    IndexCreateStatement, Query, Table, TableCreateStatement,
};
use sea_orm::{DatabaseBackend, DbErr};
use sea_orm_migration::schema::{
    big_integer, big_integer_null, blob, boolean, integer, small_integer, string, string_null, text, text_null,
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager, async_trait};

pub(super) struct First;

impl MigrationName for First {
    fn name(&self) -> &'static str {
        "m0001_first"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for First {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let names = Names { backend: manager.get_database_backend() };
        let tables = accounts(&names).into_iter().chain(repositories(&names)).chain(content(&names)).chain(service());
        for mut table in tables {
            manager.create_table(table.take()).await?;
        }
        for mut index in indexes() {
            manager.create_index(index.take()).await?;
        }
        let logins = rand::random::<[u8; 32]>().to_vec();
        let mut secret = Query::insert();
        secret.into_table("secret").columns(["name", "value"]).values_panic(["logins".into(), logins.into()]);
        manager.execute(secret.take()).await?;
        Ok(())
    }
}

/// Names are compared byte by byte, whatever the language of the database: lists go on from a name, and its index must serve them.
struct Names {
    backend: DatabaseBackend,
}

impl Names {
    fn column(&self, name: &'static str) -> ColumnDef {
        let mut column = string(name);
        if self.backend == DatabaseBackend::Postgres {
            column.extra("COLLATE \"C\"");
        }
        column
    }
}

/// An empty table with a number for each row.
fn numbered(name: &'static str) -> TableCreateStatement {
    let id = big_integer("id").auto_increment().primary_key().take();
    Table::create().table(name).col(id).take()
}

/// A pair of rows of two others, which goes when either does.
fn pair(
    name: &'static str,
    one: (&'static str, &'static str),
    other: (&'static str, &'static str),
) -> TableCreateStatement {
    Table::create()
        .table(name)
        .col(big_integer(one.0))
        .col(big_integer(other.0))
        .primary_key(Index::create().col(one.0).col(other.0))
        .foreign_key(&mut goes_with(name, one.0, one.1))
        .foreign_key(&mut goes_with(name, other.0, other.1))
        .take()
}

/// A column that names a row of another table, and goes with it.
fn goes_with(table: &'static str, column: &'static str, other: &'static str) -> ForeignKeyCreateStatement {
    refers(table, column, other).on_delete(ForeignKeyAction::Cascade).take()
}

/// A column that names a row of another table, and keeps it there.
fn refers(table: &'static str, column: &'static str, other: &'static str) -> ForeignKeyCreateStatement {
    ForeignKey::create().from(table, column).to(other, "id").take()
}

fn accounts(names: &Names) -> Vec<TableCreateStatement> {
    vec![
        numbered("account")
            .col(names.column("name").unique_key())
            .col(small_integer("kind"))
            .col(string_null("email"))
            .col(string_null("password"))
            .col(big_integer_null("owner_id"))
            .col(string_null("token_hash"))
            .col(text("description"))
            .col(small_integer("superuser"))
            .col(boolean("enabled"))
            // Guesses before it are forgotten.
            .col(big_integer_null("password_set"))
            .col(big_integer_null("last_login"))
            .col(big_integer("created"))
            .foreign_key(&mut goes_with("account", "owner_id", "account"))
            .take(),
        numbered("team")
            .col(big_integer("organization_id"))
            .col(names.column("name"))
            .col(small_integer("role"))
            .col(text("description"))
            .foreign_key(&mut goes_with("team", "organization_id", "account"))
            .take(),
        pair("team_member", ("team_id", "team"), ("account_id", "account")),
        numbered("app_token")
            .col(string("uuid").unique_key())
            .col(big_integer("account_id"))
            .col(string("title"))
            .col(string("token_hash").unique_key())
            .col(big_integer("created"))
            .col(big_integer_null("last_accessed"))
            .col(big_integer_null("expires"))
            .foreign_key(&mut goes_with("app_token", "account_id", "account"))
            .take(),
        Table::create()
            .table("login_cell")
            .col(big_integer("cell").primary_key())
            .col(integer("failures"))
            .col(big_integer_null("failed"))
            .col(big_integer_null("succeeded"))
            .take(),
    ]
}

fn repositories(names: &Names) -> Vec<TableCreateStatement> {
    let permission = |table: &mut TableCreateStatement, name: &'static str| {
        table
            .col(big_integer_null("account_id"))
            .col(big_integer_null("team_id"))
            .col(small_integer("role"))
            .foreign_key(&mut goes_with(name, "account_id", "account"))
            .foreign_key(&mut goes_with(name, "team_id", "team"))
            .check(Expr::col("account_id").is_null().ne(Expr::col("team_id").is_null()))
            .take()
    };
    vec![
        numbered("repository")
            .col(big_integer("namespace_id"))
            .col(names.column("name").unique_key())
            .col(small_integer("visibility"))
            .col(small_integer("state"))
            .col(text("description"))
            .col(big_integer("created"))
            .foreign_key(&mut refers("repository", "namespace_id", "account"))
            .take(),
        permission(
            numbered("repository_permission").col(big_integer("repository_id")).foreign_key(&mut goes_with(
                "repository_permission",
                "repository_id",
                "repository",
            )),
            "repository_permission",
        ),
        permission(
            numbered("default_permission")
                .col(string("uuid").unique_key())
                .col(big_integer("organization_id"))
                .col(big_integer_null("activating_id"))
                .foreign_key(&mut goes_with("default_permission", "organization_id", "account"))
                .foreign_key(&mut goes_with("default_permission", "activating_id", "account")),
            "default_permission",
        ),
        pair("star", ("account_id", "account"), ("repository_id", "repository")),
    ]
}

fn content(names: &Names) -> Vec<TableCreateStatement> {
    vec![
        numbered("blob")
            .col(string("digest").unique_key())
            .col(big_integer("size"))
            .col(small_integer("state"))
            // While it leaves: until when whoever takes it away may still delete the object.
            .col(big_integer("leaving_until"))
            .take(),
        Table::create()
            .table("repository_blob")
            .col(big_integer("repository_id"))
            .col(big_integer("blob_id"))
            // Until when it is held without a manifest that needs it.
            .col(big_integer("expires"))
            // Nobody can pull it; the manifest that needs it is deleted too, and may come back.
            .col(boolean("deleted"))
            .primary_key(Index::create().col("repository_id").col("blob_id"))
            .foreign_key(&mut refers("repository_blob", "repository_id", "repository"))
            .foreign_key(&mut refers("repository_blob", "blob_id", "blob"))
            .take(),
        numbered("manifest")
            .col(big_integer("repository_id"))
            .col(string("digest"))
            .col(string("media_type"))
            .col(string_null("artifact_type"))
            .col(string_null("subject"))
            .col(blob("content"))
            .col(big_integer("size"))
            .col(big_integer("layers_size"))
            // The last time.
            .col(big_integer("pushed"))
            // Since when it is gone for all but the time machine.
            .col(big_integer_null("deleted"))
            .foreign_key(&mut refers("manifest", "repository_id", "repository"))
            .take(),
        Table::create()
            .table("manifest_blob")
            .col(big_integer("manifest_id"))
            .col(big_integer("blob_id"))
            .col(big_integer("repository_id"))
            .primary_key(Index::create().col("manifest_id").col("blob_id"))
            .foreign_key(&mut goes_with("manifest_blob", "manifest_id", "manifest"))
            .foreign_key(&mut refers("manifest_blob", "blob_id", "blob"))
            .take(),
        Table::create()
            .table("manifest_child")
            .col(big_integer("manifest_id"))
            .col(big_integer("child_id"))
            .primary_key(Index::create().col("manifest_id").col("child_id"))
            .foreign_key(&mut goes_with("manifest_child", "manifest_id", "manifest"))
            .foreign_key(&mut refers("manifest_child", "child_id", "manifest"))
            .take(),
        numbered("tag")
            .col(big_integer("repository_id"))
            .col(names.column("name"))
            .col(big_integer("manifest_id"))
            .col(big_integer("started"))
            .col(big_integer_null("ended"))
            // When it ends by itself.
            .col(big_integer_null("expires"))
            .col(boolean("reversion"))
            .foreign_key(&mut refers("tag", "repository_id", "repository"))
            .foreign_key(&mut refers("tag", "manifest_id", "manifest"))
            .take(),
        Table::create()
            .table("upload")
            .col(string("id").primary_key())
            .col(big_integer("repository_id"))
            .col(big_integer("length"))
            .col(text_null("checkpoint"))
            .col(string("algorithm"))
            .col(blob("hash"))
            .col(big_integer("created"))
            .col(big_integer("touched"))
            .col(string_null("writer"))
            .col(big_integer("writer_until"))
            .foreign_key(&mut refers("upload", "repository_id", "repository"))
            .take(),
    ]
}

fn service() -> Vec<TableCreateStatement> {
    vec![
        Table::create()
            .table("service_key")
            .col(string("kid").primary_key())
            .col(string("algorithm"))
            .col(blob("private_key"))
            .col(text("public_key"))
            .col(big_integer("created"))
            .col(big_integer("signs_from"))
            .col(big_integer("signs_until"))
            .col(big_integer("published_until"))
            .take(),
        Table::create().table("secret").col(string("name").primary_key()).col(blob("value")).take(),
        numbered("action")
            .col(string("kind"))
            .col(big_integer("at"))
            .col(string_null("namespace"))
            .col(string_null("repository"))
            .col(string_null("performer"))
            .col(string_null("ip"))
            .col(text("metadata"))
            .take(),
    ]
}

fn indexes() -> Vec<IndexCreateStatement> {
    let plain = |name: &str, table: &'static str, columns: &[&'static str]| {
        let mut index = Index::create().name(name).table(table).take();
        for column in columns {
            index.col(*column);
        }
        index
    };
    let unique =
        |name: &str, table: &'static str, columns: &[&'static str]| plain(name, table, columns).unique().take();
    vec![
        plain("account_owner", "account", &["owner_id"]),
        unique("team_name", "team", &["organization_id", "name"]),
        plain("team_member_account", "team_member", &["account_id"]),
        plain("app_token_account", "app_token", &["account_id"]),
        plain("repository_namespace", "repository", &["namespace_id", "name"]),
        plain("repository_visibility", "repository", &["visibility", "name"]),
        plain("repository_state", "repository", &["state"]),
        unique("permission_account", "repository_permission", &["repository_id", "account_id"]),
        unique("permission_team", "repository_permission", &["repository_id", "team_id"]),
        plain("permission_of_account", "repository_permission", &["account_id"]),
        plain("permission_of_team", "repository_permission", &["team_id"]),
        plain("default_permission_organization", "default_permission", &["organization_id"]),
        plain("repository_blob_blob", "repository_blob", &["blob_id"]),
        plain("repository_blob_expires", "repository_blob", &["expires"]),
        unique("manifest_digest", "manifest", &["repository_id", "digest"]),
        plain("manifest_subject", "manifest", &["repository_id", "subject", "id"]),
        plain("manifest_blob_blob", "manifest_blob", &["blob_id"]),
        plain("manifest_blob_repository", "manifest_blob", &["repository_id", "blob_id"]),
        plain("manifest_child_child", "manifest_child", &["child_id"]),
        unique("tag_present", "tag", &["repository_id", "name"]).and_where(Expr::col("ended").is_null()).take(),
        plain("tag_history", "tag", &["repository_id", "name", "started"]),
        plain("tag_manifest", "tag", &["manifest_id"]),
        plain("tag_ended", "tag", &["ended"]),
        plain("tag_expires", "tag", &["expires"]).and_where(Expr::col("ended").is_null()).take(),
        plain("upload_repository", "upload", &["repository_id"]),
        plain("upload_touched", "upload", &["touched"]),
        plain("action_namespace", "action", &["namespace", "at"]),
        plain("action_repository", "action", &["repository", "at"]),
        plain("action_at", "action", &["at"]),
    ]
}
