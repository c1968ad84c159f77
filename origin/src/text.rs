//! What people write about accounts: checked when it comes in, and made visible when it goes to a terminal.
//!
//! Invariant: no text that was taken in moves a cursor, reverses a line or hides in it. What an earlier version took in is escaped
//! where it is printed.

use std::borrow::Cow;

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TextError {
    /// More characters than are kept.
    #[error("a text of at most {0} characters is expected")]
    Long(usize),
    /// A character that cannot be seen.
    #[error("the character U+{0:04X} cannot be seen and is not accepted here")]
    Unseen(u32),
}

/// A text of one line: an address, a title.
pub(crate) fn line(written: String, limit: usize) -> Result<String, TextError> {
    checked(written, limit, is_unseen)
}

/// A text of several lines, of any language: a description. Joiners belong to some scripts and to emoji.
pub(crate) fn paragraph(written: String, limit: usize) -> Result<String, TextError> {
    checked(written, limit, |c| is_unseen(c) && !matches!(c, '\n' | '\r' | '\t' | '\u{200c}' | '\u{200d}'))
}

fn checked(written: String, limit: usize, refused: impl Fn(char) -> bool) -> Result<String, TextError> {
    if written.chars().count() > limit {
        return Err(TextError::Long(limit));
    }
    match written.chars().find(|c| refused(*c)) {
        Some(c) => Err(TextError::Unseen(u32::from(c))),
        None => Ok(written),
    }
}

/// A text for a terminal: what cannot be seen is written as `\u{…}`.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_unseen(c) { c.escape_unicode().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Control characters, those that change the direction of a text, those without a width, separators of lines, and tags.
pub(crate) fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            u32::from(c),
            0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0xe007f
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_refused_and_escaped() {
        for (text, in_a_line, in_a_paragraph, shown) in [
            ("ann@acme.test", true, true, "ann@acme.test"),
            ("Zoë 🙂 日本", true, true, "Zoë 🙂 日本"),
            ("two\nlines\t.", false, true, "two\\u{a}lines\\u{9}."),
            ("a\u{200d}b", false, true, "a\\u{200d}b"),
            ("\u{1b}[2J", false, false, "\\u{1b}[2J"),
            ("a\u{7f}", false, false, "a\\u{7f}"),
            ("a\u{9b}2J", false, false, "a\\u{9b}2J"),
            ("a\0", false, false, "a\\u{0}"),
            ("\u{202e}txt.exe", false, false, "\\u{202e}txt.exe"),
            ("\u{2066}a", false, false, "\\u{2066}a"),
            ("a\u{200b}b", false, false, "a\\u{200b}b"),
            ("\u{feff}a", false, false, "\\u{feff}a"),
            ("a\u{2028}b", false, false, "a\\u{2028}b"),
            ("a\u{e0041}", false, false, "a\\u{e0041}"),
        ] {
            assert_eq!(line(text.to_owned(), 100).is_ok(), in_a_line, "{shown}");
            assert_eq!(paragraph(text.to_owned(), 100).is_ok(), in_a_paragraph, "{shown}");
            assert_eq!(visible(text), shown);
        }
        assert_eq!(line("äöü".to_owned(), 3), Ok("äöü".to_owned()));
        assert_eq!(line("äöü".to_owned(), 2), Err(TextError::Long(2)));
        assert_eq!(
            line("\u{1b}".to_owned(), 2).unwrap_err().to_string(),
            "the character U+001B cannot be seen and is not accepted here"
        );
    }
}
