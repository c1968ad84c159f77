//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pierhead_service::crypto::VERSION;
use pierhead_service::output::println;
use rustix::fs::Mode;
use rustix::process::umask;

use crate::{app, users};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for `serve`: stopped by SIGTERM or SIGINT, after running requests were finished or had their time
  1  the configuration is not valid, the origin could not start, or a second signal stopped it at once
  2  the command line is wrong";

/// A small container registry: nodes that share a database and a store of blobs.
#[derive(Debug, Parser)]
#[command(name = "pierhead-origin", version = VERSION, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the registry. SIGHUP reads the certificate again.
    Serve {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Take away what nobody needs any more, once and now; a running origin does so by itself every so often.
    Gc {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only say what would be taken away: off by what is pushed and deleted meanwhile, for nothing waits for it.
        #[arg(long)]
        dry_run: bool,
    },
    /// Check a configuration and say everything that is wrong with it.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make, list and disable users, give them passwords and ranks, beside a running registry or before.
    User(users::UserArgs),
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> ExitCode {
        // The database has the keys that sign tokens, and blobs may be private: all files are their owner's alone.
        umask(Mode::RWXG | Mode::RWXO);
        let outcome = match self.command {
            Command::Serve { config } => app::serve(&config).map_err(|problem| problem.to_string()),
            Command::Gc { config, dry_run } => {
                app::collect(&config, dry_run, println).map(|sum| println(&sum)).map_err(|problem| problem.to_string())
            }
            Command::Check { config } => app::check(&config)
                .map(|doubt| {
                    doubt.into_iter().for_each(|doubt| eprintln!("{doubt}"));
                    println(&format!("{}: ok", config.display()));
                })
                .map_err(|problem| problem.to_string()),
            Command::User(args) => {
                users::run(&args).map(|told| told.lines().for_each(println)).map_err(|problem| problem.to_string())
            }
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("{problem}");
                ExitCode::FAILURE
            }
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
