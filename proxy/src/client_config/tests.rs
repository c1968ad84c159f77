//! Each client's text, for a plain edge on loopback and for one with TLS, logins and a virtual host.

use pierhead_config::Config;

use super::address::Edge;
use super::{Address, Client, containerd, docker, podman, render, summary};

const QUICK: &str = "
listeners: [{ name: registry, bind: 'localhost:5000' }]
registries:
  - { name: docker.io, default: true, upstream: 'https://registry-1.docker.io' }
  - { name: quay.io, upstream: 'https://quay.io' }
cache: { path: /c, max_size: 1GiB }
";

const TLS: &str = "
listeners:
  - { name: plain, bind: '0.0.0.0:80' }
  - { name: registry, bind: '0.0.0.0:443', tls: { certificates: [{ cert: edge.yaml, key: edge.yaml }] } }
registries:
  - { name: docker.io, hosts: [hub.example.com], upstream: 'https://registry-1.docker.io' }
  - { name: 'private.example.com:8443', auth: passthrough, upstream: 'https://private.example.com/base' }
  - { name: own.example.com, auth: passthrough, upstream: 'https://own.example.com' }
cache: { path: /c, max_size: 1GiB }
";

fn config(text: &str) -> Config {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.yaml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path).unwrap()
}

fn edge(config: &Config, address: Option<&str>) -> Edge {
    let address = address.map(|address| address.parse::<Address>().unwrap());
    Edge::new(config, address.as_ref(), || "edge7".to_owned()).unwrap()
}

#[test]
fn finds_the_edge() {
    let (quick, tls) = (config(QUICK), config(TLS));
    for (config, address, expected) in [
        (&quick, None, "http://localhost:5000"),
        (&quick, Some("edge"), "http://edge:5000"),
        (&quick, Some("edge:80"), "http://edge"),
        (&quick, Some("[::1]"), "http://[::1]:5000"),
        (&tls, None, "https://edge7"),
        (&tls, Some("edge.example.com:8443"), "https://edge.example.com:8443"),
    ] {
        let edge = edge(config, address);
        assert_eq!(edge.url(&edge.authority()), expected);
    }
}

#[test]
fn a_virtual_host_means_its_own_registry_only() {
    let tls = config(TLS);
    let place = |address| {
        let edge = edge(&tls, Some(address));
        tls.registries.iter().map(|registry| edge.place(&tls, registry)).collect::<Vec<_>>()
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(place("edge"), [some("edge/docker.io"), None, some("edge/own.example.com")]);
    assert_eq!(place("hub.example.com"), [some("hub.example.com"), None, None]);
    let text = podman::render(&tls, &edge(&tls, Some("hub.example.com")));
    assert!(text.contains("location = \"hub.example.com\"\n"), "{text}");
    assert!(text.contains("# private.example.com:8443 cannot be named by a path at hub.example.com"), "{text}");
    let reachable = config(&TLS.replacen("auth: passthrough", "hosts: [pull.example.com]", 1));
    let edge = edge(&reachable, None);
    assert_eq!(edge.place(&reachable, &reachable.registries[1]), some("pull.example.com"));
}

#[test]
fn podman_gets_mirrors_by_path() {
    let quick = config(QUICK);
    let text = podman::render(&quick, &edge(&quick, None));
    let quay = "[[registry]]\nprefix = \"quay.io\"\nlocation = \"quay.io\"\n\n[[registry.mirror]]\n\
                location = \"localhost:5000/quay.io\"\ninsecure = true\n";
    assert!(text.ends_with(quay), "{text}");
    assert!(text.contains("location = \"localhost:5000/docker.io\"\ninsecure = true\n"));

    let tls = config(TLS);
    let text = podman::render(&tls, &edge(&tls, Some("edge.example.com")));
    assert!(!text.contains("insecure"));
    assert!(text.contains("location = \"edge.example.com/own.example.com\"\n# once: podman login edge.example.com/"));
    assert_eq!(text.matches("podman login").count(), 1, "docker.io needs none");
}

#[test]
fn containerd_gets_one_file_a_registry() {
    let quick = config(QUICK);
    let text = containerd::render(&quick, &edge(&quick, None));
    let hub = "# /etc/containerd/certs.d/docker.io/hosts.toml\nserver = \"https://registry-1.docker.io\"\n\n\
               [host.\"http://localhost:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n";
    assert!(text.contains(hub), "{text}");
    assert_eq!(text.matches("hosts.toml").count(), 2);

    let tls = config(TLS);
    let text = containerd::render(&tls, &edge(&tls, None));
    assert!(text.contains("certs.d/private.example.com:8443/hosts.toml\n[host.\"https://edge7\"]\n"), "{text}");
    assert!(text.contains("# [host.\"https://edge7\".header]"));
}

#[test]
fn docker_gets_a_mirror_of_docker_io_only() {
    let json = |text: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        serde_json::from_str::<serde_json::Value>(&lines.join("\n")).unwrap()
    };
    let quick = config(QUICK);
    let text = docker::render(&quick, &edge(&quick, None));
    assert_eq!(json(&text), serde_json::json!({ "registry-mirrors": ["http://localhost:5000"] }));
    assert!(text.contains("docker pull localhost:5000/quay.io/prometheus/busybox"));
    assert!(!text.contains("docker pull localhost:5000/docker.io"));

    let text = docker::render(&quick, &edge(&quick, Some("edge")));
    let expected =
        serde_json::json!({ "registry-mirrors": ["http://edge:5000"], "insecure-registries": ["edge:5000"] });
    assert_eq!(json(&text), expected);

    let tls = config(TLS);
    let text = docker::render(&tls, &edge(&tls, None));
    assert_eq!(json(&text), serde_json::json!({ "registry-mirrors": ["https://hub.example.com"] }));

    let neither = config(&TLS.replace("hosts: [hub.example.com], ", ""));
    let text = docker::render(&neither, &edge(&neither, None));
    assert_eq!(json(&text), serde_json::json!({}));
    assert!(text.contains("Docker cannot use it as a mirror"));
    assert!(text.contains("docker pull edge7/docker.io/library/alpine"));
}

#[test]
fn a_registry_at_home_is_pushed_to_as_well() {
    let door = |listener: &str, registry: &str| {
        config(&format!(
            "
listeners:
  - {{ name: redis, bind: '0.0.0.0:6379', mode: tcp, pool: redis }}
  - {{ name: registry, bind: '0.0.0.0:443'{listener} }}
pools:
  - {{ name: redis, servers: ['127.0.0.1:6379'] }}
  - {{ name: quay, servers: ['127.0.0.1:8443'] }}
registries:
  - {{ name: quay.example.com, pool: quay{registry} }}
cache: {{ path: /c, max_size: 1GiB }}
"
        ))
    };
    let tls = ", tls: { certificates: [{ cert: edge.yaml, key: edge.yaml }] }";
    for (listener, registry, home, insecure) in [
        (tls, ", hosts: [quay.example.com]", "quay.example.com", false),
        (tls, ", hosts: [registry.example.com]", "registry.example.com", false),
        ("", ", default: true", "edge:443", true),
    ] {
        let config = door(listener, registry);
        let edge = edge(&config, Some("edge"));
        assert_eq!(edge.place(&config, &config.registries[0]).as_deref(), Some(home));
        let text = podman::render(&config, &edge);
        assert!(
            !text.contains("mirror]]")
                && text.contains(&format!("podman login {}", if insecure { "--tls" } else { home }))
        );
        assert_eq!(text.contains("[[registry]]"), home != "quay.example.com", "{text}");
        assert_eq!(text.contains("insecure = true"), insecure, "{text}");
        let text = containerd::render(&config, &edge);
        let url = edge.url(home);
        assert!(text.contains(&format!("server = \"{url}\"\n\n[host.\"{url}\"]\n")), "{text}");
        assert!(text.contains("\"push\""), "{text}");
        let text = docker::render(&config, &edge);
        assert!(text.contains(&format!("docker pull {home}/REPOSITORY:TAG")), "{text}");
    }
}

#[test]
fn all_is_everything_and_a_pull() {
    let quick = config(QUICK);
    let edge = edge(&quick, None);
    let text = summary(&quick, &edge);
    for part in [podman::render(&quick, &edge), containerd::render(&quick, &edge), docker::render(&quick, &edge)] {
        assert!(text.contains(&part));
    }
    assert!(text.contains("podman pull --tls-verify=false localhost:5000/docker.io/library/alpine\n"));
    assert_eq!(render(Client::All, &quick, None), text);
}
