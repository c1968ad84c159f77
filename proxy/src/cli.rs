//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use pierhead_config::Config;

use crate::app::{self, Checked};
use crate::client_config::{self, Address, Client};
use crate::convert;
use crate::ctl;
use crate::ctl::address::INSTALLED;
use pierhead_service::crypto::VERSION;
use pierhead_service::output::println;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for `serve`: stopped by SIGTERM or SIGINT, or replaced by SIGUSR2, after running requests were finished or had their time
  1  the configuration is not valid, the edge could not start, or a second signal stopped it at once;
     for `ctl`, `reload` and `upgrade`: the edge says no
  2  the command line is wrong
  3  for `ctl`, `reload` and `upgrade`: no edge answers";

/// Edge proxy and pull-through cache for container registries.
#[derive(Debug, Parser)]
#[command(name = "pierhead", version = VERSION, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the edge.
    Serve {
        /// Read this configuration.
        #[arg(long, value_name = "FILE", default_value = INSTALLED)]
        config: PathBuf,
        /// Take over from the edge that started this process.
        #[arg(long, hide = true)]
        take_over: bool,
    },
    /// Check a configuration and say everything that is wrong with it.
    Check {
        /// Read this configuration.
        #[arg(long, value_name = "FILE", default_value = INSTALLED)]
        config: PathBuf,
    },
    /// Print what to put into the configuration of clients, so that they pull through this edge.
    ClientConfig {
        /// Which client.
        client: Client,
        /// Read this configuration of the edge.
        #[arg(long, value_name = "FILE", default_value = INSTALLED)]
        config: PathBuf,
        /// How clients reach the edge, when that is not what it listens on.
        #[arg(long, value_name = "HOST[:PORT]")]
        address: Option<Address>,
    },
    /// Print the configuration that does what another proxy's does; what could not be carried over goes to standard
    /// error, line by line.
    Convert {
        /// Whose configuration it is.
        from: convert::Format,
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Fail when anything could not be carried over.
        #[arg(long)]
        strict: bool,
    },
    /// Print a script that completes this command line in a shell, such as `source <(pierhead completions bash)`.
    Completions {
        /// For this shell.
        shell: clap_complete::Shell,
    },
    /// See what a running edge does, and tell it what to do, through its admin listener.
    Ctl {
        #[command(flatten)]
        options: ctl::Options,
        #[command(subcommand)]
        wanted: ctl::Wanted,
    },
    /// Make a running edge read its configuration again: `ctl reload`.
    Reload {
        #[command(flatten)]
        options: ctl::Options,
    },
    /// Have the program that now lies where a running edge was started from take over: `ctl upgrade`.
    Upgrade {
        #[command(flatten)]
        options: ctl::Options,
    },
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Serve { config, take_over } => app::serve(&config, take_over).map_err(|error| error.to_string()),
            Command::Check { config } => check(&config).map(|checked| {
                for warning in &checked.warnings {
                    eprintln!("warning: {warning}");
                }
                println(&format!("{}: ok", config.display()));
            }),
            Command::ClientConfig { client, config, address } => load(&config).and_then(|config| {
                if config.registries.is_empty() {
                    return Err("there are no `registries`: clients use what this edge forwards as before".to_owned());
                }
                println(client_config::render(client, &config, address.as_ref()).trim_end());
                Ok(())
            }),
            Command::Convert { from, file, strict } => from.convert(&file).and_then(|converted| {
                println(converted.yaml.trim_end());
                let left = converted.left(&file);
                if strict && !left.is_empty() {
                    return Err(left);
                }
                eprint!("{left}");
                Ok(())
            }),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "pierhead", &mut script);
                println(String::from_utf8_lossy(&script).trim_end());
                Ok(())
            }
            Command::Ctl { options, wanted } => return operate(&options, &wanted),
            Command::Reload { options } => return operate(&options, &ctl::Wanted::Reload),
            Command::Upgrade { options } => return operate(&options, &ctl::Wanted::Upgrade),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("{}", problem.trim_end());
                ExitCode::FAILURE
            }
        }
    }
}

/// Asks a running edge.
fn operate(options: &ctl::Options, wanted: &ctl::Wanted) -> ExitCode {
    match ctl::run(options, wanted) {
        Ok(answer) => {
            println(&answer);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// The problems, one a line, are the error.
fn load(path: &Path) -> Result<Config, String> {
    Config::load(path).map_err(|problems| problems.to_string())
}

/// Reads a configuration and looks at the files that it names; the problems, one a line, are the error.
fn check(path: &Path) -> Result<Checked, String> {
    app::load(path).map(|(_, checked)| checked).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// An expired certificate keeps no edge from starting, and `check` says it.
    #[test]
    fn check_says_when_certificates_end() {
        let folder = tempfile::tempdir().unwrap();
        let days = |days: u64| std::time::Duration::from_secs(days * 24 * 3600);
        let long_ago = std::time::SystemTime::now() - days(100);
        let write = |name: &str, from: u64, until: u64| {
            let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.not_before = (long_ago + days(from)).into();
            params.not_after = (long_ago + days(until) + days(1) / 2).into();
            let key = rcgen::KeyPair::generate().unwrap();
            std::fs::write(folder.path().join(format!("{name}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
            std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        };
        write("expired", 1, 97);
        write("soon", 1, 105);
        write("later", 103, 109);
        write("good", 1, 190);
        for (name, says) in [
            ("expired", Some("the certificate expired on")),
            ("soon", Some("the certificate expires in 5 days")),
            ("later", Some("the certificate is not valid before")),
            ("good", None),
        ] {
            let pair = format!("{{ cert: {name}.crt, key: {name}.key }}");
            let path = folder.path().join("edge.yaml");
            let text = format!(
                "listeners: [{{ name: a, bind: \"127.0.0.1:0\", tls: {{ certificates: [{pair}] }} }}]\n\
                 admin: {{ bind: \"127.0.0.1:0\" }}\ncache: {{ path: store, max_size: 1GiB }}\n\
                 registries: [{{ name: r.example, upstream: \"https://r.example\", client_certificate: {pair} }}]\n\
                 pools: [{{ name: p, servers: [\"127.0.0.1:1\"], tls: {{ client_certificate: {pair} }} }}]\n"
            );
            std::fs::write(&path, &text).unwrap();
            let checked = check(&path).unwrap();
            let sections =
                ["listeners[0].tls: ", "pools[0].tls.client_certificate: ", "registries[0].client_certificate: "];
            assert_eq!(checked.warnings.len(), if says.is_some() { 3 } else { 0 }, "{name}: {checked:?}");
            for (warning, section) in checked.warnings.iter().zip(sections) {
                assert!(warning.starts_with(section) && warning.contains(says.unwrap()), "{name}: {warning}");
            }
        }
    }

    #[test]
    fn check_looks_into_the_files_that_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for host in ["one", "two"] {
            let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
            std::fs::write(folder.path().join(format!("{host}.crt")), made.cert.pem()).unwrap();
            std::fs::write(folder.path().join(format!("{host}.key")), made.signing_key.serialize_pem()).unwrap();
        }
        let path = folder.path().join("edge.yaml");
        for (key, ca, problems) in [
            ("one.key", "two.crt", &[][..]),
            (
                "two.key",
                "two.key",
                &["listeners[0].tls: ", "pools[0].tls: ", "pools[0].health.tls: ", "registries[0].upstream: "],
            ),
        ] {
            let text = format!(
                "listeners: [{{ name: a, bind: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: one.crt, key: {key} }}] }} }}]\n\
                 admin: {{ bind: \"127.0.0.1:0\" }}\ncache: {{ path: store, max_size: 1GiB }}\n\
                 registries: [{{ name: r.example, upstream: \"https://r.example\", ca: {ca} }}]\n\
                 pools: [{{ name: p, servers: [\"127.0.0.1:1\"], tls: {{ ca: {ca} }}, health: {{ kind: tls, tls: {{ ca: {ca}, sni: a.io }} }} }}]\n"
            );
            std::fs::write(&path, text).unwrap();
            let found = check(&path).err().unwrap_or_default();
            assert_eq!(found.lines().count(), problems.len(), "{found}");
            for (line, problem) in found.lines().zip(problems) {
                assert!(line.starts_with(problem), "{line}");
            }
        }
        assert!(!folder.path().join("store").exists());
    }
}
