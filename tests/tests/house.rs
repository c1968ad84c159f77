//! The rules of the house: who may import whom, and which library appears where.
//!
//! The rules are a table over folders; what is checked is every path in every source file of the workspace, comments,
//! texts and tests left out. The rules would be worth nothing if the detector were blind, so it is shown violations too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A rule about one name that stands at the beginning of a path (`sled::Db`, `use sled`, `crate::edge`).
struct Rule {
    /// The name; a `*` at its end stands for any ending.
    name: &'static str,
    /// Which files the rule is about: those below one of these.
    about: &'static [&'static str],
    /// Where it may appear none the less.
    except: &'static [&'static str],
}

const EVERYWHERE: &[&str] = &["config/src/", "registry/src/", "service/src/", "proxy/src/", "origin/src/"];

const RULES: &[Rule] = &[
    // Who may import whom.
    Rule {
        name: "crate::client",
        about: &["registry/src/oci/", "registry/src/store/", "registry/src/token/"],
        except: &[],
    },
    Rule {
        name: "crate::store",
        about: &["registry/src/oci/", "registry/src/client/", "registry/src/token/"],
        except: &[],
    },
    Rule { name: "pierhead_*", about: &["registry/src/"], except: &[] },
    Rule { name: "pierhead_*", about: &["service/src/"], except: &[] },
    Rule { name: "pierhead_registry::client", about: &["config/src/", "origin/src/"], except: &[] },
    Rule { name: "pierhead_registry::store", about: &["config/src/"], except: &[] },
    Rule { name: "pierhead_origin", about: EVERYWHERE, except: &[] },
    Rule { name: "pierhead", about: EVERYWHERE, except: &[] },
    // The engine knows no face, the decisions no engine.
    Rule { name: "crate::edge", about: &["proxy/src/cache/", "proxy/src/front/", "proxy/src/admin/"], except: &[] },
    Rule { name: "crate::front", about: &["proxy/src/cache/"], except: &[] },
    Rule { name: "crate::app", about: &["proxy/src/"], except: &["proxy/src/cli.rs"] },
    Rule { name: "crate::cli", about: &["proxy/src/"], except: &["proxy/src/main.rs"] },
    Rule { name: "http", about: &["proxy/src/cache/"], except: &[] },
    // Pure: no I/O, no runtime.
    Rule { name: "tokio", about: &["registry/src/oci/", "registry/src/token/", "config/src/"], except: &[] },
    Rule { name: "std::fs", about: &["registry/src/oci/"], except: &[] },
    Rule { name: "std::net", about: &["registry/src/oci/"], except: &[] },
    // What appears only in one place.
    Rule {
        name: "pingora*",
        about: EVERYWHERE,
        except: &["proxy/src/app/", "proxy/src/front/", "proxy/src/edge/", "proxy/src/pool/", "proxy/src/admin/"],
    },
    Rule { name: "aws_sdk_s3", about: EVERYWHERE, except: &["registry/src/store/"] },
    Rule { name: "jsonwebtoken", about: EVERYWHERE, except: &["registry/src/token/"] },
    Rule { name: "sled", about: EVERYWHERE, except: &["proxy/src/cache/index/"] },
    Rule { name: "sea_orm*", about: EVERYWHERE, except: &["origin/src/meta/"] },
    Rule { name: "sqlx", about: EVERYWHERE, except: &["origin/src/meta/"] },
    Rule { name: "serde_yaml", about: EVERYWHERE, except: &["config/src/"] },
    Rule { name: "reqwest", about: EVERYWHERE, except: &["registry/src/client/"] },
    Rule { name: "axum", about: EVERYWHERE, except: &["proxy/src/admin/", "origin/src/api/"] },
];

/// Which of our crates each may depend on.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("registry", &[]),
    ("config", &["pierhead-registry"]),
    ("service", &[]),
    ("proxy", &["pierhead-config", "pierhead-registry", "pierhead-service"]),
    // Its tests run on a real database.
    ("origin", &["pierhead-config", "pierhead-registry", "pierhead-service", "pierhead-tests"]),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file of the workspace: its path from the root, and its text.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ["config", "registry", "service", "proxy", "origin", "tests", "bench"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// The code of a file that is part of a program: without comments, texts, and the tests, which stand last.
fn code(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut code = String::with_capacity(shipped.len());
    let mut rest = shipped.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => {
                rest.by_ref().find(|c| *c == '\n');
                code.push('\n');
            }
            '"' => {
                while let Some(c) = rest.next() {
                    match c {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                code.push_str("\"\"");
            }
            // A quotation mark as a character.
            '\'' if rest.peek() == Some(&'"') => {
                rest.next();
            }
            _ => code.push(c),
        }
    }
    code
}

/// Every path that stands in the code, and, for `use a::{b, c::d}`, every path that it brings in.
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // The prefixes of the braces around: a brace that follows `::` continues the path before it.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut path = String::new();
    for c in code.chars().chain([' ']) {
        if c.is_alphanumeric() || c == '_' || c == ':' {
            path.push(c);
            continue;
        }
        let ended = std::mem::take(&mut path);
        let prefix = open.iter().rev().map_while(Option::as_deref).next().unwrap_or_default();
        let whole = format!("{prefix}{}", ended.trim_start_matches("::"));
        if !ended.is_empty() && ended != ":" {
            found.insert(whole.clone());
        }
        match c {
            '{' => open.push(ended.ends_with("::").then_some(whole)),
            '}' => drop(open.pop()),
            _ => {}
        }
    }
    found
}

/// Whether a path begins with the name of a rule.
fn begins_with(path: &str, name: &str) -> bool {
    match name.strip_suffix('*') {
        Some(start) => {
            path.starts_with(start) && path.contains("::") || path.starts_with(start) && path.len() > start.len()
        }
        None => path.strip_prefix(name).is_some_and(|rest| rest.starts_with("::")),
    }
}

/// What a file does against the rules.
fn violations(file: &str, text: &str) -> Vec<String> {
    let below = |places: &[&str]| places.iter().any(|place| file.starts_with(place));
    if file.ends_with("/tests.rs") || file.contains("/tests/") {
        return Vec::new();
    }
    // `use sled;` brings in a path without a tail; it is written as one that has.
    let code = code(text);
    let mut paths = paths(&code);
    for line in code.lines() {
        let line = line.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        if let Some(used) = line.strip_prefix("use ") {
            let name = used.split([';', ' ']).next().unwrap_or_default();
            paths.insert(format!("{name}::"));
        }
    }
    RULES
        .iter()
        .filter(|rule| below(rule.about) && !below(rule.except))
        .flat_map(|rule| {
            let offending = paths.iter().find(|path| begins_with(path, rule.name));
            offending.map(|path| format!("{file}: {path} (the rule about {})", rule.name))
        })
        .collect()
}

/// Which of our crates a manifest names that its crate must not depend on.
fn forbidden_dependencies(allowed: &[&str], manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .filter_map(|line| line.split(['=', '.', ' ']).next())
        .filter(|name| name.starts_with("pierhead") && !allowed.contains(name))
        .map(str::to_owned)
        .collect()
}

#[test]
fn nobody_imports_what_is_not_theirs() {
    let sources = sources();
    assert!(sources.len() > 50, "the sources were not found");
    let found: Vec<String> = sources.iter().flat_map(|(file, text)| violations(file, text)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn manifests_follow_the_same_rules() {
    for (member, allowed) in DEPENDENCIES {
        let Ok(manifest) = std::fs::read_to_string(root().join(member).join("Cargo.toml")) else { continue };
        let forbidden = forbidden_dependencies(allowed, &manifest);
        assert!(forbidden.is_empty(), "{member} depends on {forbidden:?}");
    }
}

#[test]
fn what_a_manifest_names_is_used() {
    let sources = sources();
    for member in ["config", "registry", "service", "proxy", "origin", "tests", "bench"] {
        let manifest = std::fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        let named = manifest.lines().filter_map(|line| line.strip_suffix(" = { workspace = true }"));
        for name in named {
            // The one crate whose library is called otherwise.
            let library = name.replace('-', "_").replace("rustls_webpki", "webpki");
            let own = sources.iter().filter(|(file, _)| file.starts_with(&format!("{member}/")));
            let used = own.flat_map(|(_, text)| text.lines()).any(|line| {
                !line.trim_start().starts_with("//")
                    && (line.contains(&format!("{library}::")) || line.contains(&format!("use {library} as")))
            });
            assert!(used, "{member} names {name} and does not use it");
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_is_named_after_it() {
    for (file, text) in sources() {
        assert!(text.starts_with("//!"), "{file} does not open with //!");
        let named = file.split(['/', '.']).find(|part| EMPTY_NAMES.contains(part));
        assert_eq!(named, None, "{file} has a name that says nothing");
    }
}

#[test]
fn the_detector_sees_violations() {
    for (file, text) in [
        ("proxy/src/edge/mod.rs", "use sled::Db;"),
        ("proxy/src/edge/mod.rs", "use sled;"),
        ("proxy/src/edge/mod.rs", "fn f(db: &sled::Db) {}"),
        ("proxy/src/edge/mod.rs", "use {std::sync::Arc, sled::Db};"),
        ("proxy/src/cache/mod.rs", "use pingora_core::protocols::Stream;"),
        ("proxy/src/cache/mod.rs", "use crate::{admin::metrics, edge::Edge};"),
        ("proxy/src/cache/mod.rs", "pub(crate) use crate::front::Drain;"),
        ("proxy/src/cache/mod.rs", "use http::StatusCode;"),
        ("registry/src/oci/name.rs", "use std::{fmt, fs::File};"),
        ("registry/src/oci/name.rs", "use crate::client::Client;"),
        ("registry/src/client/mod.rs", "use pierhead_config::Config;"),
        ("config/src/load.rs", "use pierhead_registry::{oci::Digest, client::Client};"),
        ("config/src/load.rs", "let a = '\"'; use tokio::fs;"),
    ] {
        assert_eq!(violations(file, text).len(), 1, "{file}: {text}");
    }
    assert_eq!(forbidden_dependencies(&["pierhead-registry"], "pierhead-config = { workspace = true }").len(), 1);
    assert_eq!(forbidden_dependencies(&[], "pierhead.path = \"../proxy\"").len(), 1);
}

#[test]
fn the_detector_sees_nothing_else() {
    for (file, text) in [
        ("proxy/src/cache/index/mod.rs", "use sled::Db;"),
        ("proxy/src/front/mod.rs", "use pingora_core::protocols::Stream;"),
        ("proxy/src/front/tests.rs", "use reqwest::Client;"),
        ("proxy/src/edge/mod.rs", "//! Not sled::Db.\nconst A: &str = \"sled::Db \\\" pingora::x\"; // sled::Db"),
        ("proxy/src/edge/mod.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use sled::Db;\n}"),
        ("proxy/src/cache/mod.rs", "use crate::{admin::metrics::Metrics, cache::fill::{edge::Reach, http}};"),
        ("proxy/src/cache/mod.rs", "let http = 1; match edge { front::Side => http }"),
        ("config/src/load.rs", "use pierhead_registry::oci::{Digest, RepositoryName};"),
    ] {
        assert_eq!(violations(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}
