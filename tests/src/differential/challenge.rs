//! `WWW-Authenticate` as lenient clients read it: all lines, several challenges a line, values with or without quotes.

/// One challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case.
    pub scheme: String,
    /// Names in lower case.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges of an answer's lines.
pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for line in lines {
        let mut rest = line;
        while let Some((part, after)) = part(rest) {
            rest = after;
            match part {
                Part::Scheme(scheme) => {
                    challenges.push(Challenge { scheme: scheme.to_ascii_lowercase(), parameters: Vec::new() });
                }
                Part::Parameter(name, value) => {
                    if let Some(challenge) = challenges.last_mut() {
                        challenge.parameters.push((name.to_ascii_lowercase(), value));
                    }
                }
            }
        }
    }
    challenges
}

enum Part<'a> {
    Scheme(&'a str),
    Parameter(&'a str, String),
}

/// The next scheme or parameter, and what follows it.
fn part(text: &str) -> Option<(Part<'_>, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    if text.is_empty() {
        return None;
    }
    let end = text.find([' ', '\t', ',', '=']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let Some(value) = rest.trim_start().strip_prefix('=') else { return Some((Part::Scheme(word), rest)) };
    let value = value.trim_start();
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
        return Some((Part::Parameter(word, value[..end].to_owned()), &value[end..]));
    };
    let (mut unquoted, mut escaped) = (String::new(), false);
    for (at, letter) in quoted.char_indices() {
        match letter {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return Some((Part::Parameter(word, unquoted), &quoted[at + 1..])),
            _ => {
                escaped = false;
                unquoted.push(letter);
            }
        }
    }
    Some((Part::Parameter(word, unquoted), ""))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_what_registries_write() {
        for (lines, expected) in [
            (
                &["Bearer realm=\"http://a/t\",service=\"s\",scope=\"a b\""][..],
                "bearer realm=http://a/t service=s scope=a b;",
            ),
            (&["bearer Realm = \"http://a/t\" , service=s"], "bearer realm=http://a/t service=s;"),
            (&["Bearer realm=http://a:5/t,service=s"], "bearer realm=http://a:5/t service=s;"),
            (&["Basic realm=\"a, b\", Bearer realm=\"c\""], "basic realm=a, b;bearer realm=c;"),
            (&["Negotiate", "Bearer realm=\"c\\\"d\""], "negotiate;bearer realm=c\"d;"),
            (&[""], ""),
        ] {
            let mut read = String::new();
            for challenge in parse(lines.iter().copied()) {
                read.push_str(&challenge.scheme);
                for (name, value) in challenge.parameters {
                    read.push_str(&format!(" {name}={value}"));
                }
                read.push(';');
            }
            assert_eq!(read, expected, "{lines:?}");
        }
    }
}
