//! Every example is a good configuration, and means what it says.

use std::path::Path;

use super::{load_in, load_origin};
use crate::model::{
    Address, AuthMode, Config, DatabaseKind, DatabaseTls, HttpTarget, OriginConfig, Pulls, Source, Storage,
};

/// Loads an example of the edge's.
fn load(name: &str) -> Config {
    read(name, load_in)
}

/// Loads an example of the origin's.
fn origin(name: &str) -> OriginConfig {
    read(name, load_origin)
}

/// Loads an example in a directory with the files that the examples name.
fn read<T>(name: &str, load: fn(&Path, &str) -> Result<T, Vec<String>>) -> T {
    let directory = tempfile::tempdir().unwrap();
    for folder in ["tls", "secrets"] {
        std::fs::create_dir(directory.path().join(folder)).unwrap();
    }
    for file in ["edge", "origin", "hub", "client", "site-ca"] {
        for kind in ["crt", "key"] {
            std::fs::write(directory.path().join(format!("tls/{file}.{kind}")), "").unwrap();
        }
    }
    for file in ["docker.io", "mirror", "registry.redhat.io", "redis", "s3", "database"] {
        std::fs::write(directory.path().join("secrets").join(file), "secret\n").unwrap();
    }
    std::fs::write(directory.path().join("users"), format!("example:$2y$05${}\n", "a".repeat(53))).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let text = std::fs::read_to_string(examples.join(name)).unwrap();
    load(directory.path(), &text).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"))
}

#[test]
fn all_are_good() {
    let examples = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap();
    let names: Vec<String> = examples
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    assert!(names.len() >= 6, "{names:?}");
    for name in names {
        if name.starts_with("origin") {
            origin(&name);
        } else {
            load(&name);
        }
    }
}

#[test]
fn origins_mean_what_they_say() {
    let alone = origin("origin.yaml");
    assert!(matches!(alone.storage, Storage::FileSystem { .. }));
    assert!(matches!(alone.database.kind, DatabaseKind::Sqlite(_)));
    assert!(alone.listener.tls.is_none() && !alone.listener.trusted_proxies.is_empty());
    let several = origin("origin-ha.yaml");
    let Storage::S3(s3) = &several.storage else { panic!("not in a bucket") };
    assert!(s3.ca.is_some() && s3.path_style && s3.prefix == "datastorage/registry");
    assert!(matches!(several.pulls, Pulls::Redirect(_)));
    let DatabaseKind::Postgres { tls, password, .. } = &several.database.kind else { panic!("not PostgreSQL") };
    assert!(*tls == DatabaseTls::VerifyFull && password.is_some());
    assert!(several.listener.tls.is_some() && !several.auth.anonymous_pulls);
}

#[test]
fn quickstart_needs_nothing() {
    let config = load("quickstart.yaml");
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:5000");
    assert!(config.listeners[0].http().unwrap().tls.is_none());
    assert_eq!(config.admin.bind.to_string(), "127.0.0.1:5001");
    assert_eq!(config.cache.as_ref().unwrap().path, Path::new("/home/me/.local/share/pierhead"));
    let names: Vec<&str> = config.registries.iter().map(|registry| registry.name.as_str()).collect();
    let expected = [
        "docker.io",
        "quay.io",
        "ghcr.io",
        "registry.k8s.io",
        "gcr.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
        "registry.redhat.io",
        "127.0.0.1:5000",
    ];
    assert_eq!(names, expected);
    // The two quickstarts know of each other.
    let (ours, own) = (config.registries.last().unwrap(), origin("origin-quickstart.yaml"));
    assert_eq!(ours.hosts, [own.hostname]);
    assert_eq!(ours.upstream.source, Source::Pool(config.pools[0].name.clone()));
    assert_eq!(config.pools[0].servers[0].address, Address::Socket(own.listener.bind));
    assert!(config.registries[0].default && config.registries[0].library);
}

#[test]
fn the_others_mean_what_they_say() {
    let edge = load("edge.yaml");
    let hub = &edge.registries[0];
    assert_eq!(hub.upstream.source.endpoints().len(), 2);
    assert!(hub.upstream.source.endpoints()[0].ca.is_some() && hub.upstream.source.endpoints()[1].ca.is_none());
    assert!(hub.allows(&"library/alpine".parse().unwrap()) && !hub.allows(&"someone/alpine".parse().unwrap()));
    assert!(hub.immutable_tags.matches("2.7-1.4.12") && !hub.immutable_tags.matches("3-alpine"));
    assert!(edge.access.is_some());

    let private = load("private.yaml");
    assert_eq!(private.registries[0].auth, AuthMode::Passthrough);
    assert!(private.registries[0].upstream.source.endpoints()[0].client_certificate.is_some());

    assert!(load("offline.yaml").cache.unwrap().offline);

    let replacement = load("haproxy-replacement.yaml");
    let ports: Vec<u16> = replacement.listeners.iter().map(|listener| listener.bind.port()).collect();
    assert_eq!(ports, [80, 443, 6379, 7480]);
    assert!(replacement.pools.iter().all(|pool| pool.servers.len() == 3 && pool.retries == 3 && pool.health.is_some()));
    assert!(replacement.cache.is_none());

    let door = load("front-door.yaml");
    assert_eq!(door.registries[0].upstream.source, Source::Pool("quay".to_owned()));
    assert_eq!(door.registries[0].auth, AuthMode::Passthrough);
    assert_eq!(door.listeners[1].http().unwrap().target, HttpTarget::RedirectToHttps(443));
    assert!(door.pools[0].tls.is_some() && door.pools[0].servers[2].backup);
}

#[test]
fn the_one_in_the_readme_is_good() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let (_, rest) = text.split_once("## Configuration").unwrap().1.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let config = load_in(Path::new("/etc/pierhead"), example).unwrap();
    assert_eq!(config.registries.len(), 2);
}
