//! daemon.json of Docker. Docker mirrors docker.io and nothing else, at the root of a host: so docker.io must be the
//! default registry, or have a host of its own. The others are pulled by their path.

use std::fmt::Write;

use pierhead_config::{Config, Registry};
use serde_json::{Map, Value, json};

use super::address::Edge;
use super::needs_login;
use super::sample;

const HUB: &str = "docker.io";

pub(super) fn render(config: &Config, edge: &Edge) -> String {
    let hub = config.registries.iter().find(|registry| registry.name == HUB);
    let mirror = hub.and_then(|hub| mirror(hub, edge));
    let mut keys = Map::new();
    if let Some(mirror) = &mirror {
        keys.insert("registry-mirrors".to_owned(), json!([edge.url(mirror)]));
    }
    // Docker takes plain HTTP on loopback for granted.
    if !edge.tls && !edge.is_loopback() {
        let mut hosts = vec![edge.authority()];
        hosts.extend(mirror.clone());
        hosts.extend(config.registries.iter().filter_map(|registry| edge.home(registry)));
        let mut seen = std::collections::HashSet::new();
        hosts.retain(|host| seen.insert(host.clone()));
        keys.insert("insecure-registries".to_owned(), json!(hosts));
    }
    // A map of texts always has a JSON form.
    let mut text = serde_json::to_string_pretty(&Value::Object(keys)).unwrap_or_default();
    text.push_str("\n# The above belongs into /etc/docker/daemon.json, without these lines.\n");
    match (&mirror, hub) {
        (None, Some(_)) => text.push_str(
            "# docker.io is neither the default registry nor has a host of its own here: Docker cannot use it as a mirror.\n",
        ),
        (Some(_), Some(hub)) if needs_login(config, hub) => text.push_str(
            "# Docker does not log in to a mirror: the edge refuses it, and docker.io is pulled past the edge.\n",
        ),
        _ => {}
    }
    let others: Vec<&Registry> =
        config.registries.iter().filter(|registry| mirror.is_none() || registry.name != HUB).collect();
    if !others.is_empty() {
        text.push_str("# Docker mirrors nothing but docker.io. The others are pulled by their place at the edge:\n");
    }
    for (index, registry) in others.iter().enumerate() {
        let Some(place) = edge.place(config, registry) else { continue };
        let image = if index == 0 { sample(registry) } else { "…" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "#   docker pull {place}/{image}");
    }
    text
}

/// Where the edge answers for docker.io at the root.
fn mirror(hub: &Registry, edge: &Edge) -> Option<String> {
    if let Some(home) = edge.home(hub) {
        return Some(home);
    }
    if hub.default { Some(edge.authority()) } else { hub.hosts.first().map(|host| edge.authority_of(host)) }
}
