//! A section of the YAML while it is read: keys are taken one by one, and what nobody took is unknown.
//!
//! So the code that reads a section is the only list of its keys.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use crate::field::{Context, Field};
use crate::likeness::nearest;

/// A section and where it stands. [`Section::finish`] ends it.
pub(crate) struct Section<'a> {
    context: &'a Context<'a>,
    path: String,
    mapping: &'a Mapping,
    known: Vec<&'static str>,
    unsupported: BTreeSet<&'static str>,
}

impl<'a> Section<'a> {
    /// A section; the file's own has no path.
    pub(crate) fn new(context: &'a Context<'a>, path: String, mapping: &'a Mapping) -> Section<'a> {
        Section { context, path, mapping, known: Vec::new(), unsupported: BTreeSet::new() }
    }

    /// The path of a key, whether it is there or not.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem with the section itself.
    pub(crate) fn problem(&self, message: impl Into<String>) {
        self.context.problem(self.path.clone(), message);
    }

    /// The value of a key, if it is there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.push(key);
        self.peek(key)
    }

    /// The value of a key that was taken before, for a problem that shows only later.
    pub(crate) fn peek(&self, key: &str) -> Option<Field<'a>> {
        let value = self.mapping.get(key)?;
        Some(Field { context: self.context, path: self.path_of(key), value })
    }

    /// The value of a key that must be there.
    pub(crate) fn required(&mut self, key: &'static str) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            self.context.problem(self.path_of(key), "is missing");
        }
        field
    }

    /// The value of a key that need not be there, as `read` reads it. The outer `None` is a noted problem.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Field<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.take(key) {
            Some(field) => read(field).map(Some),
            None => Some(None),
        }
    }

    /// Notes each of these keys that is there: it has no meaning beside the others.
    pub(crate) fn meaningless(&self, keys: &[&'static str], message: &str) {
        for field in keys.iter().filter_map(|key| self.peek(key)) {
            field.problem(message);
        }
    }

    /// Keys of a later version: refused, and told from misspelt ones.
    pub(crate) fn unsupported(&mut self, keys: &[&'static str]) {
        self.unsupported.extend(keys);
    }

    /// A flag, or its default.
    pub(crate) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.take(key).and_then(|field| field.flag()).unwrap_or(default)
    }

    /// A number, or its default.
    pub(crate) fn number(&mut self, key: &'static str, default: u64, limits: RangeInclusive<u64>) -> u64 {
        self.take(key).and_then(|field| field.number(limits)).unwrap_or(default)
    }

    /// A size, or its default.
    pub(crate) fn size(&mut self, key: &'static str, default: u64, limits: RangeInclusive<u64>) -> u64 {
        self.take(key).and_then(|field| field.size(limits)).unwrap_or(default)
    }

    /// A duration, or its default.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        limits: RangeInclusive<Duration>,
    ) -> Duration {
        self.take(key).and_then(|field| field.duration(limits)).unwrap_or(default)
    }

    /// One of several words, or the default.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        self.take(key).and_then(|field| field.choice(choices)).unwrap_or(default)
    }

    /// Notes every key that nobody took.
    pub(crate) fn finish(self) {
        for key in self.mapping.keys() {
            let written = match key {
                Value::String(text) => text.chars().take(100).collect(),
                Value::Number(number) => number.to_string(),
                _ => "(a key that is no text)".to_owned(),
            };
            if self.known.contains(&written.as_str()) {
                continue;
            }
            let message = if self.unsupported.contains(written.as_str()) {
                "not supported by this version".to_owned()
            } else {
                match nearest(&written, self.known.iter().copied()) {
                    Some(known) => format!("unknown key; did you mean `{known}`?"),
                    None => format!("unknown key; the keys here are {}", self.known.join(", ")),
                }
            };
            self.context.problem(self.path_of(&written), message);
        }
    }
}
