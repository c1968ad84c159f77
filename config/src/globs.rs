//! Lists of patterns.

use crate::model::Globs;
use crate::section::Section;

/// A list of patterns, each compiled; none where the key is not there.
pub(crate) fn globs(section: &mut Section<'_>, key: &'static str) -> Globs {
    let Some(field) = section.take(key) else { return Globs::default() };
    let patterns = field.list(|entry| {
        let pattern = entry.text("a pattern such as `library/*`")?;
        match Globs::new(vec![pattern.clone()]) {
            Ok(_) => Some(pattern),
            Err(error) => {
                entry.problem(error.to_string());
                None
            }
        }
    });
    match patterns.map(Globs::new) {
        Some(Ok(globs)) => globs,
        Some(Err(error)) => {
            field.problem(error.to_string());
            Globs::default()
        }
        None => Globs::default(),
    }
}
