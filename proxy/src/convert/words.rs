//! The lines of a haproxy.cfg, as words.
//!
//! Variables stand as this configuration writes them, `${NAME}`, and what only looks like one is escaped, so that any
//! word may be written down as it is.

/// A line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    /// At least one.
    pub(super) words: Vec<String>,
}

impl Line {
    /// All words, to be matched.
    pub(super) fn as_strs(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }
}

/// All lines that say something, comments left out.
pub(super) fn lines(text: &str) -> Vec<Line> {
    let numbered = text.lines().enumerate();
    let split = numbered.map(|(index, line)| Line { number: index + 1, words: words(line) });
    split.filter(|line| !line.words.is_empty()).collect()
}

/// How the characters of a word are meant.
#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    None,
    Single,
    Double,
}

/// The words of a line: `\` takes the next character as it is, quotes keep blanks, variables live in double quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut quotes = Quotes::None;
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        let literal = match (quotes, c) {
            (Quotes::None, '#') => break,
            (Quotes::None, c) if c.is_whitespace() => {
                words.extend(word.take());
                continue;
            }
            (Quotes::None, '\'') => {
                quotes = Quotes::Single;
                word.get_or_insert_default();
                continue;
            }
            (Quotes::None, '"') => {
                quotes = Quotes::Double;
                word.get_or_insert_default();
                continue;
            }
            (Quotes::Single, '\'') | (Quotes::Double, '"') => {
                quotes = Quotes::None;
                continue;
            }
            (Quotes::Double, '$') => {
                let braced = rest.next_if_eq(&'{').is_some();
                let mut name = String::new();
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                if braced {
                    // A default, which is written in another way there, is left out.
                    while rest.next_if(|c| *c != '}' && *c != '"').is_some() {}
                    rest.next_if_eq(&'}');
                }
                let word = word.get_or_insert_default();
                word.push_str(&if name.is_empty() { "$".to_owned() } else { format!("${{{name}}}") });
                continue;
            }
            (Quotes::None | Quotes::Double, '\\') => match rest.next() {
                Some('r') => '\r',
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c) => c,
                None => break,
            },
            (_, c) => c,
        };
        let word = word.get_or_insert_default();
        if literal == '{' && word.ends_with('$') && !word.ends_with("$$") {
            word.push('$');
        }
        word.push(literal);
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::{lines, words};

    #[test]
    fn splits_as_haproxy_does() {
        for (line, expected) in [
            ("  server a 10.0.0.1:80  check # first", &["server", "a", "10.0.0.1:80", "check"][..]),
            (
                r#"option httpchk GET /x HTTP/1.1\r\nHost:\ quay"#,
                &["option", "httpchk", "GET", "/x", "HTTP/1.1\r\nHost: quay"],
            ),
            (r#"a "b c" 'd # e' f\#g"#, &["a", "b c", "d # e", "f#g"]),
            (r#"bind "$ADDRESS:${PORT-443}" '${X}' ${Y}"#, &["bind", "${ADDRESS}:${PORT}", "$${X}", "$${Y}"]),
            ("# only this", &[]),
            (r#"a "" b"#, &["a", "", "b"]),
            ("a \\", &["a"]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn numbers_lines() {
        let numbers: Vec<usize> = lines("a\n\n# b\nc d\n").iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 4]);
    }
}
