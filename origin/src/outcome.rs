//! What a command says at its end: for people, or with `--json` for programs.

use pierhead_service::output::println;
use serde_json::Value;

/// Both forms of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    text: String,
    json: Value,
}

impl Outcome {
    /// An empty text prints nothing.
    pub(crate) fn new(text: impl Into<String>, json: Value) -> Outcome {
        Outcome { text: text.into(), json }
    }

    /// Prints one of them.
    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            println(&self.json.to_string());
        } else {
            self.text.lines().for_each(println);
        }
    }
}
