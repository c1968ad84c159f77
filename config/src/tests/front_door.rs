//! Pools, listeners of every kind, and limits: good ones with every key, and what is refused.

use std::path::Path;
use std::time::Duration;

use super::{completed, load, load_in, scratch};
use crate::model::{
    Address, Balance, Ciphers, DnsRecord, HashBy, HealthCheck, HttpTarget, Mode, OnDown, ProxyVersion, Source,
    TlsVersion,
};

const SECOND: Duration = Duration::from_secs(1);

const EVERYTHING: &str = r#"
trusted_proxies: [10.0.0.0/8, "2001:db8::1"]
pools:
  - name: quay
    servers:
      - quay01.example.com:443
      - { name: two, address: "10.0.0.2:443", weight: 5, backup: true, max_connections: 3000, checked_first: true }
    dns: { servers: [10.0.0.53, "[::1]:5353"], min_ttl: 1s, max_ttl: 1m }
    tls:
      ca: a.crt
      sni: quay.example.com
      client_certificate: { cert: a.crt, key: a.key }
      min_version: "1.3"
    balance: hash
    hash_by: digest
    health:
      kind: http
      path: /health/endtoend?full
      host: quay.example.com
      statuses: [200, "300-399"]
      body: services
      json: { pointer: /data/services/database, equals: true }
      port: 8443
      interval: 1s
      fast_interval: 100ms
      timeout: 750ms
      rise: 1
      fall: 5
      jitter: 0
    passive: { failures: 2, server_errors: true, hold: 1m }
    slow_start: 30s
    queue_size: 7
    queue_timeout: 2s
    connect_timeout: 3s
    first_byte_timeout: never
    idle_timeout: 4s
    keep_alive: 1s
    retries: 2
    send_proxy: v2
    on_down: close
  - name: redis
    servers: ["redis-1:6380", "redis-2:6380"]
    health: { kind: redis, password_file: password, role: primary, tls: { verify: false } }
    balance: least_connections
    passive: false
  - { name: srv, discovery: { name: _registry._tcp.Example.com, record: srv }, health: { kind: tls } }
  - name: dns
    discovery: { name: registry.example.com, port: 5000, max_connections: 9, checked_first: true }
    health: { kind: tcp }
    send_proxy: v1
    balance: random
listeners:
  - name: front
    bind: 0.0.0.0:443
    accept_proxy: true
    sni: [{ names: [a.example.com, "*.example.com"], pool: srv }]
    hsts: 365d
    body_timeout: 5m
    tls:
      directory: .
      strict_sni: true
      ciphers: modern
      client_ca: a.crt
      client_auth: optional
      watch: 1m
  - { name: plain, bind: "0.0.0.0:80", redirect_to_https: true }
  - { name: other, bind: "0.0.0.0:8080", redirect_to_https: 8443 }
  - { name: forward, bind: "0.0.0.0:7480", pool: dns }
  - { name: redis, bind: "0.0.0.0:6379", mode: tcp, pool: redis, header_timeout: 1s, idle_timeout: 2s, half_close_timeout: 3s }
  - { name: pass, bind: "0.0.0.0:8443", mode: tcp, sni: [{ names: [a.example.com], pool: quay }] }
registries:
  - { name: quay.example.com, pool: quay, rate: { per_second: 60, burst: 20 } }
  - { name: other.example.com, pool: quay, credentials: { username: me, password: x }, rate: { per_second: 5 } }
cache: { path: /c, max_size: 1GiB }
admin: { bind: "0.0.0.0:9090", token: 0123456789abcdef }
limits:
  max_connections: 3000
  max_connections_per_client: 100
  requests_per_client: { per_second: 50, burst: 0 }
  exempt_networks: [192.0.2.0/24]
  exempt_repositories: ["library/*"]
"#;

#[test]
fn reads_pools() {
    let directory = scratch();
    let config = load_in(directory.path(), EVERYTHING).unwrap();
    let [quay, redis, srv, dns] = config.pools.as_slice() else { panic!("four pools") };
    let [one, two] = quay.servers.as_slice() else { panic!("two servers") };
    assert_eq!(one.name, "quay01.example.com:443");
    assert_eq!(one.address, Address::Name { host: "quay01.example.com".to_owned(), port: 443 });
    assert_eq!((one.weight, one.backup, one.max_connections, one.checked_first), (1, false, None, false));
    assert_eq!((two.name.as_str(), &two.address), ("two", &Address::Socket("10.0.0.2:443".parse().unwrap())));
    assert_eq!((two.weight, two.backup, two.max_connections, two.checked_first), (5, true, Some(3000), true));
    let servers: Vec<String> = quay.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.53:53", "[::1]:5353"]);
    assert_eq!((quay.dns.min_ttl, quay.dns.max_ttl), (SECOND, 60 * SECOND));
    let tls = quay.tls.as_ref().unwrap();
    assert_eq!(tls.ca, Some(directory.path().join("a.crt")));
    assert_eq!((tls.sni.as_deref(), tls.verify, tls.min_version), (Some("quay.example.com"), true, TlsVersion::Tls13));
    assert!(tls.client_certificate.is_some());
    assert_eq!(quay.balance, Balance::Hash(HashBy::Digest));
    let health = quay.health.as_ref().unwrap();
    assert_eq!((&health.tls, health.port), (&quay.tls, Some(8443)));
    assert_eq!((health.interval, health.fast_interval, health.timeout), (SECOND, SECOND / 10, SECOND * 3 / 4));
    assert_eq!((health.rise, health.fall, health.jitter), (1, 5, 0));
    let HealthCheck::Http(check) = &health.check else { panic!("{health:?}") };
    assert_eq!((check.path.as_str(), check.host.as_deref()), ("/health/endtoend?full", Some("quay.example.com")));
    assert_eq!((check.statuses.as_slice(), check.body.as_deref()), (&[(200, 200), (300, 399)][..], Some("services")));
    let json = check.json.as_ref().unwrap();
    assert_eq!((json.pointer.as_str(), &json.equals), ("/data/services/database", &serde_json::Value::Bool(true)));
    let passive = quay.passive.unwrap();
    assert_eq!((passive.failures, passive.server_errors, passive.hold), (2, true, 60 * SECOND));
    assert_eq!((quay.slow_start, quay.queue_size, quay.queue_timeout), (30 * SECOND, 7, 2 * SECOND));
    assert_eq!((quay.connect_timeout, quay.first_byte_timeout), (3 * SECOND, None));
    assert_eq!((quay.idle_timeout, quay.keep_alive, quay.retries), (4 * SECOND, SECOND, 2));
    assert_eq!((quay.send_proxy, quay.on_down), (Some(ProxyVersion::V2), OnDown::Close));

    assert_eq!((redis.balance, redis.passive, &redis.tls), (Balance::LeastConnections, None, &None));
    let health = redis.health.as_ref().unwrap();
    assert!(!health.tls.as_ref().unwrap().verify);
    let HealthCheck::Redis(check) = &health.check else { panic!("{health:?}") };
    let credentials = check.credentials.as_ref().unwrap();
    assert_eq!((credentials.username.as_str(), credentials.password.reveal()), ("", "from a file"));
    assert!(check.primary);

    let discovery = srv.discovery.as_ref().unwrap();
    assert_eq!((discovery.name.as_str(), discovery.record), ("_registry._tcp.example.com", DnsRecord::Srv));
    assert_eq!(srv.health.as_ref().unwrap().tls, Some(Default::default()));
    let discovery = dns.discovery.as_ref().unwrap();
    assert_eq!((discovery.record, discovery.max_connections), (DnsRecord::Address { port: 5000 }, Some(9)));
    assert!(discovery.checked_first && dns.servers.is_empty() && dns.health.as_ref().unwrap().tls.is_none());
    assert_eq!((dns.send_proxy, dns.balance), (Some(ProxyVersion::V1), Balance::Random));
}

#[test]
fn reads_listeners_and_limits() {
    let directory = scratch();
    let config = load_in(directory.path(), EVERYTHING).unwrap();
    let [front, plain, other, forward, redis, pass] = config.listeners.as_slice() else { panic!("six listeners") };
    assert!(front.accept_proxy && !plain.accept_proxy);
    assert_eq!(
        (front.sni[0].names.as_slice(), front.sni[0].pool.as_str()),
        (&["a.example.com".to_owned(), "*.example.com".to_owned()][..], "srv")
    );
    let http = front.http().unwrap();
    assert_eq!((http.hsts, http.body_timeout), (Some(365 * 24 * 3600 * SECOND), 300 * SECOND));
    let tls = http.tls.as_ref().unwrap();
    assert_eq!((tls.directory.clone(), tls.certificates.len()), (Some(directory.path().join(".")), 0));
    assert_eq!((tls.ciphers, tls.min_version, tls.watch), (Ciphers::Modern, TlsVersion::Tls13, 60 * SECOND));
    assert!(tls.strict_sni && !tls.client_ca.as_ref().unwrap().required);
    let targets: Vec<&HttpTarget> =
        [front, plain, other, forward].map(|listener| &listener.http().unwrap().target).to_vec();
    let expected = [
        &HttpTarget::Registries,
        &HttpTarget::RedirectToHttps(443),
        &HttpTarget::RedirectToHttps(8443),
        &HttpTarget::Pool("dns".to_owned()),
    ];
    assert_eq!(targets, expected);
    let Mode::Tcp(tcp) = &redis.mode else { panic!("{redis:?}") };
    assert_eq!(tcp.pool.as_deref(), Some("redis"));
    assert_eq!((tcp.header_timeout, tcp.idle_timeout, tcp.half_close_timeout), (SECOND, 2 * SECOND, 3 * SECOND));
    let Mode::Tcp(tcp) = &pass.mode else { panic!("{pass:?}") };
    assert_eq!((tcp.pool.as_deref(), pass.sni[0].pool.as_str()), (None, "quay"));
    assert_eq!(
        (tcp.header_timeout, tcp.idle_timeout, tcp.half_close_timeout),
        (10 * SECOND, 3600 * SECOND, 30 * SECOND)
    );

    let networks: Vec<String> = config.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "2001:db8::1/128"]);
    let limits = &config.limits;
    assert_eq!((limits.max_connections, limits.max_connections_per_client), (Some(3000), Some(100)));
    let rate = limits.requests_per_client.unwrap();
    assert_eq!((rate.per_second, rate.burst), (50, 0));
    assert_eq!(limits.exempt_networks[0].to_string(), "192.0.2.0/24");
    assert!(limits.exempt_repositories.matches("library/alpine"));
    assert_eq!(config.admin.token.as_ref().unwrap().reveal(), "0123456789abcdef");

    use crate::model::AuthMode;
    let [quay, other] = config.registries.as_slice() else { panic!("two registries") };
    assert_eq!((&quay.upstream.source, quay.auth), (&Source::Pool("quay".to_owned()), AuthMode::Passthrough));
    assert_eq!(other.auth, AuthMode::Shared);
    let rates: Vec<(u32, u32)> =
        [quay, other].iter().filter_map(|registry| registry.rate).map(|rate| (rate.per_second, rate.burst)).collect();
    assert_eq!(rates, [(60, 20), (5, 5)]);
}

#[test]
fn needs_registries_only_where_nobody_else_answers() {
    let pools = "pools: [{ name: p, servers: ['127.0.0.1:1'] }]\n";
    let tcp = "listeners: [{ name: a, bind: '127.0.0.1:1', mode: tcp, pool: p }, { name: b, bind: '127.0.0.1:2', redirect_to_https: true }]\n";
    let config = load(&format!("{pools}{tcp}")).unwrap();
    assert!(config.registries.is_empty() && config.cache.is_none());
    let pool = &config.pools[0];
    assert!(
        pool.health.is_none() && pool.passive.is_some_and(|passive| passive.failures == 5 && !passive.server_errors)
    );

    let rest = "registries: [{ name: quay.io, upstream: 'https://quay.io' }]\n";
    for (text, expected) in [
        (
            format!("{pools}{tcp}{rest}"),
            vec!["registries: no listener serves them: each has a `pool` or a redirect", "cache: is missing"],
        ),
        (
            format!("{pools}{tcp}cache: {{ path: /c, max_size: 1GiB }}\n"),
            vec!["cache: has a meaning only with `registries`"],
        ),
        (
            format!("{pools}listeners: [{{ name: a, bind: '127.0.0.1:1' }}]"),
            vec!["registries: is missing", "cache: is missing"],
        ),
        // Of a listener that is wrong nobody knows what it wants.
        (
            format!("{pools}listeners: [{{ name: a, bind: '127.0.0.1:1', pool: q }}]"),
            vec!["listeners[0].pool: there is no such pool; the pools are p"],
        ),
    ] {
        assert_eq!(load(&text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn never_shows_a_secret() {
    for (text, accepted) in [
        ("admin: { bind: '127.0.0.1:1', token: hunter2hunter2hunter2 }", true),
        ("admin: { bind: '127.0.0.1:1', token: 'hunter2 hunter2 hunter2' }", false),
        ("admin: { bind: '127.0.0.1:1', token: [hunter2] }", false),
        ("pools: [{ name: a, servers: ['a:1'], health: { kind: redis, password: hunter2 } }]", true),
        ("pools: [{ name: a, servers: ['a:1'], health: { kind: tcp, password: hunter2 } }]", false),
    ] {
        match load(&completed(text)) {
            Ok(config) => assert!(accepted && !format!("{config:?}").contains("hunter2"), "{text}"),
            Err(problems) => assert!(!accepted && !problems.join("\n").contains("hunter2"), "{problems:?}"),
        }
    }
}

#[test]
fn reads_an_outline_of_everything() {
    let directory = scratch();
    let outline = r#"
listeners:
  - name: registry
    bind: "0.0.0.0:443"
    mode: http
    tls:
      certificates:
        - { cert: a.crt, key: a.key }
      min_version: "1.2"
      client_ca: a.crt
    accept_proxy: false
  - { name: redis, bind: "0.0.0.0:6379", mode: tcp, pool: redis }
pools:
  - name: quay
    servers: ["quay01.example.com:443", "quay02.example.com:443"]
    tls: { sni: quay.example.com, ca: a.crt }
    balance: round_robin
    health: { kind: http, path: /health/endtoend, interval: 2s, timeout: 1s, rise: 2, fall: 3 }
  - { name: redis, servers: ["quay01:6380", "quay02:6380"], health: { kind: redis, interval: 1s } }
registries:
  - name: docker.io
    upstream: https://registry-1.docker.io
    credentials: { username: someone, password_file: password }
    default: true
    tag_ttl: 5m
    allow: ["library/*"]
  - name: quay.example.com
    hosts: [registry.example.com]
    pool: quay
cache: { path: /var/lib/pierhead, max_size: 200GiB, offline: false }
admin: { bind: "127.0.0.1:9090" }
"#;
    let config = load_in(directory.path(), outline).unwrap();
    assert_eq!(config.pools[1].servers[0].name, "quay01:6380");
    assert_eq!(config.cache.unwrap().path, Path::new("/var/lib/pierhead"));
}
