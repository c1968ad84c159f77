//! hosts.toml of containerd, one for each registry. containerd names the registry by itself (`?ns=`).

use std::fmt::Write;

use pierhead_config::{Config, Registry};

use super::address::Edge;
use super::needs_login;

pub(super) fn render(config: &Config, edge: &Edge) -> String {
    let mut text = String::from(
        "# The CRI plugin reads these files when its configuration says so:\n\
         #   containerd 2: [plugins.\"io.containerd.cri.v1.images\".registry] config_path = \"/etc/containerd/certs.d\"\n\
         #   containerd 1: [plugins.\"io.containerd.grpc.v1.cri\".registry] config_path = \"/etc/containerd/certs.d\"\n\
         # ctr: --hosts-dir /etc/containerd/certs.d; nerdctl reads them anyway.\n\
         # When the edge is away, pulls go to `server`. To forbid that, write the edge's URL there.\n",
    );
    for registry in &config.registries {
        let home = edge.home(registry);
        let url = edge.url(&home.clone().unwrap_or_else(|| edge.authority()));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n# /etc/containerd/certs.d/{}/hosts.toml", registry.name);
        if let Some(server) = server(registry) {
            let _ = writeln!(text, "server = \"{server}\"\n");
        }
        if home.is_some() {
            let _ = writeln!(text, "server = \"{url}\"\n");
        }
        let capabilities = if home.is_some() { "\"pull\", \"resolve\", \"push\"" } else { "\"pull\", \"resolve\"" };
        let _ = writeln!(text, "[host.\"{url}\"]\n  capabilities = [{capabilities}]");
        if edge.tls {
            text.push_str(
                "  # ca = \"/etc/containerd/edge-ca.crt\"  # unless the system trusts the edge's certificate\n",
            );
        }
        // A registry at home tells by itself what it wants.
        if home.is_none() && needs_login(config, registry) {
            let _ = writeln!(
                text,
                "  # the edge wants a login:\n  # [host.\"{url}\".header]\n  #   Authorization = \"Basic BASE64(USER:PASSWORD)\""
            );
        }
    }
    text
}

/// The registry itself, as the edge reaches it. A base path would need `override_path`, and is left to containerd.
fn server(registry: &Registry) -> Option<String> {
    let url = &registry.upstream.source.endpoints().first()?.url;
    (url.path() == "/").then(|| url.as_str().trim_end_matches('/').to_owned())
}
