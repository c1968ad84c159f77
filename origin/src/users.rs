//! `pierhead-origin user …`: accounts from the command line, beside a running origin or before there is one.
//!
//! It is how the first superuser comes to be: whoever can read the configuration has the database anyway. Passwords are read from files or made
//! here, and never stand in a command line, which other users of the machine can see.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use pierhead_config::{OriginConfig, Problems, Secret};
use serde_json::{Value, json};

use crate::auth::{Name, NameError, PasswordError, Passwords, ScopeError, password};
use crate::meta::{
    Account, AccountEdit, AccountKind, Action, Change, Meta, MetaError, NewAccount, OpenError, Performer, Superuser,
    now,
};
use crate::outcome::Outcome;
use crate::text::{TextError, line, visible};

/// Largest file with a password.
const FILE_LIMIT: u64 = 4096;
/// Longest address.
const EMAIL_LIMIT: usize = 255;
/// Users that are read at a time.
const PAGE: u64 = 500;

/// What to do with accounts.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    /// Read the configuration from this file.
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
        /// Let the user do everything.
        #[arg(long)]
        superuser: bool,
        /// With --superuser: let the user read everything, and change nothing by that rank.
        #[arg(long, requires = "superuser")]
        readonly: bool,
        /// Set the user's e-mail address.
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Give a user another password. Guesses before it are forgotten.
    Password {
        /// Name of the user.
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Change a user's rank, from the next login on. Tokens for pulls and pushes live to their end.
    Rank {
        /// Name of the user.
        name: String,
        /// The new rank.
        rank: Rank,
    },
    /// List users: name, state, rank, address.
    List,
    /// Refuse logins of a user and of the user's robots.
    Disable {
        /// Name of the user.
        name: String,
    },
    /// Allow logins of a user again.
    Enable {
        /// Name of the user.
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
    #[error("there is no user {0:?}: `pierhead-origin user list` shows them")]
    Unknown(String),
    /// A text that is not accepted.
    #[error("--email or --title: {0}")]
    Text(#[from] TextError),
    /// No scopes.
    #[error("--scope: {0}")]
    Scope(#[from] ScopeError),
    /// The scope of superusers for another user.
    #[error("--scope super:user: {0:?} is no superuser: `pierhead-origin user rank {0} superuser` makes one")]
    NoSuperuser(String),
    /// More tokens than a user may have.
    #[error("{0:?} has too many tokens: revoke some first")]
    TooManyTokens(String),
    /// No such token.
    #[error("there is no token {0:?}: `pierhead-origin token list` shows them")]
    UnknownToken(String),
    /// The only one who may do everything.
    #[error(
        "{0:?} is the last superuser who can log in: make another first, with `pierhead-origin user rank NAME superuser`"
    )]
    LastSuperuser(String),
    /// No runtime.
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
}

/// Does what was asked for.
pub(crate) fn run(args: &UserArgs) -> Result<Outcome, UserError> {
    opened(&args.config, async |meta| match &args.command {
        UserCommand::Add { name, superuser, readonly, email, password } => {
            let rank = match (superuser, readonly) {
                (false, _) => Superuser::No,
                (true, false) => Superuser::Full,
                (true, true) => Superuser::ReadOnly,
            };
            let email = email.clone().map(|email| line(email, EMAIL_LIMIT)).transpose()?;
            add(meta, Name::of_new_account(name)?, rank, email, password).await
        }
        UserCommand::Password { name, password } => set_password(meta, name, password).await,
        UserCommand::Rank { name, rank } => set_rank(meta, name, *rank).await,
        UserCommand::List => list(meta).await,
        UserCommand::Disable { name } => enable(meta, name, false).await,
        UserCommand::Enable { name } => enable(meta, name, true).await,
    })
}

/// Opens the database of a configuration, works on it, and leaves one whole file behind unless another process has it open.
pub(crate) fn opened(
    config: &Path,
    work: impl AsyncFnOnce(&Meta) -> Result<Outcome, UserError>,
) -> Result<Outcome, UserError> {
    let config = OriginConfig::load_unserved(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(UserError::Runtime)?;
    runtime.block_on(async {
        let meta = Meta::open(&config.database).await?;
        let outcome = work(&meta).await;
        meta.close().await;
        outcome
    })
}

async fn add(
    meta: &Meta,
    name: Name,
    superuser: Superuser,
    email: Option<String>,
    password: &PasswordArgs,
) -> Result<Outcome, UserError> {
    let password = choose(password)?;
    let hash = Passwords::new()?.hash(password.secret.clone()).await?;
    let new =
        NewAccount { email, password: Some(hash), superuser, ..NewAccount::new(name.as_str(), AccountKind::User) };
    let change = meta.change().await?;
    let made = change.create_account(new, now()).await;
    let made = made.map_err(|error| match error {
        MetaError::Exists => UserError::Exists(name.to_string()),
        other => other.into(),
    })?;
    change_log(change, about("user_create", &made)).await?;
    Ok(password.outcome(&made))
}

async fn set_password(meta: &Meta, name: &str, password: &PasswordArgs) -> Result<Outcome, UserError> {
    let account = user(meta, name).await?;
    let password = choose(password)?;
    let hash = Passwords::new()?.hash(password.secret.clone()).await?;
    let edit = AccountEdit { password: Some(hash), ..AccountEdit::default() };
    change(meta, &account, about("user_change_password", &account), edit).await?;
    Ok(password.outcome(&account))
}

async fn enable(meta: &Meta, name: &str, enabled: bool) -> Result<Outcome, UserError> {
    let account = user(meta, name).await?;
    let edit = AccountEdit { enabled: Some(enabled), ..AccountEdit::default() };
    let log = about(if enabled { "user_enable" } else { "user_disable" }, &account);
    change(meta, &account, log, edit).await?;
    Ok(Outcome::new("", view(&Account { enabled, ..account })))
}

async fn set_rank(meta: &Meta, name: &str, rank: Rank) -> Result<Outcome, UserError> {
    let account = user(meta, name).await?;
    let edit = AccountEdit { superuser: Some(rank.into()), ..AccountEdit::default() };
    let mut log = about("user_change_rank", &account);
    log.metadata["rank"] = json!(named(rank.into()));
    change(meta, &account, log, edit).await?;
    Ok(Outcome::new("", view(&Account { superuser: rank.into(), ..account })))
}

async fn list(meta: &Meta) -> Result<Outcome, UserError> {
    let mut text = "NAME\tSTATE\tRANK\tEMAIL\n".to_owned();
    let mut rows = Vec::new();
    let mut last: Option<String> = None;
    loop {
        let page = meta.accounts(AccountKind::User, None, last.as_deref(), PAGE).await?;
        for user in &page {
            let state = if user.enabled { "enabled" } else { "disabled" };
            let email = visible(user.email.as_deref().unwrap_or("-"));
            text.push_str(&format!("{}\t{state}\t{}\t{email}\n", visible(&user.name), named(user.superuser)));
            rows.push(view(user));
        }
        last = page.last().map(|user| user.name.clone());
        if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            return Ok(Outcome::new(text, json!(rows)));
        }
    }
}

fn view(user: &Account) -> Value {
    json!({ "name": user.name, "enabled": user.enabled, "rank": named(user.superuser), "email": user.email })
}

fn named(rank: Superuser) -> &'static str {
    match rank {
        Superuser::No => "user",
        Superuser::ReadOnly => "superuser-readonly",
        Superuser::Full => "superuser",
    }
}

/// A user, by name.
pub(crate) async fn user(meta: &Meta, name: &str) -> Result<Account, UserError> {
    let found = meta.account(name).await?.filter(|account| account.kind == AccountKind::User);
    found.ok_or_else(|| UserError::Unknown(name.to_owned()))
}

async fn change(meta: &Meta, account: &Account, log: Action<'_>, edit: AccountEdit) -> Result<(), UserError> {
    let change = meta.change().await?;
    let before = change.hold_superusers().await?;
    change.edit_account(account.id, edit).await?;
    // With none left, only this machine's users could make another.
    if before > 0 && change.hold_superusers().await? == 0 {
        return Err(UserError::LastSuperuser(account.name.clone()));
    }
    change_log(change, log).await
}

/// Makes a change so, with its line in the log. The operator of the machine made it, and needs no account.
pub(crate) async fn change_log(change: Change, log: Action<'_>) -> Result<(), UserError> {
    change.log(&Performer::default(), log, now()).await?;
    Ok(change.commit().await?)
}

fn about<'a>(kind: &'static str, account: &'a Account) -> Action<'a> {
    Action::in_namespace(kind, &account.name, json!({ "username": account.name }))
}

/// A password, and whether it was made here.
struct Chosen {
    secret: Secret,
    made: bool,
}

impl Chosen {
    /// A password that was made here is printed.
    fn outcome(&self, account: &Account) -> Outcome {
        let mut json = view(account);
        if self.made {
            json["password"] = json!(self.secret.reveal());
        }
        Outcome::new(if self.made { self.secret.reveal() } else { "" }, json)
    }
}

fn choose(from: &PasswordArgs) -> Result<Chosen, UserError> {
    match &from.password_file {
        None => Ok(Chosen { secret: password(), made: true }),
        Some(path) => Ok(Chosen { secret: read(path)?, made: false }),
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
