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
fn refuses_with_path_and_reason() {
    let directory = scratch();
    let missing = directory.path().join("missing").display().to_string();
    let pool = |keys: &str| format!("pools: [{{ name: quay, servers: ['127.0.0.1:1'], {keys} }}]");
    let listener = |keys: &str| {
        format!(
            "pools: [{{ name: quay, servers: ['127.0.0.1:1'] }}]\nlisteners: [{{ name: r, bind: '127.0.0.1:1' }}, {{ name: a, bind: '127.0.0.1:5000', {keys} }}]"
        )
    };
    let tls = "tls: { certificates: [{ cert: a.crt, key: a.key }] }";
    let server = "expected a host and a port such as `quay01.example.com:443` or `10.0.0.5:443`";
    let cases: Vec<(String, Vec<&str>)> = vec![
        // Pools and their servers.
        ("pools: [{ name: a b }, { name: quay, servers: [] }, { name: quay, servers: ['a:1'] }]".into(), vec![
            "pools[0].name: expected a name of up to 64 letters, digits, `_`, `-` and `.`",
            "pools[0]: needs `servers` or a `discovery`",
            "pools[1].servers: needs at least one server",
            "pools[2].name: quay is already taken by pools[1].name",
        ]),
        ("pools: [{ name: a, servers: ['a', 'a:0', '10.0.0.300:1', 'a:x', '-a:1', 'https://a:1', 'ok:1', 'ok:1', 'A_b.c:2', '[::1]:3'] }]".into(), vec![
            "pools[0].servers[0]: expected a host and a port such as `quay01.example.com:443` or `10.0.0.5:443`",
            "pools[0].servers[1]: expected a host and a port such as `quay01.example.com:443` or `10.0.0.5:443`",
            "pools[0].servers[2]: expected a host and a port such as `quay01.example.com:443` or `10.0.0.5:443`",
            "pools[0].servers[3]: expected a host and a port such as `quay01.example.com:443` or `10.0.0.5:443`",
            "pools[0].servers[4]: expected a host and a port such as `quay01.example.com:443` or `10.0.0.5:443`",
            "pools[0].servers[5]: expected a host and a port such as `quay01.example.com:443` or `10.0.0.5:443`",
            "pools[0].servers[7]: ok:1 is already taken by pools[0].servers[6]",
        ]),
        ("pools: [{ name: a, servers: [{ name: a/b, address: 1, weight: -1, checked_first: true }, {}] }]".into(), vec![
            "pools[0].servers[0].name: expected a name of letters, digits, `_`, `-`, `.`, `:`, `[` and `]`",
            "pools[0].servers[0].address: expected a host and a port such as `quay01.example.com:443` or `10.0.0.5:443`, in quotes, found a number",
            "pools[0].servers[0].weight: expected a whole number from 0 to 65535, found \"-1\"",
            "pools[0].servers[0].checked_first: has a meaning only in a pool with `health`",
            "pools[0].servers[1].address: is missing",
        ]),
        ("pools: [{ name: a, discovery: { name: 'a b' } }, { name: b, discovery: { name: b, record: srv, port: 1, checked_first: true } }, { name: c, discovery: { name: c, record: mx } }]".into(), vec![
            "pools[0].discovery.name: expected a host name such as `quay.example.com` or `_registry._tcp.example.com`",
            "pools[0].discovery: needs a `port` with `record: address`",
            "pools[1].discovery.checked_first: has a meaning only in a pool with `health`",
            "pools[1].discovery.port: has no meaning with `record: srv`, which brings ports",
            "pools[2].discovery.record: expected `address` or `srv`, found \"mx\"",
        ]),
        (pool("dns: { servers: [x] }"), vec![
            "pools[0].dns.servers[0]: expected the address of a name server such as `10.0.0.53` or `10.0.0.53:5353`",
            "pools[0].dns: has a meaning only with a `discovery`, or with servers that have host names",
        ]),
        ("pools: [{ name: a, servers: ['a:1'], dns: { min_ttl: 2s, max_ttl: 1s } }]".into(), vec![
            "pools[0].dns: `min_ttl` is longer than `max_ttl`",
        ]),
        (pool("tls: { verify: false, ca: a.crt, sni: 'a:1' }, balance: roundrobin, keep_alive: 5s, send_proxy: v3"), vec![
            "pools[0].tls.sni: expected a host name such as `registry.example.com`, in lower case and without a port",
            "pools[0].tls.ca: has a meaning only with `verify: true`",
            "pools[0].balance: expected `round_robin` or `least_connections` or `random` or `hash`, found \"roundrobin\"",
            "pools[0].keep_alive: expected a duration from 0s to 4s, found \"5s\"",
            "pools[0].send_proxy: expected `v1` or `v2`, found \"v3\"",
        ]),
        (pool("hash_by: digest, passive: { failures: 0 }"), vec![
            "pools[0].hash_by: has a meaning only with `balance: hash`",
            "pools[0].passive.failures: expected a whole number from 1 to 1000, found \"0\"",
        ]),
        // Checks.
        (pool("health: {}"), vec!["pools[0].health.kind: is missing"]),
        (pool("health: { kind: tcp, path: /x, role: primary, tls: {} }"), vec![
            "pools[0].health.path: has a meaning only with `kind: http`",
            "pools[0].health.role: has a meaning only with `kind: redis`",
            "pools[0].health.tls: has no meaning with `kind: tcp`",
        ]),
        (pool("health: { kind: http, path: health, statuses: [99, '300-200', 2xx], json: { pointer: data~2, equals: [] }, interval: 1s, fast_interval: 2s }"), vec![
            "pools[0].health.path: expected a path such as `/health/endtoend`",
            "pools[0].health.statuses[0]: expected a status such as `200`, or a range such as `200-399`",
            "pools[0].health.statuses[1]: expected a status such as `200`, or a range such as `200-399`",
            "pools[0].health.statuses[2]: expected a status such as `200`, or a range such as `200-399`",
            "pools[0].health.json.pointer: expected a JSON pointer such as `/data/services/database`",
            "pools[0].health.json.equals: expected a text, a number, `true`, `false` or `null`, found a list",
            "pools[0].health.fast_interval: is longer than `interval`",
        ]),
        (pool("health: { kind: redis, username: a }"), vec!["pools[0].health.username: has a meaning only with a `password`"]),
        (pool("health: { kind: redis, password: a, password_env: B }"), vec![
            "pools[0].health.password_env: the environment variable that it names is not set",
            "pools[0].health: needs exactly one of `password`, `password_file` and `password_env`",
        ]),
        // Listeners.
        (listener("mode: tcp"), vec!["listeners[1]: needs a `pool`, or `sni` routes, with `mode: tcp`"]),
        (listener(&format!("mode: tcp, pool: quai, hsts: 1d, body_timeout: 1s, {tls}")), vec![
            "listeners[1].pool: there is no such pool; did you mean `quay`?",
            "listeners[1].tls: has a meaning only with `mode: http`",
            "listeners[1].hsts: has a meaning only with `mode: http`",
            "listeners[1].body_timeout: has a meaning only with `mode: http`",
        ]),
        (listener("mode: udp, half_close_timeout: 1s, tls: {}"), vec![
            "listeners[1].mode: expected `http` or `tcp`, found \"udp\"",
            "listeners[1].tls: needs `certificates` or a `directory`",
        ]),
        (listener("half_close_timeout: 1s, hsts: 1d, sni: [{ names: [a.io], pool: quay }], redirect_to_https: maybe"), vec![
            "listeners[1].redirect_to_https: expected a whole number from 1 to 65535, found \"maybe\"",
            "listeners[1].half_close_timeout: has a meaning only with `mode: tcp`",
            "listeners[1].hsts: has a meaning only with `tls`",
            "listeners[1].sni: has a meaning only with `tls`",
        ]),
        (listener(&format!("redirect_to_https: true, pool: quay, {tls}")), vec![
            "listeners[1].redirect_to_https: cannot be together with `tls`: it is https already",
            "listeners[1].pool: cannot be together with `redirect_to_https`",
        ]),
        (listener("mode: tcp, sni: [{ names: [A.io, '*.*.io', a.io], pool: quay }, { names: [a.io], pool: x }, { names: [] }]"), vec![
            "listeners[1].sni[0].names[0]: expected a host name such as `registry.example.com` or `*.example.com`, in lower case",
            "listeners[1].sni[0].names[1]: expected a host name such as `registry.example.com` or `*.example.com`, in lower case",
            "listeners[1].sni[1].names[0]: a.io has a route already",
            "listeners[1].sni[1].pool: there is no such pool; the pools are quay",
            "listeners[1].sni[2].names: needs at least one name",
            "listeners[1].sni[2].pool: is missing",
        ]),
        (listener("accept_proxy: true"), vec![
            "listeners[1].accept_proxy: needs `trusted_proxies`: nobody else may connect where PROXY headers are believed",
        ]),
        (listener("tls: { certificates: [], directory: missing, ciphers: modern, min_version: '1.2', client_auth: optional }"), vec![
            "listeners[1].tls.certificates: needs at least one certificate",
            "listeners[1].tls.directory: MISSING: cannot be read: No such file or directory (os error 2)",
            "listeners[1].tls.min_version: cannot be together with `ciphers: modern`, which are of TLS 1.3 only",
            "listeners[1].tls.client_auth: has a meaning only with `client_ca`",
        ]),
        ("listeners: [{ name: a, bind: '127.0.0.1:1', pool: quay }]".into(), vec![
            "listeners[0].pool: there is no such pool: there are none",
        ]),
        // Registries with a pool.
        ("pools: [{ name: quay, servers: ['a:1'] }]\nregistries: [{ name: a.io, pool: quay, upstream: 'https://a.io' }, \
          { name: b.io, pool: quay, ca: a.crt, connect_timeout: 1s, keep_deleted: true }, { name: c.io, pool: qay }]\naccess: { htpasswd: users }".into(), vec![
            "registries[0]: needs exactly one of `upstream` and `pool`",
            "registries[1].ca: has a meaning only with `upstream`: the pool says how its servers are reached",
            "registries[1].connect_timeout: has a meaning only with `upstream`: the pool says how its servers are reached",
            "registries[1].keep_deleted: cannot be together with `auth: passthrough`: it would serve what upstream forbids",
            "registries[2].pool: there is no such pool; did you mean `quay`?",
            "access.htpasswd: cannot be together with registries[0].auth: passthrough: a request has one Authorization \
             header, which can't be for the edge and for upstream",
        ]),
        // Limits, networks, and the operators' listener.
        ("limits: { max_connections: 0, requests_per_client: { burst: 1 }, exempt_networks: [10.0.0.1/8, x], max: 1 }\ntrusted_proxies: x".into(), vec![
            "trusted_proxies: expected a list, found text",
            "limits.max_connections: expected a whole number from 1 to 1000000, found \"0\"",
            "limits.requests_per_client.per_second: is missing",
            "limits.exempt_networks[0]: has bits beyond its prefix; did you mean `10.0.0.0/8`?",
            "limits.exempt_networks[1]: expected a network such as `10.0.0.0/8` or `2001:db8::/32`, or an address",
            "limits.max: unknown key; the keys here are max_connections, max_connections_per_client, requests_per_client, exempt_networks, exempt_repositories",
        ]),
        ("admin: { bind: '0.0.0.0:9090' }".into(), vec![
            "admin: needs a `token` (or `token_file`, `token_env`) unless `bind` is on loopback",
        ]),
        ("admin: { bind: '0.0.0.0:9090', token: short }".into(), vec![
            "admin: the token needs at least 16 letters, digits and signs",
        ]),
    ];
    assert!(cases[1].1[0].ends_with(server));
    for (text, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|line| line.replace("MISSING", &missing)).collect();
        let problems = load_in(directory.path(), &completed(&text)).expect_err(&text);
        assert_eq!(problems, expected, "{text}");
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
