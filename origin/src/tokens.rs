//! `pierhead-origin token …`: application tokens from the command line, beside a running origin or before there is one.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::auth::{TokenScope, TokenScopes, hash, token, uuid};
use crate::meta::{Account, Action, Meta, NewAppToken, Superuser, now};
use crate::outcome::Outcome;
use crate::text::{line, visible};
use crate::users::{UserError, change_log, opened, user};

/// Longest title.
const TITLE_LIMIT: usize = 255;
/// Most tokens of a user.
const TOKENS: u64 = 1000;

/// What to do with application tokens.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Read the configuration from this file.
    #[arg(long, value_name = "FILE", global = true, default_value = "/etc/pierhead/origin.yaml")]
    config: PathBuf,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token for a user and print it; it is not shown again.
    Add {
        /// Name of the user.
        user: String,
        /// Describe what the token is for.
        #[arg(long)]
        title: String,
        /// Allow this: repo:read, repo:write, repo:admin, repo:create, user:read, user:admin, org:admin, super:user. May be repeated.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// End the token after this time, such as 90d.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
    },
    /// List a user's tokens.
    List {
        /// Name of the user.
        user: String,
    },
    /// Revoke a token.
    Revoke {
        /// Name of the user.
        user: String,
        /// The token's uuid, as `list` shows it.
        uuid: String,
    },
}

/// Does what was asked for.
pub(crate) fn run(args: &TokenArgs) -> Result<Outcome, UserError> {
    opened(&args.config, async |meta| match &args.command {
        TokenCommand::Add { user, title, scopes, expires } => add(meta, user, title, scopes, *expires).await,
        TokenCommand::List { user } => list(meta, user).await,
        TokenCommand::Revoke { user, uuid } => revoke(meta, user, uuid).await,
    })
}

async fn add(
    meta: &Meta,
    name: &str,
    title: &str,
    scopes: &[String],
    expires: Option<Duration>,
) -> Result<Outcome, UserError> {
    let account = user(meta, name).await?;
    let title = line(title.to_owned(), TITLE_LIMIT)?;
    let scopes = match scopes {
        [] => None,
        named => Some(named.join(" ").parse::<TokenScopes>()?),
    };
    if scopes.is_some_and(|scopes| scopes.has(TokenScope::SuperUser)) && account.superuser == Superuser::No {
        return Err(UserError::NoSuperuser(name.to_owned()));
    }
    if meta.app_tokens(account.id, None, TOKENS).await?.len() as u64 >= TOKENS {
        return Err(UserError::TooManyTokens(name.to_owned()));
    }
    let secret = token();
    let expires = expires.map(|life| now().saturating_add(i64::try_from(life.as_millis()).unwrap_or(i64::MAX)));
    let scopes = scopes.map(|scopes| scopes.to_string());
    let row = NewAppToken { uuid: uuid(), account: account.id, title, hash: hash(&secret), expires, scopes };
    let change = meta.change().await?;
    let made = change.create_app_token(row, now()).await?;
    change_log(change, about("create_app_specific_token", &account, &made.title)).await?;
    let json = json!({
        "uuid": made.uuid, "user": account.name, "title": made.title, "scopes": made.scopes,
        "expires": made.expires.map(date), "token": secret.reveal(),
    });
    Ok(Outcome::new(secret.reveal(), json))
}

async fn list(meta: &Meta, name: &str) -> Result<Outcome, UserError> {
    let account = user(meta, name).await?;
    let tokens = meta.app_tokens(account.id, None, TOKENS).await?;
    let mut text = "UUID\tCREATED\tLAST USED\tEXPIRES\tSCOPES\tTITLE\n".to_owned();
    let mut rows = Vec::new();
    for token in tokens {
        let or_never = |at: Option<i64>| at.map_or_else(|| "never".to_owned(), date);
        let scopes = token.scopes.as_deref().unwrap_or("-");
        let (created, used, expires) = (date(token.created), or_never(token.last_accessed), or_never(token.expires));
        text.push_str(&format!("{}\t{created}\t{used}\t{expires}\t{scopes}\t{}\n", token.uuid, visible(&token.title)));
        rows.push(json!({
            "uuid": token.uuid, "title": token.title, "scopes": token.scopes, "created": created,
            "last_used": token.last_accessed.map(date), "expires": token.expires.map(date),
        }));
    }
    Ok(Outcome::new(text, json!(rows)))
}

async fn revoke(meta: &Meta, name: &str, uuid: &str) -> Result<Outcome, UserError> {
    let account = user(meta, name).await?;
    let found = meta.app_token(account.id, uuid).await?.ok_or_else(|| UserError::UnknownToken(uuid.to_owned()))?;
    let change = meta.change().await?;
    change.delete_app_token(found.id).await?;
    change_log(change, about("revoke_app_specific_token", &account, &found.title)).await?;
    Ok(Outcome::new("", json!({ "uuid": uuid, "revoked": true })))
}

fn about<'a>(kind: &'static str, account: &'a Account, title: &str) -> Action<'a> {
    Action::in_namespace(kind, &account.name, json!({ "app_specific_token_title": title }))
}

fn date(at: i64) -> String {
    let since = Duration::from_millis(u64::try_from(at).unwrap_or_default());
    // The end of the year 9999, after which a date has another form.
    let at = SystemTime::UNIX_EPOCH + since.min(Duration::from_secs(253_402_300_799));
    humantime::format_rfc3339_seconds(at).to_string()
}
