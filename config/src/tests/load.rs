//! Good configurations: one with every key, and the defaults.

use std::path::Path;
use std::time::Duration;

use super::{completed, load, load_in, scratch};
use crate::model::{Admin, AuthMode, OfflinePolicy, RedirectTarget, TlsVersion};

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1024 * 1024;

const EVERYTHING: &str = r#"
listeners:
  - name: registry
    bind: "[::1]:443"
    mode: http
    tls:
      certificates: [{ cert: a.crt, key: a.key }]
      min_version: "1.3"
    header_timeout: 5s
    max_header_size: 32KiB
    idle_timeout: 2m
    tunnel_timeout: 3h
    write_timeout: 30s
    max_connections: 500
  - { name: plain, bind: "localhost:${PORT}" }
registries:
  - name: docker.io
    hosts: [hub.example.com, "hub.example.com:8443"]
    default: true
    library: true
    upstream:
      - { url: "https://registry-1.docker.io", repository_prefix: hub, credentials: { username: edge, password: own } }
      - { url: "http://mirror.example.com:5000/base", insecure: true }
      - { url: "https://other.example.com", ca: a.crt, client_certificate: { cert: a.crt, key: a.key } }
    credentials: { username: someone, password_file: password }
    realms: [login.example.com]
    redirects_to: [minio.example.com, "minio.example.com:9000", 10.0.0.0/8, "fd00::1"]
    auth: shared
    tag_ttl: 1m
    negative_ttl: 0
    revalidate_budget: 250ms
    immutable_tags: ["v*.*.*"]
    stale_if_error: false
    keep_deleted: true
    allow: ["library/*"]
    deny: ["library/secret*"]
    pin: ["library/alpine:3*"]
    connect_timeout: 1s
    first_byte_timeout: 2s
    idle_timeout: 3s
    retries: 1
    resume_for: 4s
    cool_down: 5s
    connections_per_upstream: 2
    parallel_above: 1GiB
    max_manifest_size: 8MiB
cache:
  path: store
  max_size: 200GiB
  offline: true
  fsync: never
  verify_on_read: true
  scrub_interval: never
  memory: 16MiB
admin: { bind: "127.0.0.1:0" }
access: { htpasswd: users }
access_log: false
drain_timeout: 1h
drain_wait: 5s
"#;

#[test]
fn reads_every_key() {
    let directory = scratch();
    let config = load_in(directory.path(), EVERYTHING).unwrap();
    let listener = &config.listeners[0];
    assert_eq!((listener.name.as_str(), listener.bind.to_string()), ("registry", "[::1]:443".to_owned()));
    let tls = listener.http().unwrap().tls.as_ref().unwrap();
    assert_eq!(tls.min_version, TlsVersion::Tls13);
    assert_eq!(tls.certificates[0].key, directory.path().join("a.key"));
    assert_eq!(listener.http().unwrap().header_timeout, Duration::from_secs(5));
    assert_eq!(listener.http().unwrap().max_header_size, 32 * 1024);
    assert_eq!(
        (listener.http().unwrap().idle_timeout, listener.http().unwrap().write_timeout),
        (2 * MINUTE, MINUTE / 2)
    );
    assert_eq!(listener.http().unwrap().tunnel_timeout, 180 * MINUTE);
    assert_eq!(listener.max_connections, 500);
    assert_eq!(config.listeners[1].bind.to_string(), "127.0.0.1:5000");

    let registry = &config.registries[0];
    assert_eq!(registry.hosts, ["hub.example.com", "hub.example.com:8443"]);
    assert!(registry.default && registry.library && registry.keep_deleted && !registry.stale_if_error);
    assert_eq!((registry.tag_ttl, registry.negative_ttl), (MINUTE, Duration::ZERO));
    assert_eq!(registry.revalidate_budget, Duration::from_millis(250));
    assert!(registry.immutable_tags.matches("v1.2.3") && !registry.immutable_tags.matches("latest"));
    assert!(registry.pin.matches("library/alpine:3.20"));
    assert!(registry.allows(&"library/alpine".parse().unwrap()));
    assert!(!registry.allows(&"library/secrets".parse().unwrap()));
    assert!(!registry.allows(&"me/alpine".parse().unwrap()));

    let upstream = &registry.upstream;
    let urls: Vec<&str> = upstream.source.endpoints().iter().map(|endpoint| endpoint.url.as_str()).collect();
    let expected =
        ["https://registry-1.docker.io/", "http://mirror.example.com:5000/base", "https://other.example.com/"];
    assert_eq!(urls, expected);
    assert_eq!(upstream.source.endpoints()[2].ca, Some(directory.path().join("a.crt")));
    assert!(upstream.source.endpoints()[2].client_certificate.is_some() && upstream.source.endpoints()[0].ca.is_none());
    let credentials = upstream.credentials.as_ref().unwrap();
    assert_eq!(credentials.password.reveal(), "from a file");
    assert_eq!(credentials.password_file, Some(directory.path().join("password")));
    let [first, second, _] = upstream.source.endpoints() else { panic!("three addresses") };
    assert_eq!(first.credentials.as_ref().unwrap().password.reveal(), "own");
    assert_eq!((first.repository_prefix.as_deref(), &second.repository_prefix), (Some("hub"), &None));
    assert!(second.credentials.is_none());
    let host = |port| RedirectTarget::Host { host: "minio.example.com".to_owned(), port };
    let network = |text: &str| RedirectTarget::Network(text.parse().unwrap());
    let expected = [host(None), host(Some(9000)), network("10.0.0.0/8"), network("fd00::1/128")];
    assert_eq!(upstream.redirects_to, expected);
    assert_eq!(upstream.realms, ["login.example.com"]);
    let seconds =
        [upstream.connect_timeout, upstream.first_byte_timeout, upstream.idle_timeout].map(|timeout| timeout.as_secs());
    assert_eq!(seconds, [1, 2, 3]);
    assert_eq!((upstream.retries, upstream.connections), (1, 2));
    assert_eq!((upstream.resume_for.as_secs(), upstream.cool_down.as_secs()), (4, 5));
    assert_eq!((upstream.parallel_above, upstream.max_manifest_size), (1024 * MIB, 8 * MIB));

    let cache = config.cache.as_ref().unwrap();
    assert_eq!((cache.path.as_path(), cache.max_size), (&*directory.path().join("store"), 200 * 1024 * MIB));
    assert!(cache.offline && !cache.fsync && cache.verify_on_read && cache.scrub_interval.is_none());
    assert_eq!(cache.memory, 16 * MIB);
    let users: Vec<&str> = config.access.as_ref().unwrap().users.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(users, ["alice", "bob"]);
    assert!(!config.access_log);
    assert_eq!((config.drain_timeout, config.drain_wait), (60 * MINUTE, MINUTE / 12));
}

#[test]
fn fills_in_defaults() {
    let config = load(
        "listeners: [{ name: a, bind: 'localhost:5000' }]\n\
         registries: [{ name: docker.io, upstream: 'https://registry-1.docker.io' }, \
                      { name: quay.io, upstream: 'https://quay.io' }]\n\
         cache: { path: '${XDG_DATA_HOME:-${HOME}/.local/share}/pierhead', max_size: 1073741824 }\n",
    )
    .unwrap();
    let listener = &config.listeners[0];
    assert!(listener.http().unwrap().tls.is_none());
    assert_eq!(
        (listener.http().unwrap().header_timeout, listener.http().unwrap().max_header_size),
        (MINUTE / 6, 64 * 1024)
    );
    assert_eq!((listener.http().unwrap().idle_timeout, listener.http().unwrap().write_timeout), (MINUTE, MINUTE));
    assert_eq!(listener.max_connections, 10_000);
    let [hub, quay] = config.registries.as_slice() else { panic!("two registries") };
    assert!(hub.library && !quay.library && !hub.default);
    assert_eq!((hub.auth, hub.offline_policy), (AuthMode::Shared, OfflinePolicy::Deny));
    assert_eq!((hub.tag_ttl, hub.negative_ttl), (5 * MINUTE, MINUTE / 6));
    assert_eq!((hub.revalidate_budget, hub.authorization_ttl), (MINUTE / 60, 5 * MINUTE));
    assert!(hub.stale_if_error && !hub.keep_deleted && hub.allow.is_empty() && hub.pin.is_empty());
    assert!(hub.allows(&"any/thing".parse().unwrap()));
    let upstream = &hub.upstream;
    assert!(upstream.credentials.is_none() && upstream.realms.is_empty());
    assert_eq!((upstream.connect_timeout, upstream.first_byte_timeout), (MINUTE / 12, MINUTE / 2));
    assert_eq!((upstream.idle_timeout, upstream.resume_for), (MINUTE, 2 * MINUTE));
    assert_eq!((upstream.cool_down, upstream.retries, upstream.connections), (MINUTE / 2, 3, 8));
    assert_eq!((upstream.parallel_above, upstream.max_manifest_size), (64 * MIB, 4 * MIB));
    assert_eq!(config.cache.as_ref().unwrap().path, Path::new("/home/me/.local/share/pierhead"));
    assert_eq!(
        (config.cache.as_ref().unwrap().max_size, config.cache.as_ref().unwrap().memory),
        (1024 * MIB, 64 * MIB)
    );
    let cache = config.cache.unwrap();
    assert!(cache.fsync && !cache.offline && !cache.verify_on_read);
    assert_eq!(cache.scrub_interval, Some(7 * 24 * 60 * MINUTE));
    assert_eq!(config.admin.bind.to_string(), "127.0.0.1:9090");
    assert!(config.access.is_none() && config.access_log);
    assert_eq!((config.drain_timeout, config.drain_wait), (5 * MINUTE, Duration::ZERO));
}

#[test]
fn merges_anchors() {
    let config = load(&completed(
        "registries:\n- &base { name: a.io, upstream: 'https://a.io', tag_ttl: 1h }\n- { <<: *base, name: b.io }\n",
    ))
    .unwrap();
    assert_eq!(config.registries[1].name, "b.io");
    assert_eq!(config.registries[1].tag_ttl, 60 * MINUTE);
}

/// Operators reach an edge by the `admin` section of its file while the rest of the file is broken.
#[test]
fn the_admin_section_is_read_whatever_is_wrong_with_the_rest() {
    let directory = scratch();
    let path = directory.path().join("edge.yaml");
    let admin = "admin:\n  # for operators\n  bind: 127.0.0.1:7777\n\n  token: a-token-of-some-length\n";
    for (before, after) in [
        ("", ""),
        ("listeners: 7\nregistries: [{ nonsense: true }]\n", "cache: none\n"),
        ("listeners: [\n", "cache: {\n"),
        ("listeners: []\nlisteners: []\n", ""),
        ("administrators: {\n", "cache\n"),
        ("pools: *unknown\n", "- a\nb\n"),
    ] {
        std::fs::write(&path, format!("{before}{admin}{after}")).unwrap();
        let read = Admin::load(&path).unwrap_or_else(|problems| panic!("{before}…{after}: {problems}"));
        assert_eq!(read.bind.to_string(), "127.0.0.1:7777", "{before}…{after}");
        assert_eq!(read.token.unwrap().reveal(), "a-token-of-some-length");
    }
    for (text, expected) in
        [("listeners: [\n", "127.0.0.1:9090"), ("admin: { bind: 'localhost:1' }\nlisteners: [", "127.0.0.1:1")]
    {
        std::fs::write(&path, text).unwrap();
        assert_eq!(Admin::load(&path).unwrap().bind.to_string(), expected, "{text}");
    }
    std::fs::write(&path, "listeners: [\nadmin: { bind: nowhere }\n").unwrap();
    assert!(Admin::load(&path).unwrap_err().to_string().starts_with("admin.bind: "));
}
