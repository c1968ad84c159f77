//! What could not be carried over, line by line.
//!
//! A message shows the first words of a line, never the rest: passwords stand there.

use std::collections::BTreeSet;

/// A line, or a part of it, that has no counterpart, or another meaning here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Left {
    /// Its number.
    pub(super) line: usize,
    /// Which part of it.
    pub(super) what: String,
    /// Why, and what there is instead.
    pub(super) why: String,
}

/// All of them; none twice, though defaults are read for each section.
#[derive(Debug, Default)]
pub(super) struct Report(BTreeSet<Left>);

impl Report {
    /// Notes one.
    pub(super) fn left(&mut self, line: usize, what: impl Into<String>, why: impl Into<String>) {
        self.0.insert(Left { line, what: what.into(), why: why.into() });
    }

    /// In the order of the file.
    pub(super) fn into_lines(self) -> Vec<Left> {
        self.0.into_iter().collect()
    }
}
