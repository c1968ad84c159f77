//! What is refused, and with which words: a table of files and their problems.

use super::{completed, load, load_in, registry, scratch};
use crate::model::Config;

#[test]
fn refuses_with_path_and_reason() {
    let directory = scratch();
    let shown = directory.path().display();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (bad_users, empty, missing) = (file("bad-users"), file("empty"), file("missing"));
    let host = "expected a host name such as `registry.example.com` or `localhost:5000`, in lower case";
    let one_password = "needs exactly one of `password`, `password_file` and `password_env`";
    let listeners = |second: &str| format!("listeners: [{{ name: a, bind: '0.0.0.0:1' }}, {second}]");
    let registries =
        |second: &str| format!("registries: [{{ name: a.io, hosts: [h.io], upstream: 'https://a.io' }}, {second}]");
    let cases: Vec<(String, Vec<String>)> = vec![
        // Unknown keys, and keys of later versions.
        ("cach: {}".into(), vec!["cach: unknown key; did you mean `cache`?".into()]),
        (registry("tag-ttl: 5m"), vec!["registries[0].tag-ttl: unknown key; did you mean `tag_ttl`?".into()]),
        ("admin: { bind: 'localhost:1', zzz: 1 }".into(), vec!["admin.zzz: unknown key; the keys here are bind, token, token_file, token_env".into()]),
        ("locations: []".into(), vec!["locations: not supported by this version".into()]),
        (registry("storage: b"), vec!["registries[0].storage: not supported by this version".into()]),
        // Wrong types, and nothing where something must be.
        ("listeners: x\nregistries: 5\ncache: []".into(), vec![
            "listeners: expected a list, found text".into(),
            "registries: expected a list, found a number".into(),
            "cache: expected a section, found a list".into(),
        ]),
        ("listeners: []\nregistries: [{}]\ncache: {}".into(), vec![
            "listeners: needs at least one listener".into(),
            "registries[0].name: is missing".into(),
            "registries[0]: needs exactly one of `upstream` and `pool`".into(),
            "cache.path: is missing".into(),
            "cache.max_size: is missing".into(),
        ]),
        ("access_log: yes please\ndrain_wait:".into(), vec![
            "access_log: expected `true` or `false`, found text".into(),
            "drain_wait: expected a duration such as `250ms`, `5m` or `24h`, found nothing".into(),
        ]),
        (registry("hosts: x.io"), vec!["registries[0].hosts: expected a list, found text".into()]),
        // Values.
        (registry("tag_ttl: 5, retries: -1, max_manifest_size: 1EiB"), vec![
            "registries[0].retries: expected a whole number from 0 to 100, found \"-1\"".into(),
            "registries[0].max_manifest_size: expected a size from 1.0 KiB to 256.0 MiB, found \"1EiB\"".into(),
            "registries[0].tag_ttl: expected a duration such as `250ms`, `5m` or `24h`, found \"5\"".into(),
        ]),
        (registry("connect_timeout: 0s, tag_ttl: 100years"), vec![
            "registries[0].connect_timeout: expected a duration from 1ms to 10years, found \"0s\"".into(),
            "registries[0].tag_ttl: expected a duration from 0s to 10years, found \"100years\"".into(),
        ]),
        ("cache: { path: '${NOWHERE}/x', max_size: lots, fsync: maybe, scrub_interval: soon }".into(), vec![
            "cache.path: the environment variable `NOWHERE` is not set".into(),
            "cache.max_size: expected a size such as `64KiB` or `200GiB`, found \"lots\"".into(),
            "cache.fsync: expected `always` or `never`, found \"maybe\"".into(),
            "cache.scrub_interval: expected a duration such as `250ms`, `5m` or `24h`, found \"soon\"".into(),
        ]),
        ("cache: { path: empty, max_size: 5 }".into(), vec![
            format!("cache.path: {empty}: is not a directory"),
            "cache.max_size: expected a size from 1.0 MiB to 8.0 EiB, found \"5\"".into(),
        ]),
        (registry("immutable_tags: ['v[']"), vec![
            "registries[0].immutable_tags[0]: error parsing glob 'v[': unclosed character class; missing ']'".into(),
        ]),
        (registry("realms: ['https://x']"), vec![format!("registries[0].realms[0]: {host}")]),
        // Listeners.
        ("listeners: [{ name: 'a b', bind: ':5000' }, { name: admin, bind: 'localhost:1' }]".into(), vec![
            "listeners[0].name: expected a name of up to 64 letters, digits, `_`, `-` and `.`".into(),
            "listeners[0].bind: expected an address and a port such as `0.0.0.0:443`, `[::]:443` or `localhost:5000`, \
             found \":5000\"".into(),
            "listeners[1].name: `admin` is the name of the operators' own listener".into(),
        ]),
        (listeners("{ name: a, bind: 'localhost:1' }"), vec![
            "listeners[1].name: a is already taken by listeners[0].name".into(),
            "listeners[1].bind: 127.0.0.1:1 is already taken by listeners[0].bind (0.0.0.0:1)".into(),
        ]),
        ("admin: { bind: 'localhost:5000' }".into(), vec![
            "admin.bind: 127.0.0.1:5000 is already taken by listeners[0].bind (127.0.0.1:5000)".into(),
        ]),
        (listeners("{ name: b, bind: '0.0.0.0:2', tls: { certificates: [{ cert: missing }], client_auth: optional, min_version: '1.1' } }"), vec![
            format!("listeners[1].tls.certificates[0].cert: {missing}: cannot be read: No such file or directory (os error 2)"),
            "listeners[1].tls.certificates[0].key: is missing".into(),
            "listeners[1].tls.min_version: expected `1.2` or `1.3`, found \"1.1\"".into(),
            "listeners[1].tls.client_auth: has a meaning only with `client_ca`".into(),
        ]),
        (listeners("{ name: b, bind: '0.0.0.0:2', tls: { certificates: [{ cert: a.crt, key: . }] } }"), vec![
            format!("listeners[1].tls.certificates[0].key: {shown}/.: is a directory"),
        ]),
        // Names and hosts.
        (registries("{ name: Team, upstream: 'https://b.io' }"), vec![format!("registries[1].name: {host}")]),
        (registries("{ name: team, upstream: 'https://b.io' }"), vec![
            "registries[1].name: `team` needs a `.` or a port: a path could not tell it from a repository".into(),
        ]),
        (registries("{ name: a.io, hosts: [h.io], upstream: 'https://b.io' }"), vec![
            "registries[1].name: a.io is already taken by registries[0].name".into(),
            "registries[1].hosts[0]: h.io is already taken by registries[0].hosts[0]".into(),
        ]),
        (registries("{ name: h.io, hosts: [a.io], upstream: 'https://b.io' }"), vec![
            "registries[1].name: h.io is already taken by registries[0].hosts[0]".into(),
            "registries[1].hosts[0]: a.io is already taken by registries[0].name".into(),
        ]),
        (registries("{ name: b.io, hosts: [b.io], upstream: 'https://b.io', zzz: 1 }").replace("name: a.io", "default: true, name: a.io").replace("zzz: 1", "default: true"), vec![
            "registries[1].default: only one registry can be the default; registries[0].default is".into(),
        ]),
        // Upstreams.
        (registry("zz: 1").replace("https://quay.io", "http://quay.io").replace(", zz: 1", ""), vec![
            "registries[0].upstream: plain HTTP needs `insecure: true`".into(),
        ]),
        (registry("insecure: true, ca: a.crt").replace("https://quay.io", "http://quay.io"), vec![
            "registries[0].ca: has a meaning only with an https:// upstream".into(),
        ]),
        (registry("insecure: true"), vec![
            "registries[0].insecure: has a meaning only with an http:// upstream".into(),
        ]),
        ("registries: [{ name: a.io, upstream: ['https://u:secret@a.io', 'ftp://a.io', 'https://a.io/v2/', \
          'https://a.io/?q', 'a.io', { url: 'https://b.io', insecure: true, zzz: 1 }, 'https://b.io'] }]".into(), vec![
            "registries[0].upstream[0]: a URL must not hold credentials: use `credentials`".into(),
            "registries[0].upstream[1]: expected a URL that begins with `https://` or `http://`".into(),
            "registries[0].upstream[2]: the URL must not have the `/v2` of the API".into(),
            "registries[0].upstream[3]: the URL must not have a query or a fragment".into(),
            "registries[0].upstream[4]: expected a URL such as `https://registry.example.com`: relative URL without a base".into(),
            "registries[0].upstream[5].insecure: has a meaning only with an http:// upstream".into(),
            "registries[0].upstream[5].zzz: unknown key; the keys here are ca, client_certificate, repository_prefix, insecure, url, credentials".into(),
            "registries[0].upstream[6]: is there twice".into(),
        ]),
        ("registries: [{ name: a.io, upstream: ['https://a.io/v2/mirror-project', 'https://b.io/x/v2/y/z'] }]".into(), vec![
            "registries[0].upstream[0]: the URL must not have the `/v2` of the API: what comes after it goes into `repository_prefix`".into(),
            "registries[0].upstream[1]: the URL must not have the `/v2` of the API: what comes after it goes into `repository_prefix`".into(),
        ]),
        (registry("repository_prefix: 'Not a name', redirects_to: ['10.0.0.0/8', 'minio.lan:9000', 'https://x']"), vec![
            "registries[0].repository_prefix: expected the beginning of repository names, such as `mirror-project` or `team/mirror`: \
             a repository name is lower-case letters and digits, joined by '.', '_', '__' or '-', in parts between '/'".into(),
            format!("registries[0].redirects_to[2]: {host}"),
        ]),
        ("registries: [{ name: a.io, credentials: { username: a, password: b }, upstream: ['https://a.io', \
          { url: 'https://b.io', credentials: { username: c, password: d } }] }]".into(), vec![
            "registries[0].credentials: belongs to the last address of `upstream`, which has its own: leave one of the two out".into(),
        ]),
        ("registries: [{ name: a.io, auth: passthrough, upstream: [{ url: 'https://a.io', \
          credentials: { username: c, password: d } }, 'https://b.io'] }]".into(), vec![
            "registries[0].upstream[0].credentials: cannot be together with `auth: passthrough`, which sends the caller's own".into(),
        ]),
        // Credentials and access.
        (registry("credentials: { username: 'a:b' }"), vec![
            "registries[0].credentials.username: must not have a `:`".into(),
            format!("registries[0].credentials: {one_password}"),
        ]),
        (registry("credentials: { username: a, password: x, password_env: HUB_PASSWORD }"), vec![
            format!("registries[0].credentials: {one_password}"),
        ]),
        (registry("credentials: { username: a, password_env: NOWHERE }"), vec![
            "registries[0].credentials.password_env: the environment variable that it names is not set".into(),
        ]),
        (registry("credentials: { username: a, password_file: empty }"), vec![
            format!("registries[0].credentials.password_file: {empty}: is empty"),
        ]),
        (registry("authorization_ttl: 1m"), vec![
            "registries[0].authorization_ttl: has a meaning only with `auth: passthrough`".into(),
        ]),
        (registry("token_keys: { path: /keys, issuer: a, audience: b }"), vec![
            "registries[0].token_keys: has a meaning only with `auth: passthrough`".into(),
        ]),
        (registry("auth: passthrough, token_keys: { path: keys, url: 'https://a.example/keys', audience: 5 }"), vec![
            "registries[0].token_keys.path: expected a path such as `/keys/services/pierhead/keys`".into(),
            "registries[0].token_keys: needs exactly one of `path` and `url`".into(),
            "registries[0].token_keys.issuer: is missing".into(),
            "registries[0].token_keys.audience: expected what the tokens are for, such as `registry.example.com`, in quotes, found a number".into(),
        ]),
        (registry("auth: passthrough, token_keys: { path: /keys, insecure: true, issuer: a, audience: b }"), vec![
            "registries[0].token_keys.insecure: has a meaning only with `url`: the registry says how it is reached".into(),
        ]),
        (registry("auth: passthrough, token_keys: { url: 'http://a.example/keys', issuer: a, audience: b }"), vec![
            "registries[0].token_keys.url: plain HTTP needs `insecure: true`".into(),
        ]),
        (registry("auth: passthrough, keep_deleted: true, credentials: { username: a, password: x }") + "\naccess: { htpasswd: users }", vec![
            "registries[0].credentials: cannot be together with `auth: passthrough`, which sends the caller's own".into(),
            "registries[0].keep_deleted: cannot be together with `auth: passthrough`: it would serve what upstream forbids".into(),
            "access.htpasswd: cannot be together with registries[0].auth: passthrough: a request has one Authorization \
             header, which can't be for the edge and for upstream".into(),
        ]),
        ("access: { htpasswd: bad-users }".into(), vec![
            format!("access.htpasswd: {bad_users}: line 2: expected a bcrypt hash, as `htpasswd -B` makes it"),
            format!("access.htpasswd: {bad_users}: line 3: the user is there twice"),
        ]),
        ("access: { htpasswd: empty }".into(), vec![format!("access.htpasswd: {empty}: has no users")]),
    ];
    for (text, expected) in cases {
        let problems = load_in(directory.path(), &completed(&text)).expect_err(&text);
        assert_eq!(problems, expected, "{text}");
    }
}

#[test]
fn finds_problems_of_all_sections_at_once() {
    let problems = load("").unwrap_err();
    assert_eq!(problems, ["listeners: is missing", "registries: is missing", "cache: is missing"]);
}

#[test]
fn refuses_what_is_no_yaml_with_its_place() {
    for (text, expected) in [
        ("a: [", "edge.yaml: did not find expected node content at line 2 column 1, while parsing a flow node"),
        ("- a", "edge.yaml: expected sections such as `listeners:`"),
        ("cache: { path: a, path: b }", "edge.yaml: cache: duplicate entry with key \"path\" at line 1 column 8"),
    ] {
        assert_eq!(load(text).unwrap_err(), [expected]);
    }
}

#[test]
fn never_shows_a_secret() {
    let directory = scratch();
    for (key, password) in [
        ("password: hunter2", "hunter2"),
        ("password: '${HUNTER:-hunter2}'", "hunter2"),
        ("password_env: HUB_PASSWORD", "from the environment"),
    ] {
        let text = completed(&registry(&format!("credentials: {{ username: me, {key} }}")));
        let config = load(&text).unwrap();
        let credentials = config.registries[0].upstream.credentials.as_ref().unwrap();
        assert_eq!(credentials.password.reveal(), password);
        assert!(!format!("{config:?}").contains(password));
    }
    for keys in [
        "username: me, password: hunter2, password_file: password",
        "username: [], password: hunter2, zzz: 1",
        "username: me, password: [hunter2]",
        "username: me, password: '${hunter2'",
    ] {
        let problems = load_in(directory.path(), &registry(&format!("credentials: {{ {keys} }}"))).unwrap_err();
        assert!(!problems.join("\n").contains("hunter2"), "{problems:?}");
    }
}

#[test]
fn limits_files_and_lists() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.yaml");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Config::load(&path).unwrap_err().to_string()
    };
    assert_eq!(load(&"#".repeat(1024 * 1024 + 1)), format!("{}: is larger than 1.0 MiB", path.display()));
    let hosts = (0..1001).map(|n| format!("h{n}.io")).collect::<Vec<_>>().join(", ");
    let text = completed(&registry(&format!("hosts: [{hosts}]")));
    assert_eq!(load(&text), "registries[0].hosts: has more than 1000 entries");
    std::fs::write(&path, [0xff]).unwrap();
    assert_eq!(Config::load(&path).unwrap_err().to_string(), format!("{}: is not UTF-8 text", path.display()));
    std::fs::write(&path, completed("cache: { path: here, max_size: 1GiB }")).unwrap();
    assert_eq!(Config::load(&path).unwrap().cache.unwrap().path, directory.path().join("here"));
    let missing = directory.path().join("missing.yaml");
    let problems = Config::load(&missing).unwrap_err().to_string();
    assert!(problems.starts_with(&format!("{}: cannot be read: ", missing.display())), "{problems}");
}
