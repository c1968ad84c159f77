//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::measurements;

/// Measures pierhead beside nginx, haproxy and docker-registry.
#[derive(Debug, Parser)]
#[command(name = "pierhead-bench")]
pub(crate) struct Options {
    /// Which measurements; all when none is named.
    names: Vec<String>,
    /// Names the measurements and ends.
    #[arg(long)]
    pub(crate) list: bool,
    /// How often each side has its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// One run of small work: shows that everything works, and nothing else. Writes no file unless told to.
    #[arg(long)]
    quick: bool,
    /// Where the results go, instead of a dated file in bench/results.
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
    /// Exit with 2 when a target is missed.
    #[arg(long)]
    pub(crate) strict: bool,
}

/// How much work there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Turns of each side.
    pub(crate) runs: usize,
    /// Small work.
    pub(crate) quick: bool,
}

impl Scale {
    /// The full amount, or the small one.
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// The size of the blob that is pulled.
    pub(crate) fn blob(self) -> usize {
        self.pick(256 << 20, 32 << 20)
    }
}

impl Options {
    /// How much work there is.
    pub(crate) fn scale(&self) -> Scale {
        Scale { runs: if self.quick { 1 } else { usize::from(self.runs) }, quick: self.quick }
    }

    /// Whether a measurement is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    /// The measurements that were named.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }
}

/// Parses; a name that nothing has is an error.
pub(crate) fn parse() -> Result<Options, ExitCode> {
    let options = Options::parse();
    for name in &options.names {
        if !measurements::exists(name) {
            eprintln!("no measurement is called {name}; there are:\n{}", measurements::list());
            return Err(ExitCode::from(2));
        }
    }
    Ok(options)
}
