//! docs/configuration.md names every key that is read, none that is not, and each default as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::load_in;

/// A documented key: its default, where that is a value.
struct Row {
    key: String,
    default: Option<String>,
}

/// The tables of the documentation, by section.
fn documented() -> BTreeMap<String, Vec<Row>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut sections: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines() {
        if line.starts_with("##") {
            section = line.split('`').nth(1).unwrap_or_default().to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.split(" | ").collect();
            let code = |cell: &str| cell.strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
            let row = Row { key: cells[0].trim_end_matches('`').to_owned(), default: code(cells[2]) };
            sections.entry(section.clone()).or_default().push(row);
        }
    }
    sections
}

/// The section at a path such as `registries[].upstream[]`, made where it is missing.
fn section_at<'a>(document: &'a mut Value, path: &str) -> &'a mut Mapping {
    let mut at = document;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, is_list) = (part.trim_end_matches("[]"), part.ends_with("[]"));
        let mapping = at.as_mapping_mut().unwrap();
        at = mapping.entry(key.into()).or_insert(Value::Null);
        if is_list {
            if !at.is_sequence() {
                *at = Value::Sequence(vec![Value::Mapping(Mapping::new())]);
            }
            at = at.get_mut(0).unwrap();
        }
        if !at.is_mapping() {
            *at = Value::Mapping(Mapping::new());
        }
    }
    at.as_mapping_mut().unwrap()
}

fn load(document: &Value) -> Result<String, Vec<String>> {
    let text = serde_yaml::to_string(document).unwrap();
    load_in(Path::new("/nowhere"), &text).map(|config| format!("{config:?}"))
}

/// The keys that the parser knows in a section, as it lists them when it meets one that it does not know.
fn parsed(section: &str) -> BTreeSet<String> {
    let mut document = Value::Mapping(Mapping::new());
    section_at(&mut document, section).insert("~".into(), 1.into());
    let problems = load(&document).unwrap_err();
    let lists: Vec<&str> = problems
        .iter()
        .filter_map(|line| line.split_once("~: unknown key; the keys here are "))
        .map(|(_, keys)| keys)
        .collect();
    assert_eq!(lists.len(), 1, "{section}: {problems:?}");
    lists[0].split(", ").map(str::to_owned).collect()
}

#[test]
fn names_every_key_and_no_other() {
    for (section, rows) in documented() {
        let documented: BTreeSet<String> = rows.into_iter().map(|row| row.key).collect();
        assert_eq!(documented, parsed(&section), "{section}");
    }
}

#[test]
fn has_a_table_for_every_section() {
    let sections: Vec<String> = documented().into_keys().collect();
    let expected = [
        "",
        "access",
        "admin",
        "cache",
        "listeners[]",
        "listeners[].tls",
        "listeners[].tls.certificates[]",
        "registries[]",
        "registries[].client_certificate",
        "registries[].credentials",
        "registries[].upstream[]",
    ];
    assert_eq!(sections, expected);
}

#[test]
fn tells_each_default_as_it_is() {
    let base = |auth: &str| -> Value {
        serde_yaml::from_str(&format!(
            "listeners: [{{ name: a, bind: '127.0.0.1:1' }}]\n\
             registries: [{{ name: a.io, upstream: 'https://a.io'{auth} }}]\n\
             cache: {{ path: /c, max_size: 1GiB }}\n"
        ))
        .unwrap()
    };
    let mut checked = 0;
    for (section, rows) in documented() {
        if section.starts_with("listeners[].tls") {
            // There is no TLS without the files of a certificate.
            continue;
        }
        for row in rows {
            let Some(default) = row.default else { continue };
            let auth = match row.key.as_str() {
                "authorization_ttl" | "offline_policy" => ", auth: passthrough",
                _ => "",
            };
            let left_out = base(auth);
            let mut written = left_out.clone();
            let value: Value = serde_yaml::from_str(&default).unwrap();
            section_at(&mut written, &section).insert(row.key.clone().into(), value);
            let default = load(&left_out).unwrap();
            assert_eq!(load(&written), Ok(default), "{section}.{}", row.key);
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked}");
}
