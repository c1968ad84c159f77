//! docs/configuration.md and docs/origin-configuration.md name every key that is read, none that is not, and each default as
//! it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::{load_in, load_origin, scratch};

/// A page, and who reads what it describes.
struct Page {
    file: &'static str,
    /// The configuration as it shows itself, or what is wrong with it.
    load: fn(&Path, &str) -> Result<String, Vec<String>>,
    /// A good configuration with every section whose keys have defaults, and with what a key of a section needs beside it.
    around: fn(&str, &str) -> Value,
}

const EDGE: Page = Page {
    file: "configuration.md",
    load: |directory, text| load_in(directory, text).map(|config| format!("{config:?}")),
    around,
};

const ORIGIN: Page = Page {
    file: "origin-configuration.md",
    load: |directory, text| load_origin(directory, text).map(|config| format!("{config:?}")),
    around: around_origin,
};

/// A documented key: its default, where that is a value.
struct Row {
    key: String,
    default: Option<String>,
}

/// The tables of a page, by section.
fn documented(page: &Page) -> BTreeMap<String, Vec<Row>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page.file);
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

/// The keys that the parser knows in a section, as it lists them when it meets one that it does not know.
fn parsed(page: &Page, section: &str) -> BTreeSet<String> {
    let mut document = Value::Mapping(Mapping::new());
    section_at(&mut document, section).insert("~".into(), 1.into());
    let text = serde_yaml::to_string(&document).unwrap();
    let problems = (page.load)(Path::new("/nowhere"), &text).unwrap_err();
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
    for page in [EDGE, ORIGIN] {
        for (section, rows) in documented(&page) {
            let documented: BTreeSet<String> = rows.into_iter().map(|row| row.key).collect();
            assert_eq!(documented, parsed(&page, &section), "{}: {section}", page.file);
        }
    }
}

#[test]
fn has_a_table_for_every_section() {
    let sections = |page| documented(&page).into_keys().collect::<Vec<String>>();
    let of_edge = [
        "",
        "access",
        "admin",
        "cache",
        "limits",
        "limits.lowest_rate",
        "limits.requests_per_client",
        "listeners[]",
        "listeners[].sni[]",
        "listeners[].tls",
        "listeners[].tls.certificates[]",
        "pools[]",
        "pools[].discovery",
        "pools[].dns",
        "pools[].health",
        "pools[].health.json",
        "pools[].passive",
        "pools[].servers[]",
        "pools[].tls",
        "pools[].tls.client_certificate",
        "registries[]",
        "registries[].client_certificate",
        "registries[].credentials",
        "registries[].rate",
        "registries[].token_keys",
        "registries[].upstream[]",
    ];
    assert_eq!(sections(EDGE), of_edge);
    let of_origin = [
        "",
        "admin",
        "auth",
        "database",
        "garbage_collection",
        "limits",
        "limits.downloads",
        "limits.logins",
        "limits.lowest_rate",
        "limits.manifests",
        "limits.reads",
        "limits.writes",
        "listener",
        "listener.tls",
        "storage",
        "storage.file_system",
        "storage.s3",
    ];
    assert_eq!(sections(ORIGIN), of_origin);
}

fn around(_section: &str, key: &str) -> Value {
    let beside = |keys: &[&str], here: &'static str, elsewhere: &'static str| {
        if keys.contains(&key) { here } else { elsewhere }
    };
    let text = format!(
        "listeners: [{{ name: a, bind: '127.0.0.1:1', {} }}, {{ name: b, bind: '127.0.0.1:2' }}]\n\
         registries: [{{ name: a.io, {} }}]\n\
         cache: {{ path: /c, max_size: 1GiB }}\n\
         limits: {{ lowest_rate: {{}} }}\n\
         pools:\n\
         - {{ name: p, servers: [{{ address: 'a.example:1' }}], discovery: {{ name: b.example, port: 1 }}, dns: {{}}, tls: {{}},\n  \
             passive: {{}}, health: {{ kind: {} }} {} }}\n",
        match key {
            "half_close_timeout" => "mode: tcp, pool: p",
            "client_auth" => "tls: { certificates: [{ cert: a.crt, key: a.key }], client_ca: a.crt }",
            _ => "tls: { certificates: [{ cert: a.crt, key: a.key }] }",
        },
        match key {
            "authorization_ttl" | "offline_policy" => "pool: p",
            "insecure" => {
                "upstream: 'https://a.io', auth: passthrough, token_keys: { url: 'https://a.io/keys', issuer: a, audience: b }"
            }
            _ => "upstream: 'https://a.io'",
        },
        beside(&["role"], "redis", "http"),
        beside(&["hash_by"], ", balance: hash", ""),
    );
    serde_yaml::from_str(&text).unwrap()
}

fn around_origin(section: &str, key: &str) -> Value {
    let storage = match section == "storage.s3" || key == "redirect_lifetime" {
        true => "{ s3: { bucket: b } }",
        false => "{ file_system: { path: blobs } }",
    };
    let database = if key == "tls" { "{ postgres: 'postgres://a@b/c' }" } else { "{ sqlite: meta.db }" };
    let pulls = if key == "redirect_lifetime" { "redirect" } else { "stream" };
    let text = format!(
        "hostname: a.io\nlistener: {{ bind: '127.0.0.1:0' }}\nadmin: {{ bind: '127.0.0.1:0' }}\n\
         storage: {storage}\npulls: {pulls}\ndatabase: {database}\n\
         auth: {{}}\nlimits: {{ logins: {{}}, reads: {{}}, downloads: {{}}, manifests: {{}}, writes: {{}}, lowest_rate: {{}} }}\ngarbage_collection: {{}}\n"
    );
    serde_yaml::from_str(&text).unwrap()
}

#[test]
fn tells_each_default_as_it_is() {
    let directory = scratch();
    for (page, least) in [(EDGE, 80), (ORIGIN, 30)] {
        let load = |document: &Value| (page.load)(directory.path(), &serde_yaml::to_string(document).unwrap());
        let mut checked = 0;
        for (section, rows) in documented(&page) {
            for row in rows {
                let Some(default) = row.default else { continue };
                let mut left_out = (page.around)(&section, &row.key);
                section_at(&mut left_out, &section).remove(row.key.as_str());
                let mut written = left_out.clone();
                let value: Value = serde_yaml::from_str(&default).unwrap();
                section_at(&mut written, &section).insert(row.key.clone().into(), value);
                let default = load(&left_out).unwrap_or_else(|problems| panic!("{section}.{}: {problems:?}", row.key));
                assert_eq!(load(&written), Ok(default), "{section}.{}", row.key);
                checked += 1;
            }
        }
        assert!(checked > least, "{}: {checked}", page.file);
    }
}
