//! Limits on the shape of a JSON text, checked in one pass before anything reads it.
//!
//! `serde_json` skips unknown fields without a limit, so a text could nest as deep as it is long. Clients that read the
//! manifest later may keep every value of it. Invariant: what passes here nests at most [`DEPTH`] deep, and each array and object has
//! a bounded number of entries. Whether the text is JSON at all is for the parser to say.

/// Deepest nesting. Manifests that are in use nest four or five deep.
const DEPTH: usize = 64;
/// Most elements of an array.
const ELEMENTS: usize = 10_000;
/// Most members of an object: annotations are the largest.
const MEMBERS: usize = 1_000;
/// Most arrays and objects together: ten thousand descriptors with a platform, annotations and URLs each.
const CONTAINERS: usize = 50_000;

/// What a text has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMuch {
    /// Nesting.
    #[error("it nests more than {DEPTH} deep")]
    Depth,
    /// Elements of one array.
    #[error("an array in it has more than {ELEMENTS} elements")]
    Elements,
    /// Members of one object.
    #[error("an object in it has more than {MEMBERS} members (annotations, for example)")]
    Members,
    /// Arrays and objects.
    #[error("it has more than {CONTAINERS} arrays and objects")]
    Containers,
}

/// Checks a JSON text.
pub(super) fn check(text: &[u8]) -> Result<(), TooMuch> {
    // Of each container that is open: how many commas it may still have, and what it has too much of beyond that.
    let mut open: Vec<(usize, TooMuch)> = Vec::with_capacity(DEPTH);
    let mut containers = 0;
    let (mut in_string, mut escaped) = (false, false);
    for byte in text {
        if in_string {
            (in_string, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                containers += 1;
                if containers > CONTAINERS {
                    return Err(TooMuch::Containers);
                }
                if open.len() == DEPTH {
                    return Err(TooMuch::Depth);
                }
                let array = *byte == b'[';
                open.push(if array { (ELEMENTS - 1, TooMuch::Elements) } else { (MEMBERS - 1, TooMuch::Members) });
            }
            b']' | b'}' => drop(open.pop()),
            b',' => {
                if let Some((left, too_much)) = open.last_mut() {
                    *left = left.checked_sub(1).ok_or(*too_much)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_in_every_direction() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let array = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        let members: Vec<String> = (0..MEMBERS + 1).map(|number| format!("\"{number}\":\"a,b\"")).collect();
        let object = |count: usize| format!("{{\"annotations\":{{{}}}}}", members[..count].join(","));
        let containers = |count: usize| {
            let some = format!("[{}]", vec!["{}"; 999].join(","));
            format!("[{}]", vec![some; count / 1000].join(","))
        };
        for (text, expected) in [
            ("{}".to_owned(), Ok(())),
            (nested(DEPTH), Ok(())),
            (nested(DEPTH + 1), Err(TooMuch::Depth)),
            (nested(100_000), Err(TooMuch::Depth)),
            (array(ELEMENTS), Ok(())),
            (array(ELEMENTS + 1), Err(TooMuch::Elements)),
            (object(MEMBERS), Ok(())),
            (object(MEMBERS + 1), Err(TooMuch::Members)),
            (containers(49_000), Ok(())),
            (containers(50_000), Err(TooMuch::Containers)),
            // Brackets and commas in texts are none.
            (format!("{{\"a\":\"{}\\\"{},,\"}}", "[".repeat(100), "{".repeat(100)), Ok(())),
            (format!("{{\"a\":\"\\\\\",\"b\":{}}}", nested(DEPTH)), Err(TooMuch::Depth)),
            // What is no JSON ends nowhere bad.
            ("]]]}}}\"".to_owned(), Ok(())),
            (",,,".to_owned(), Ok(())),
        ] {
            assert_eq!(check(text.as_bytes()), expected, "{}", &text[..text.len().min(80)]);
        }
    }
}
