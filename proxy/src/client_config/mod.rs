//! What to paste into a client's configuration so that it pulls through this edge.
//!
//! Pure: a checked configuration in, text out. Every client keeps its way past the edge: pulls work on when the edge
//! is away. How to close that way is said beside it.

mod address;
mod containerd;
mod docker;
mod podman;

use pierhead_config::{AuthMode, Config, Registry};

use address::Edge;
pub(crate) use address::{Address, url};

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Client {
    /// Podman, CRI-O, Buildah and Skopeo: a file for registries.conf.d.
    Podman,
    /// containerd, and what runs on it: a hosts.toml for each registry.
    Containerd,
    /// Docker: keys for daemon.json.
    Docker,
    /// All of them, and a pull to try.
    All,
}

/// Renders the configuration for a client. Without an address it is that of the first listener with TLS, or of the
/// first, and of this machine when that one listens on all addresses.
pub(crate) fn render(client: Client, config: &Config, address: Option<&Address>) -> String {
    let Some(edge) = Edge::new(config, address, address::machine) else { return String::new() };
    match client {
        Client::Podman => podman::render(config, &edge),
        Client::Containerd => containerd::render(config, &edge),
        Client::Docker => docker::render(config, &edge),
        Client::All => summary(config, &edge),
    }
}

fn summary(config: &Config, edge: &Edge) -> String {
    let mut text = String::new();
    for (title, part) in [
        ("Podman, CRI-O, Skopeo", podman::render(config, edge)),
        ("containerd, Kubernetes", containerd::render(config, edge)),
        ("Docker", docker::render(config, edge)),
    ] {
        text.push_str(&format!("## {title}\n\n{part}\n"));
    }
    text.push_str(&format!("## Try it\n\n{}", pulls(config, edge)));
    text
}

/// A pull that works before anything was pasted: the registry stands in the path.
fn pulls(config: &Config, edge: &Edge) -> String {
    let registry = config.registries.iter().find(|registry| registry.default).or(config.registries.first());
    let Some((registry, place)) = registry.and_then(|registry| Some((registry, edge.place(config, registry)?))) else {
        return String::new();
    };
    let image = format!("{place}/{}", sample(registry));
    let verify = if edge.tls { "" } else { "--tls-verify=false " };
    format!("podman pull {verify}{image}\ndocker pull {image}\n")
}

/// An image that exists and is small, where the registry is well known.
fn sample(registry: &Registry) -> &'static str {
    match registry.name.as_str() {
        "docker.io" => "library/alpine",
        "quay.io" => "prometheus/busybox",
        "registry.k8s.io" => "pause:3.10",
        "gcr.io" => "distroless/static",
        "public.ecr.aws" => "docker/library/alpine",
        _ => "REPOSITORY:TAG",
    }
}

/// Whether pulling this registry needs a login at the edge.
fn needs_login(config: &Config, registry: &Registry) -> bool {
    config.access.is_some() || registry.auth == AuthMode::Passthrough
}

#[cfg(test)]
mod tests;
