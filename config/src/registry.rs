//! `registries[]`: a name that clients pull from, and the rules for what is kept of it.

use std::time::Duration;

use crate::claims::Claims;
use crate::field::{Field, LONGEST};
use crate::globs::globs;
use crate::limits::rate;
use crate::model::{AuthMode, OfflinePolicy, Registry, TokenKeys};
use crate::section::Section;
use crate::{host, token_keys, upstream};

/// One registry.
pub(crate) fn registry(field: Field<'_>, claims: &mut Claims) -> Option<Registry> {
    let path = field.path.clone();
    let mut section = field.section()?;
    let name = section.required("name").and_then(|field| name(&field, claims));
    let hosts = match section.take("hosts") {
        Some(field) => hosts(&field, claims, &path).unwrap_or_default(),
        None => Vec::new(),
    };
    let default = default_registry(&mut section, claims);
    let library = section.flag("library", name.as_deref() == Some("docker.io"));
    let auth = auth(&mut section, claims);
    let upstream = upstream::upstream(&mut section, auth.mode, claims);
    let tag_ttl = section.duration("tag_ttl", Duration::from_secs(300), Duration::ZERO..=LONGEST);
    let negative_ttl = section.duration("negative_ttl", Duration::from_secs(10), Duration::ZERO..=LONGEST);
    let revalidate_budget = section.duration("revalidate_budget", Duration::from_secs(1), Duration::ZERO..=LONGEST);
    let immutable_tags = globs(&mut section, "immutable_tags");
    let stale_if_error = section.flag("stale_if_error", true);
    let keep_deleted = keep_deleted(&mut section, auth.mode);
    let allow = globs(&mut section, "allow");
    let deny = globs(&mut section, "deny");
    let pin = globs(&mut section, "pin");
    let max_share = section.take("max_share").and_then(|field| field.percent()).unwrap_or(80);
    let rate = section.optional("rate", rate);
    section.unsupported(&["storage"]);
    section.finish();
    Some(Registry {
        name: name?,
        hosts,
        default,
        library,
        upstream: upstream?,
        auth: auth.mode,
        authorization_ttl: auth.ttl,
        offline_policy: auth.offline_policy,
        token_keys: auth.token_keys?,
        tag_ttl,
        negative_ttl,
        revalidate_budget,
        immutable_tags,
        stale_if_error,
        keep_deleted,
        allow,
        deny,
        pin,
        max_share,
        rate: rate?,
    })
}

/// A name that a path can begin with: `team/app` must stay a repository of the default registry.
fn name(field: &Field<'_>, claims: &mut Claims) -> Option<String> {
    let name = host::host(field)?;
    if !name.contains(['.', ':']) && name != "localhost" {
        let reason = "a path could not tell it from a repository";
        field.problem(format!("`{name}` needs a `.` or a port: {reason}"));
        return None;
    }
    claims.registry(&name, field);
    Some(name)
}

fn hosts(field: &Field<'_>, claims: &mut Claims, registry: &str) -> Option<Vec<String>> {
    field.list(|entry| {
        let host = host::host(&entry)?;
        claims.host(&host, &entry, registry);
        Some(host)
    })
}

fn default_registry(section: &mut Section<'_>, claims: &mut Claims) -> bool {
    let Some(field) = section.take("default") else { return false };
    let default = field.flag() == Some(true);
    if default {
        claims.default_registry(&field);
    }
    default
}

struct Auth {
    mode: AuthMode,
    ttl: Duration,
    offline_policy: OfflinePolicy,
    /// The outer `None` is a noted problem.
    token_keys: Option<Option<TokenKeys>>,
}

fn auth(section: &mut Section<'_>, claims: &mut Claims) -> Auth {
    let modes = [("shared", AuthMode::Shared), ("passthrough", AuthMode::Passthrough)];
    let chosen = section.take("auth").map(|field| field.choice(&modes));
    // Behind a pool stands a registry with users of its own, unless the edge has an account there.
    let own = section.peek("pool").is_some() && section.peek("credentials").is_none();
    let usual = if own { AuthMode::Passthrough } else { AuthMode::Shared };
    let mode = chosen.flatten().unwrap_or(usual);
    let ttl = section.duration("authorization_ttl", Duration::from_secs(300), Duration::ZERO..=LONGEST);
    let policies = [("deny", OfflinePolicy::Deny), ("allow_known", OfflinePolicy::AllowKnown)];
    let offline_policy = section.choice("offline_policy", OfflinePolicy::Deny, &policies);
    let token_keys = section.optional("token_keys", token_keys::token_keys);
    // A mode that cannot be read may well have been meant to be passthrough.
    if chosen != Some(None) {
        match mode {
            AuthMode::Passthrough => claims.passthrough(section.path_of("auth")),
            AuthMode::Shared => section.meaningless(
                &["authorization_ttl", "offline_policy", "token_keys"],
                "has a meaning only with `auth: passthrough`",
            ),
        }
    }
    Auth { mode, ttl, offline_policy, token_keys }
}

/// Serving what upstream forbids is the opposite of asking it for each caller.
fn keep_deleted(section: &mut Section<'_>, mode: AuthMode) -> bool {
    let Some(field) = section.take("keep_deleted") else { return false };
    let keep = field.flag() == Some(true);
    if keep && mode == AuthMode::Passthrough {
        field.problem("cannot be together with `auth: passthrough`: it would serve what upstream forbids");
    }
    keep
}
