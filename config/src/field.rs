//! A value of the YAML and its path, read into the type that is wanted.
//!
//! Every reader returns `None` after noting the problem, so that one pass over the file finds all of them. A value that
//! was read is within its limits.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde_yaml::Value;

use crate::problem::Problem;
use crate::rights::cannot_be_read;
use crate::section::Section;
use crate::variable;

/// Most entries of a list.
const LIST_LIMIT: usize = 1000;
/// Longest duration: far beyond use, and safe to add to any clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Shortest timeout that can mean anything.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);

/// What surrounds a file that is being read.
pub(crate) struct Context<'a> {
    /// Relative paths start here.
    pub(crate) directory: &'a Path,
    /// The environment.
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<String>,
    /// What was found so far.
    pub(crate) problems: RefCell<Vec<Problem>>,
}

impl Context<'_> {
    /// Notes a problem.
    pub(crate) fn problem(&self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { path: path.into(), message: message.into() });
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) path: String,
    pub(crate) value: &'a Value,
}

impl<'a> Field<'a> {
    /// Notes a problem with this value.
    pub(crate) fn problem(&self, message: impl Into<String>) {
        self.context.problem(self.path.clone(), message);
    }

    fn mistyped<T>(&self, expected: &str) -> Option<T> {
        let found = match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a section",
            Value::Tagged(_) => "a tagged value",
        };
        self.problem(format!("expected {expected}, found {found}"));
        None
    }

    fn invalid<T>(&self, expected: &str, found: &str) -> Option<T> {
        let shown: String = found.chars().take(100).collect();
        self.problem(format!("expected {expected}, found {shown:?}"));
        None
    }

    /// Text with its variables replaced, or `None` when it is not text. The outer `None` is a noted problem.
    fn expanded(&self) -> Option<Option<String>> {
        let Value::String(text) = self.value else { return Some(None) };
        match variable::expand(text, self.context.lookup) {
            Ok(text) => Some(Some(text)),
            Err(error) => {
                self.problem(error.to_string());
                None
            }
        }
    }

    /// A scalar as text, for what YAML may write without quotes (`5`, `64KiB`).
    pub(crate) fn scalar(&self, expected: &str) -> Option<String> {
        match (self.expanded()?, self.value) {
            (Some(text), _) => Some(text),
            (None, Value::Number(number)) => Some(number.to_string()),
            (None, _) => self.mistyped(expected),
        }
    }

    /// Text, not empty.
    pub(crate) fn text(&self, expected: &str) -> Option<String> {
        match self.expanded()? {
            Some(text) if text.is_empty() => {
                self.problem(format!("expected {expected}, found an empty text"));
                None
            }
            Some(text) => Some(text),
            // `1.2` and `yes` look like text, and are not.
            None if self.value.is_number() || self.value.is_bool() => self.mistyped(&format!("{expected}, in quotes")),
            None => self.mistyped(expected),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self) -> Option<bool> {
        match (self.value, self.expanded()?.as_deref()) {
            (Value::Bool(flag), _) => Some(*flag),
            (Value::String(written), Some("true")) if written != "true" => Some(true),
            (Value::String(written), Some("false")) if written != "false" => Some(false),
            _ => self.mistyped("`true` or `false`"),
        }
    }

    /// A whole number within limits.
    pub(crate) fn number(&self, limits: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", limits.start(), limits.end());
        let text = self.scalar(&expected)?;
        match text.parse().ok().filter(|number| limits.contains(number)) {
            Some(number) => Some(number),
            None => self.invalid(&expected, &text),
        }
    }

    /// A port.
    pub(crate) fn port(&self) -> Option<u16> {
        u16::try_from(self.number(1..=65535)?).ok()
    }

    /// A duration such as `250ms`, within limits.
    pub(crate) fn duration(&self, limits: RangeInclusive<Duration>) -> Option<Duration> {
        let expected = "a duration such as `250ms`, `5m` or `24h`";
        let text = self.scalar(expected)?;
        let parsed = if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(&text) };
        let Ok(duration) = parsed else { return self.invalid(expected, &text) };
        if limits.contains(&duration) {
            return Some(duration);
        }
        let (least, most) = (humantime::format_duration(*limits.start()), humantime::format_duration(*limits.end()));
        let most = if *limits.end() == LONGEST { "10years".to_owned() } else { most.to_string() };
        self.invalid(&format!("a duration from {least} to {most}"), &text)
    }

    /// A share such as `80%`, from 1 % to all.
    pub(crate) fn percent(&self) -> Option<u8> {
        let expected = "a share from `1%` to `100%`";
        let text = self.scalar(expected)?;
        let parsed = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
        match parsed.filter(|percent| (1..=100).contains(percent)) {
            Some(percent) => Some(percent),
            None => self.invalid(expected, &text),
        }
    }

    /// A size such as `64KiB`, within limits.
    pub(crate) fn size(&self, limits: RangeInclusive<u64>) -> Option<u64> {
        let expected = "a size such as `64KiB` or `200GiB`";
        let text = self.scalar(expected)?;
        let Ok(ByteSize(size)) = ByteSize::from_str(&text) else { return self.invalid(expected, &text) };
        if limits.contains(&size) {
            return Some(size);
        }
        let (least, most) = (ByteSize(*limits.start()), ByteSize(*limits.end()));
        self.invalid(&format!("a size from {least} to {most}"), &text)
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let expected = choices.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
        let text = self.text(&expected)?;
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, choice)) => Some(*choice),
            None => self.invalid(&expected, &text),
        }
    }

    /// An address and a port to listen on. `localhost` is 127.0.0.1, so that starting needs no resolver.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let expected = "an address and a port such as `0.0.0.0:443`, `[::]:443` or `localhost:5000`";
        let text = self.text(expected)?;
        let parsed = match text.strip_prefix("localhost:") {
            Some(port) => port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
            None => text.parse().ok(),
        };
        if parsed.is_none() { self.invalid(expected, &text) } else { parsed }
    }

    /// A path, relative to the configuration's own.
    pub(crate) fn path(&self, expected: &str) -> Option<PathBuf> {
        let text = self.text(expected)?;
        if text.contains('\0') {
            return self.invalid(expected, &text);
        }
        Some(self.context.directory.join(text))
    }

    /// A file that can be read. Its content is for others to judge.
    pub(crate) fn readable_file(&self) -> Option<PathBuf> {
        let path = self.path("the path of a file")?;
        let opened = std::fs::File::open(&path).and_then(|file| file.metadata());
        match opened {
            Ok(metadata) if metadata.is_dir() => {
                self.problem(format!("{}: is a directory", path.display()));
                None
            }
            Ok(_) => Some(path),
            Err(error) => {
                self.problem(format!("{}: {}", path.display(), cannot_be_read(&path, &error)));
                None
            }
        }
    }

    /// A directory, which may be made later.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        let path = self.path("the path of a directory")?;
        if path.exists() && !path.is_dir() {
            self.problem(format!("{}: is not a directory", path.display()));
            return None;
        }
        Some(path)
    }

    /// A directory that can be read.
    pub(crate) fn readable_directory(&self) -> Option<PathBuf> {
        let path = self.path("the path of a directory")?;
        match std::fs::read_dir(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                self.problem(format!("{}: {}", path.display(), cannot_be_read(&path, &error)));
                None
            }
        }
    }

    /// A list; entries that are no good are left out, and noted.
    pub(crate) fn list<T>(&self, mut entry: impl FnMut(Field<'a>) -> Option<T>) -> Option<Vec<T>> {
        let Value::Sequence(values) = self.value else { return self.mistyped("a list") };
        if values.len() > LIST_LIMIT {
            self.problem(format!("has more than {LIST_LIMIT} entries"));
            return None;
        }
        let fields = values.iter().enumerate().map(|(index, value)| Field {
            context: self.context,
            path: format!("{}[{index}]", self.path),
            value,
        });
        Some(fields.filter_map(&mut entry).collect())
    }

    /// A section.
    pub(crate) fn section(self) -> Option<Section<'a>> {
        match self.value {
            Value::Mapping(mapping) => Some(Section::new(self.context, self.path, mapping)),
            _ => self.mistyped("a section"),
        }
    }

    /// Whether it is a list.
    pub(crate) fn is_list(&self) -> bool {
        self.value.is_sequence()
    }

    /// Whether it is a list without entries.
    pub(crate) fn is_empty_list(&self) -> bool {
        self.value.as_sequence().is_some_and(Vec::is_empty)
    }

    /// Whether it is this very text.
    pub(crate) fn is_text(&self, text: &str) -> bool {
        self.value.as_str() == Some(text)
    }

    /// Whether it is `false`.
    pub(crate) fn is_false(&self) -> bool {
        self.value.as_bool() == Some(false)
    }

    /// Whether it is a section.
    pub(crate) fn is_section(&self) -> bool {
        self.value.is_mapping()
    }
}
