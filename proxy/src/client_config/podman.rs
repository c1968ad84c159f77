//! registries.conf.d of Podman, CRI-O, Buildah and Skopeo: the edge as the first mirror of each registry.
//!
//! These clients do not say which registry they mean, so it stands in the path. One location that they cannot parse
//! would break every pull from its registry: what has no place is left out.

use std::fmt::Write;

use pierhead_config::Config;

use super::address::Edge;
use super::needs_login;

pub(super) fn render(config: &Config, edge: &Edge) -> String {
    let mut text = String::from(
        "# /etc/containers/registries.conf.d/50-pierhead.conf\n\
         # When the edge is away, pulls go past it. To forbid that, write the mirror's location over the registry's,\n\
         # and leave the mirror out.\n",
    );
    for registry in &config.registries {
        let name = &registry.name;
        if let Some(home) = edge.home(registry) {
            home_of(&mut text, edge, name, &home);
            continue;
        }
        let Some(mirror) = edge.place(config, registry) else {
            let _ =
                writeln!(text, "\n# {name} cannot be named by a path at {}: give it one of `hosts`.", edge.authority());
            continue;
        };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n\n[[registry.mirror]]\nlocation = \"{mirror}\"\n"
        );
        if !edge.tls {
            text.push_str("insecure = true\n");
        }
        if needs_login(config, registry) {
            let verify = if edge.tls { "" } else { "--tls-verify=false " };
            let _ = writeln!(text, "# once: podman login {verify}{mirror}");
        }
    }
    text
}

/// A registry that is at home here: there is no way past the edge, and pushes go the same way.
fn home_of(text: &mut String, edge: &Edge, name: &str, home: &str) {
    // Writing to a String cannot fail.
    let _ = if name == home {
        write!(text, "\n# {name} is served under its own name.\n")
    } else {
        write!(text, "\n# Images of {name} are pushed as {home}/….\n")
    };
    if name != home || !edge.tls {
        let _ = write!(text, "[[registry]]\nprefix = \"{name}\"\nlocation = \"{home}\"\n");
    }
    if !edge.tls {
        text.push_str("insecure = true\n");
        if name != home {
            let _ = write!(text, "\n[[registry]]\nprefix = \"{home}\"\nlocation = \"{home}\"\ninsecure = true\n");
        }
    }
    let verify = if edge.tls { "" } else { "--tls-verify=false " };
    let _ = writeln!(text, "# to push, or where it wants a login for pulls, once: podman login {verify}{home}");
}
