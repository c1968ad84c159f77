//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use pierhead_service::crypto::VERSION;
use pierhead_service::output::println;
use rustix::fs::Mode;
use rustix::process::umask;
use serde_json::json;

use crate::outcome::Outcome;
use crate::{app, tokens, users};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for `serve`: stopped by SIGTERM or SIGINT, after running requests were finished or had their time
  1  the configuration is not valid, the origin could not start, or a second signal stopped it at once
  2  the command line is wrong";

/// A small container registry: nodes that share a database and a store of blobs.
#[derive(Debug, Parser)]
#[command(name = "pierhead-origin", version = VERSION, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Print the result as JSON, and an error as {"error": …} too.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Read the configuration from this file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the registry. SIGHUP reads the configuration and the certificate again.
    Serve(ConfigArgs),
    /// Collect garbage once, now. A running registry does so by itself.
    Gc {
        #[command(flatten)]
        config: ConfigArgs,
        /// Only print what would be collected, and when the rest will be.
        #[arg(long)]
        dry_run: bool,
    },
    /// Check a configuration and print every problem.
    Check(ConfigArgs),
    /// Copy the database (SQLite) and the blobs to a new directory. Works with the registry running.
    Backup {
        #[command(flatten)]
        config: ConfigArgs,
        /// Write to this directory; it must be new or empty.
        directory: PathBuf,
    },
    /// Make a registry from a backup, where there is none yet.
    Restore {
        #[command(flatten)]
        config: ConfigArgs,
        /// Read from this directory.
        directory: PathBuf,
    },
    /// Manage users. Works with the registry running or stopped.
    User(users::UserArgs),
    /// Manage application tokens. Works with the registry running or stopped.
    Token(tokens::TokenArgs),
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> ExitCode {
        // The database has the keys that sign tokens, and blobs may be private: all files are their owner's alone.
        umask(Mode::RWXG | Mode::RWXO);
        match self.command.run(self.json) {
            Ok(outcome) => {
                outcome.into_iter().for_each(|outcome| outcome.print(self.json));
                ExitCode::SUCCESS
            }
            Err(problem) => {
                if self.json {
                    println(&json!({ "error": problem }).to_string());
                } else {
                    eprintln!("{problem}");
                }
                ExitCode::FAILURE
            }
        }
    }
}

impl Command {
    fn run(&self, as_json: bool) -> Result<Option<Outcome>, String> {
        let said = |problem: &dyn std::fmt::Display| problem.to_string();
        match self {
            Command::Serve(ConfigArgs { config }) => app::serve(config).map(|()| None).map_err(|error| said(&error)),
            Command::Gc { config, dry_run } => {
                // Line by line, while it looks: there may be very many.
                let tell = if as_json { |_: &str| {} } else { println };
                app::collect(&config.config, *dry_run, tell).map(Some).map_err(|error| said(&error))
            }
            Command::Check(ConfigArgs { config }) => app::check(config).map(Some).map_err(|error| said(&error)),
            Command::Backup { config, directory } => {
                app::backup(&config.config, directory).map(Some).map_err(|error| said(&error))
            }
            Command::Restore { config, directory } => {
                app::restore(&config.config, directory).map(Some).map_err(|error| said(&error))
            }
            Command::User(args) => users::run(args).map(Some).map_err(|error| said(&error)),
            Command::Token(args) => tokens::run(args).map(Some).map_err(|error| said(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
