//! An origin's configuration: a good one with every key, and one with hardly any.

use std::path::Path;
use std::time::Duration;

use super::{load_origin, scratch};
use crate::model::{
    Admission, DatabaseKind, DatabaseTls, KeyAlgorithm, LowestRate, OriginAuth, Pulls, RegistryState, S3Credentials,
    Storage,
};
use crate::secret::Secret;

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1024 * 1024;

const EVERYTHING: &str = r#"
hostname: registry.example.com:8443
aliases: [registry.internal, "registry.lan:5000"]
listener:
  bind: 0.0.0.0:8443
  tls: { cert: a.crt, key: a.key }
  trusted_proxies: [10.0.0.0/8, "::1"]
admin: { bind: "localhost:9999" }
storage:
  s3:
    endpoint: https://rgw.example.com:7480
    region: eu
    bucket: quay
    prefix: /datastorage/registry/
    access_key_id: me
    secret_access_key_file: password
    path_style: false
    ca: a.crt
    part_size: 16MiB
    connect_timeout: 1s
    timeout: 2s
pulls: redirect
redirect_lifetime: 5m
database:
  postgres: postgres://me@db.example.com:5433/origin
  password_env: HUB_PASSWORD
  tls: verify_ca
  ca: a.crt
  max_connections: 7
  min_connections: 3
  connect_timeout: 4s
  statement_timeout: 5s
auth: { token_lifetime: 5m, key_algorithm: rs256, key_rotation: 1d, anonymous_pulls: false, failed_logins: 3, show_robot_tokens: false }
limits:
  max_layer_size: 1GiB
  max_manifest_size: 1MiB
  max_connections: 50
  logins: { running: 5 }
  reads: { running: 1, queued: 2, wait: 3s }
  downloads: { running: 6 }
  manifests: { running: 7 }
  writes: { running: 4, queued: 0, wait: 0 }
  lowest_rate: { bytes_per_second: 2KiB, grace: 4s }
  open_uploads: 8
  header_timeout: 6s
  idle_timeout: 7s
registry_state: readonly
tag_expiration: 0
garbage_collection: { interval: never, blob_grace: 8s, upload_expiration: 9s }
action_log_retention: 1d
access_log: false
drain_timeout: 10s
drain_wait: 11s
"#;

#[test]
fn reads_every_key() {
    let directory = scratch();
    let config = load_origin(directory.path(), EVERYTHING).unwrap();
    let file = |name: &str| Some(directory.path().join(name));
    assert_eq!(config.hostname, "registry.example.com:8443");
    assert_eq!(config.listener.bind.to_string(), "0.0.0.0:8443");
    assert_eq!(config.listener.tls.map(|pair| pair.cert), file("a.crt"));
    let trusted: Vec<String> = config.listener.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["10.0.0.0/8", "::1/128"]);
    assert_eq!(config.admin.to_string(), "127.0.0.1:9999");
    let Storage::S3(s3) = config.storage else { panic!("not in a bucket") };
    assert_eq!(s3.endpoint.unwrap().as_str(), "https://rgw.example.com:7480/");
    assert_eq!((s3.region.as_str(), s3.bucket.as_str(), s3.prefix.as_str()), ("eu", "quay", "datastorage/registry"));
    let secret = Secret::new("from a file");
    assert_eq!(s3.credentials, Some(S3Credentials { access_key_id: "me".to_owned(), secret_access_key: secret }));
    assert_eq!((s3.path_style, s3.ca, s3.part_size), (false, file("a.crt"), 16 * MIB));
    assert_eq!((s3.connect_timeout, s3.timeout), (SECOND, 2 * SECOND));
    assert_eq!(config.pulls, Pulls::Redirect(300 * SECOND));
    let DatabaseKind::Postgres { url, password, tls, ca } = config.database.kind else { panic!("not PostgreSQL") };
    assert_eq!(url.as_str(), "postgres://me@db.example.com:5433/origin");
    assert_eq!((password, tls, ca), (Some(Secret::new("from the environment")), DatabaseTls::VerifyCa, file("a.crt")));
    assert_eq!((config.database.max_connections, config.database.min_connections), (7, 3));
    assert_eq!((config.database.connect_timeout, config.database.statement_timeout), (4 * SECOND, 5 * SECOND));
    let auth = OriginAuth {
        token_lifetime: 300 * SECOND,
        key_algorithm: KeyAlgorithm::Rs256,
        key_rotation: 24 * 3600 * SECOND,
        anonymous_pulls: false,
        failed_logins: 3,
        show_robot_tokens: false,
    };
    assert_eq!(config.auth, auth);
    let limits = config.limits;
    assert_eq!((limits.max_layer_size, limits.max_manifest_size, limits.max_connections), (1024 * MIB, MIB, 50));
    assert_eq!(limits.reads, Admission { running: 1, queued: 2, wait: 3 * SECOND });
    assert_eq!(limits.writes, Admission { running: 4, queued: 0, wait: Duration::ZERO });
    let running = [limits.logins, limits.downloads, limits.manifests].map(|limit| limit.running);
    assert_eq!((running, limits.open_uploads), ([5, 6, 7], 8));
    assert_eq!(limits.lowest_rate, LowestRate { bytes_per_second: 2048, grace: 4 * SECOND });
    assert_eq!((limits.header_timeout, limits.idle_timeout), (6 * SECOND, 7 * SECOND));
    assert_eq!(config.registry_state, RegistryState::ReadOnly);
    assert_eq!(config.tag_expiration, Duration::ZERO);
    assert_eq!(config.garbage_collection.interval, None);
    assert_eq!(config.garbage_collection.blob_grace, 8 * SECOND);
    assert_eq!(config.garbage_collection.upload_expiration, 9 * SECOND);
    assert_eq!(config.action_log_retention, 24 * 3600 * SECOND);
    assert!(!config.access_log);
    assert_eq!((config.drain_timeout, config.drain_wait), (10 * SECOND, 11 * SECOND));
}

#[test]
fn little_is_needed() {
    let text = "hostname: localhost:5000\nlistener: { bind: 'localhost:5080' }\n\
                storage: { file_system: { path: blobs } }\ndatabase: { sqlite: meta.db }";
    let config = load_origin(Path::new("/nowhere"), text).unwrap();
    assert_eq!(config.storage, Storage::FileSystem { path: "/nowhere/blobs".into() });
    assert_eq!(config.database.kind, DatabaseKind::Sqlite("/nowhere/meta.db".into()));
    assert_eq!((config.pulls, config.registry_state), (Pulls::Stream, RegistryState::Normal));
    assert_eq!(config.admin.port(), 9091);
    assert_eq!(config.garbage_collection.interval, Some(3600 * SECOND));
    assert!(config.listener.trusted_proxies.is_empty() && config.auth.anonymous_pulls && config.access_log);
}

#[test]
fn path_style_is_for_stores_of_ones_own() {
    for (keys, expected) in [
        ("bucket: b", false),
        ("bucket: b, endpoint: 'http://localhost:9000'", true),
        ("bucket: b, endpoint: 'http://localhost:9000', path_style: false", false),
    ] {
        let text = format!(
            "hostname: a\nlistener: {{ bind: 'localhost:1' }}\ndatabase: {{ sqlite: m }}\nstorage: {{ s3: {{ {keys} }} }}"
        );
        let Storage::S3(s3) = load_origin(Path::new("/nowhere"), &text).unwrap().storage else { panic!("{keys}") };
        assert_eq!(s3.path_style, expected, "{keys}");
    }
}
