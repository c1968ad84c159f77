//! What is refused in the sections of the front door, each with its path and the reason.

use super::{completed, load_in, scratch};

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
            "limits.max: unknown key; the keys here are max_connections, max_connections_per_client, requests_per_client, lowest_rate, exempt_networks, exempt_repositories",
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
