//! Standard output: what was asked for by a command. Everything else goes to standard error.

use std::io::Write;

/// Writes a line. A reader that went away is not our problem.
pub fn println(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}
