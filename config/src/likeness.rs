//! What was probably meant by a name that nobody knows.

/// How alike an unknown and a known name must be for the one to be taken for the other.
const ALIKE: f64 = 0.6;

/// The known name that was probably meant.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let written = plain(written);
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(&written, &plain(name));
    let rated = known.into_iter().map(|name| (likeness(name), name));
    let (best, name) = rated.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best >= ALIKE).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn suggests_what_was_meant() {
        let known = ["tag_ttl", "negative_ttl", "upstream", "name", "hosts", "max_size"];
        for (written, meant) in [
            ("tagttl", Some("tag_ttl")),
            ("tag-ttl", Some("tag_ttl")),
            ("upstreams", Some("upstream")),
            ("Name", Some("name")),
            ("host", Some("hosts")),
            ("maxsize", Some("max_size")),
            ("nmae", Some("name")),
            ("registry", None),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known), meant, "{written}");
        }
        assert_eq!(nearest("anything", []), None);
    }
}
