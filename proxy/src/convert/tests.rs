//! The converter against its documentation, and against the examples.

use std::path::Path;

use pierhead_config::Config;

use super::{haproxy, haproxy_of_bytes};

/// What is converted, and the numbers of the lines that are left.
fn converted(text: &str) -> (String, Vec<usize>) {
    let made = haproxy(text, &|_| false);
    let lines = made.left.iter().map(|left| left.line).collect();
    (made.yaml, lines)
}

/// What stands in quotes of code.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// A whole file around the lines of a row, and the numbers of those.
fn around(heading: &str, lines: &[&str]) -> (String, std::ops::Range<usize>) {
    let (before, prefix, after) = match heading {
        "`global`" => ("global\n", "", "frontend f\n bind :80\n default_backend b\nbackend b\n server s 10.0.0.1:80\n"),
        "`resolvers`" => (
            "backend b\n server s quay.example.com:80 resolvers r\nfrontend f\n bind :80\n default_backend b\nresolvers r\n",
            "",
            "",
        ),
        "`frontend`, `mode http`" => (
            "backend b\n mode http\n server s 10.0.0.1:80\nfrontend f\n mode http\n bind :80\n default_backend b\n",
            "",
            "",
        ),
        "`frontend`, `mode tcp`" => {
            ("backend b\n server s 10.0.0.1:80\nfrontend f\n bind :80\n default_backend b\n", "", "")
        }
        "`bind`" => (
            "backend b\n mode http\n server s 10.0.0.1:80\nfrontend f\n mode http\n default_backend b\n",
            "bind :443 ",
            "",
        ),
        "`backend`" => (
            "frontend f\n mode http\n bind :80\n default_backend b\nbackend b\n mode http\n server s 10.0.0.1:80 check\n",
            "",
            "",
        ),
        "`server`" => ("frontend f\n bind :80\n default_backend b\nbackend b\n", "server s 10.0.0.1:443 ", ""),
        _ => panic!("{heading}"),
    };
    let first = before.lines().count() + 1;
    let body: String = lines.iter().map(|line| format!(" {prefix}{line}\n")).collect();
    (format!("{before}{body}{after}"), first..first + lines.len())
}

#[test]
fn does_what_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/haproxy.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut heading, mut checked) = ("", 0);
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title;
        }
        let Some(row) = line.strip_prefix("| `") else { continue };
        let row = format!("`{row}");
        let [theirs, ours, ..] = row.split(" | ").collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (file, lines) = around(heading, &code(theirs));
        let (yaml, left) = converted(&file);
        let told = left.iter().any(|number| lines.contains(number));
        assert_eq!(told, ours == "—", "{line}\n{file}{yaml}{left:?}");
        for key in code(ours) {
            // `limits.max_connections: 5` stands there as `max_connections: 5`.
            let (name, value) = key.split_once(':').unwrap_or((key, ""));
            let last = name.rsplit('.').next().unwrap();
            let written = if value.is_empty() { format!("{last}:") } else { format!("{last}:{value}") };
            assert!(yaml.contains(&written), "{line}\n{file}{yaml}");
        }
        checked += 1;
    }
    assert!(checked > 90, "{checked}");
}

#[test]
fn the_example_means_what_its_haproxy_cfg_is_converted_to() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("converted.yaml");
    let text = std::fs::read_to_string(examples.join("haproxy.cfg")).unwrap();
    let (yaml, left) = converted(&text);
    std::fs::write(&path, yaml).unwrap();
    let told: Vec<&str> =
        left.iter().map(|number| text.lines().nth(number - 1).unwrap().split_whitespace().next().unwrap()).collect();
    assert_eq!(told, ["log", "stats"]);
    let [converted, example] = [path, examples.join("haproxy-replacement.yaml")].map(|path| {
        let config = Config::load(&path).unwrap();
        (format!("{:#?}", config.listeners), config.pools, format!("{:?}", config.limits))
    });
    assert_eq!(converted, example);
}

#[test]
fn hosts_lead_to_registries_with_one_default() {
    let file = "defaults\n mode http\nfrontend f\n bind :80\n use_backend lab if { hdr(host) -i lab.example.com }\n default_backend my_quay\n\
                backend lab\n server a 10.0.0.1:80\nbackend my_quay\n server a 10.0.0.2:80\n";
    let (yaml, left) = converted(file);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.yaml");
    std::fs::write(&path, &yaml).unwrap();
    let config = Config::load(&path).unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
    let registries: Vec<(&str, bool)> =
        config.registries.iter().map(|registry| (registry.name.as_str(), registry.default)).collect();
    assert_eq!(registries, [("lab.example.com", false), ("my-quay.internal", true)]);
    assert_eq!(left, [5, 5]);
}

#[test]
fn an_address_of_both_families_is_one_listener() {
    let file = "global\n crt-base /etc/certs/\nfrontend f\n bind :80\n bind [::]:80\n bind *:443 ssl crt a.pem\n bind :::443 v6only ssl crt a.pem\n bind :81\n \
                bind [::]:81 accept-proxy\n mode http\n default_backend b\nbackend b\n server a 10.0.0.1:80\n";
    let (yaml, left) = converted(file);
    let addresses: Vec<&str> = yaml.split("bind: ").skip(1).map(|rest| rest.split('"').nth(1).unwrap()).collect();
    assert_eq!(addresses, ["[::]:80", "[::]:443", "0.0.0.0:81", "[::]:81"], "{yaml}");
    assert!(yaml.contains("cert: /etc/certs/a.pem"), "{yaml}");
    assert_eq!(left, [9]);
}

#[test]
fn shows_no_password() {
    let file = "backend b\n option tcp-check\n tcp-check send AUTH\\ hunter2\\r\\n\n tcp-check send hunter2\n server a 10.0.0.1:6379 check\n\
                userlist u\n user me insecure-password hunter2\nlisten stats\n bind :9000\n stats auth me:hunter2\n";
    let made = haproxy(file, &|_| false);
    assert!(!made.left.is_empty());
    for left in made.left {
        assert!(!format!("{left:?}").contains("hunter2"), "{left:?}");
    }
}

#[test]
fn nothing_is_left_silently_and_nothing_breaks() {
    for (file, expected) in [
        ("", &[][..]),
        ("bind :80\n", &[1]),
        ("frontend\n", &[]),
        ("frontend f\n bind\n server\n", &[2, 3]),
        (".if defined(X)\nfrontend f\n bind :80\n.endif\n", &[1, 3, 4]),
        ("frontend f\n bind :80\n default_backend nowhere\n", &[2, 3]),
        ("backend b\n server a /run/a.sock\n server\n server-template a 3\n", &[2, 3, 4]),
        ("frontend f\n bind unix@/run/f.sock\n whatever 1 2\n", &[2, 3]),
        ("peers p\n peer a 10.0.0.1:1000\nmailers m\n", &[1, 3]),
        ("backend b\n server a 10.0.0.1:80 check\n server b 10.0.0.2:80 check inter 5s\n", &[3]),
        ("backend b\n server a 10.0.0.1:80 check inter 0\n timeout server 0\n timeout tarpit 5s\n", &[2, 3, 4]),
    ] {
        assert_eq!(converted(file).1, expected, "{file}");
    }
}

#[test]
fn a_backend_that_is_missing_is_named() {
    for (file, expected) in [
        (
            "frontend f\n bind :80\n default_backend nowhere\n",
            "c:3: default_backend nowhere: there is no `backend nowhere`",
        ),
        (
            "frontend f\n bind :80\n mode http\n use_backend gone if { hdr(host) -i a.example.com }\n",
            "c:4: use_backend gone: there is no `backend gone`",
        ),
        (
            "frontend f\n bind :80\n default_backend b\nbackend b\n",
            "c:3: default_backend b: has no servers that could be carried over",
        ),
    ] {
        let left = haproxy(file, &|_| false).left(Path::new("c"));
        assert!(left.contains(expected), "{left}");
    }
}

#[test]
fn bytes_of_another_encoding_are_converted_and_told() {
    let text =
        b"# gr\xfc\xdfe\nfrontend f\n bind :80\n default_backend b\nbackend b\n server m\xfc 10.0.0.1:80 # \xff\n";
    let converted = haproxy_of_bytes(text, &|_| false);
    assert_eq!(
        converted.left(Path::new("c")),
        "c:6: the line: is not UTF-8: each byte that is not was taken for an unknown character\n"
    );
    assert!(converted.yaml.contains("10.0.0.1:80"), "{}", converted.yaml);
}

#[test]
fn each_address_is_a_listener_with_a_name_of_its_own() {
    let file = "frontend admin\n bind :80,:81\n bind [::1]:82\n default_backend b\nfrontend admin-2\n bind :83\n default_backend b\n\
                frontend a:b\n bind :84\n default_backend b\nbackend b\n server a 10.0.0.1:80\n";
    let (yaml, left) = converted(file);
    assert!(left.is_empty(), "{left:?}");
    let names: Vec<&str> = yaml.split("name: ").skip(1).map(|rest| rest.split(',').next().unwrap()).collect();
    assert_eq!(names, ["admin_2", "admin_2-2", "admin_2-3", "admin-2", "a-b", "b", "a"]);
}

#[test]
fn a_file_without_proxies_fails() {
    let path = Path::new("haproxy.cfg");
    for (text, is_converted, left) in [
        ("", false, 0),
        ("# a comment\n\n", false, 0),
        ("listeners: []\n{}\n", false, 1),
        ("global\n maxconn 100\n lua-load x\n", false, 1),
        ("defaults\n mode http\n", false, 0),
        ("frontend f\n bind :80\n default_backend b\nbackend b\n server s 10.0.0.1:80\n", true, 0),
        ("backend b\n server s 10.0.0.1:80\n", true, 0),
        ("listen l\n bind :80\n server s 10.0.0.1:80\n", true, 0),
    ] {
        match haproxy(text, &|_| false).and_found(path) {
            Ok(_) => assert!(is_converted, "{text:?}"),
            Err(problem) => {
                assert!(!is_converted, "{text:?}: {problem}");
                assert!(problem.contains("haproxy.cfg: found nothing to convert"), "{text:?}: {problem}");
                assert_eq!(problem.lines().count(), left + 1, "{text:?}: {problem}");
            }
        }
    }
}
