//! `pierhead-origin user …`: accounts from the command line, beside a running origin or before there is one.
//!
//! It is how the first superuser comes to be: whoever can read the configuration has the database anyway. Passwords are read from files or made
//! here, and never stand in a command line, which other users of the machine can see.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use pierhead_config::{OriginConfig, Problems, Secret};
use serde_json::json;

use crate::auth::{Name, NameError, PasswordError, Passwords, password};
use crate::meta::{
    Account, AccountEdit, AccountKind, Action, Meta, MetaError, NewAccount, OpenError, Performer, Superuser, now,
};

/// Largest file with a password.
const FILE_LIMIT: u64 = 4096;
/// Users that are read at a time.
const PAGE: u64 = 500;

/// What to do with accounts.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", global = true, default_value = "/etc/pierhead/origin.yaml")]
    config: PathBuf,
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Make a user.
    Add {
        /// Lower-case letters and digits, joined by '.', '_' or '-'.
        name: String,
        /// Who may do everything.
        #[arg(long)]
        superuser: bool,
        /// With --superuser: who may read everything, and change nothing.
        #[arg(long, requires = "superuser")]
        readonly: bool,
        /// For people to write to.
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Give a user another password. Guesses before it are forgotten.
    Password {
        /// Whom.
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Make a user a superuser, or one no more. From the next login on; tokens for pulls and pushes live to their end.
    Rank {
        /// Whom.
        name: String,
        /// What the user may everywhere.
        rank: Rank,
    },
    /// List users: name, state, rank, address.
    List,
    /// Let a user and the user's robots log in no more.
    Disable {
        /// Whom.
        name: String,
    },
    /// Let a user log in again.
    Enable {
        /// Whom.
        name: String,
    },
}

/// What a user may everywhere.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rank {
    /// Nothing: what namespaces and repositories grant.
    User,
    /// Read everything, and change nothing.
    SuperuserReadonly,
    /// Everything.
    Superuser,
}

impl From<Rank> for Superuser {
    fn from(rank: Rank) -> Superuser {
        match rank {
            Rank::User => Superuser::No,
            Rank::SuperuserReadonly => Superuser::ReadOnly,
            Rank::Superuser => Superuser::Full,
        }
    }
}

/// Where a password comes from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PasswordArgs {
    /// A file that holds it; `-`: standard input. A line break at its end does not belong to it.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Make one, and print it.
    #[arg(long)]
    generate: bool,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The database.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// No name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// No file.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    /// Somebody is called so already.
    #[error("there is a user or organisation {0:?} already")]
    Exists(String),
    /// Nobody is called so.
    #[error("there is no user {0:?}")]
    Unknown(String),
    /// No runtime.
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
}

/// Does what was asked for, and says what is to be printed.
pub(crate) fn run(args: &UserArgs) -> Result<String, UserError> {
    let config = OriginConfig::load_unserved(&args.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(UserError::Runtime)?;
    runtime.block_on(async {
        let meta = Meta::open(&config.database).await?;
        match &args.command {
            UserCommand::Add { name, superuser, readonly, email, password } => {
                let rank = match (superuser, readonly) {
                    (false, _) => Superuser::No,
                    (true, false) => Superuser::Full,
                    (true, true) => Superuser::ReadOnly,
                };
                add(&meta, name.parse()?, rank, email.clone(), password).await
            }
            UserCommand::Password { name, password } => set_password(&meta, name, password).await,
            UserCommand::Rank { name, rank } => set_rank(&meta, name, *rank).await,
            UserCommand::List => list(&meta).await,
            UserCommand::Disable { name } => enable(&meta, name, false).await,
            UserCommand::Enable { name } => enable(&meta, name, true).await,
        }
    })
}

async fn add(
    meta: &Meta,
    name: Name,
    superuser: Superuser,
    email: Option<String>,
    password: &PasswordArgs,
) -> Result<String, UserError> {
    let (password, told) = choose(password)?;
    let hash = Passwords::new()?.hash(password).await?;
    let new =
        NewAccount { email, password: Some(hash), superuser, ..NewAccount::new(name.as_str(), AccountKind::User) };
    let change = meta.change().await?;
    let made = change.create_account(new, now()).await;
    let made = made.map_err(|error| match error {
        MetaError::Exists => UserError::Exists(name.to_string()),
        other => other.into(),
    })?;
    change.log(&performer(), about("user_create", &made), now()).await?;
    change.commit().await?;
    Ok(told)
}

async fn set_password(meta: &Meta, name: &str, password: &PasswordArgs) -> Result<String, UserError> {
    let account = user(meta, name).await?;
    let (password, told) = choose(password)?;
    let hash = Passwords::new()?.hash(password).await?;
    let edit = AccountEdit { password: Some(hash), ..AccountEdit::default() };
    change(meta, &account, about("user_change_password", &account), edit).await?;
    Ok(told)
}

async fn enable(meta: &Meta, name: &str, enabled: bool) -> Result<String, UserError> {
    let account = user(meta, name).await?;
    let edit = AccountEdit { enabled: Some(enabled), ..AccountEdit::default() };
    let log = about(if enabled { "user_enable" } else { "user_disable" }, &account);
    change(meta, &account, log, edit).await?;
    Ok(String::new())
}

async fn set_rank(meta: &Meta, name: &str, rank: Rank) -> Result<String, UserError> {
    let account = user(meta, name).await?;
    let edit = AccountEdit { superuser: Some(rank.into()), ..AccountEdit::default() };
    let mut log = about("user_change_rank", &account);
    log.metadata["rank"] = json!(named(rank.into()));
    change(meta, &account, log, edit).await?;
    Ok(String::new())
}

async fn list(meta: &Meta) -> Result<String, UserError> {
    let mut text = String::new();
    let mut last: Option<String> = None;
    loop {
        let page = meta.accounts(AccountKind::User, None, last.as_deref(), PAGE).await?;
        for user in &page {
            let state = if user.enabled { "enabled" } else { "disabled" };
            let rank = named(user.superuser);
            let email = user.email.as_deref().unwrap_or("-");
            text.push_str(&format!("{}\t{state}\t{rank}\t{email}\n", user.name));
        }
        last = page.last().map(|user| user.name.clone());
        if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            return Ok(text);
        }
    }
}

fn named(rank: Superuser) -> &'static str {
    match rank {
        Superuser::No => "user",
        Superuser::ReadOnly => "superuser-readonly",
        Superuser::Full => "superuser",
    }
}

async fn user(meta: &Meta, name: &str) -> Result<Account, UserError> {
    let found = meta.account(name).await?.filter(|account| account.kind == AccountKind::User);
    found.ok_or_else(|| UserError::Unknown(name.to_owned()))
}

async fn change(meta: &Meta, account: &Account, log: Action<'_>, edit: AccountEdit) -> Result<(), UserError> {
    let change = meta.change().await?;
    change.edit_account(account.id, edit).await?;
    change.log(&performer(), log, now()).await?;
    Ok(change.commit().await?)
}

fn about<'a>(kind: &'static str, account: &'a Account) -> Action<'a> {
    Action::in_namespace(kind, &account.name, json!({ "username": account.name }))
}

/// Nobody who has an account here: whoever may use the machine.
fn performer() -> Performer {
    Performer::default()
}

/// The password, and what is to be printed of it.
fn choose(from: &PasswordArgs) -> Result<(Secret, String), UserError> {
    match &from.password_file {
        None => {
            let made = password();
            let told = format!("{}\n", made.reveal());
            Ok((made, told))
        }
        Some(path) => Ok((read(path)?, String::new())),
    }
}

fn read(path: &Path) -> Result<Secret, UserError> {
    let failed = |error| UserError::File(path.display().to_string(), error);
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(FILE_LIMIT).read_to_string(&mut text).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_LIMIT).read_to_string(&mut text).map_err(failed)?;
    }
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}
