//! SIGHUP: the configuration is read again, and what can change while the origin runs does.
//!
//! Invariant: a configuration that has a problem changes nothing. A key that differs and needs a restart is named, each time.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use pierhead_config::OriginConfig;

use super::tls::Tls;
use crate::api::{Live, Origin};

/// Takes up what can be taken up, and says what cannot.
pub(super) fn reload(path: &Path, origin: &Arc<Origin>, tls: Option<&Tls>) {
    let new = match OriginConfig::load(path) {
        Ok(new) => new,
        Err(problems) => {
            return tracing::error!(%problems, "the new configuration is not valid; the one before stays");
        }
    };
    let (now, needs_restart) = differences(&origin.config, &new, &origin.live());
    if let (Some(tls), Some(files)) = (tls, &new.listener.tls) {
        match tls.reload(files) {
            Ok(()) => {
                tracing::info!("certificate reloaded");
                if let Some((file, doubt)) = tls.doubt(SystemTime::now()) {
                    tracing::warn!(file = %file.display(), "{doubt}");
                }
            }
            Err(error) => tracing::error!(%error, "the new certificate cannot be used; the one before serves on"),
        }
    }
    origin.set_live(Live::of(&new));
    origin.auth.set_anonymous_pulls(new.auth.anonymous_pulls);
    if now.is_empty() {
        tracing::info!("configuration reloaded: no key changed that can change while the origin runs");
    } else {
        tracing::info!(keys = now.join(", "), "configuration reloaded");
    }
    if !needs_restart.is_empty() {
        tracing::warn!(keys = needs_restart.join(", "), "these keys changed, and take effect at the next start");
    }
}

/// Which keys differ: those that change now, from what holds now, and those that need a restart, from what held at the start.
fn differences(start: &OriginConfig, new: &OriginConfig, live: &Live) -> (Vec<&'static str>, Vec<&'static str>) {
    // All fields are named, so that a new one is decided here.
    let OriginConfig {
        hostname,
        aliases,
        listener,
        admin,
        storage,
        pulls,
        database,
        auth,
        limits,
        registry_state,
        tag_expiration,
        garbage_collection,
        action_log_retention,
        access_log,
        drain_timeout,
        drain_wait,
    } = new;
    let changed = |keys: &[(&'static str, bool)]| -> Vec<&'static str> {
        keys.iter().filter_map(|(key, differs)| differs.then_some(*key)).collect()
    };
    let now = changed(&[
        ("registry_state", *registry_state != live.registry_state),
        ("pulls", *pulls != live.pulls),
        ("access_log", *access_log != live.access_log),
        ("drain_timeout", *drain_timeout != live.drain_timeout),
        ("drain_wait", *drain_wait != live.drain_wait),
        ("listener.trusted_proxies", listener.trusted_proxies != live.trusted_proxies),
        ("auth.anonymous_pulls", auth.anonymous_pulls != live.anonymous_pulls),
    ]);
    let has_tls = |listener: &pierhead_config::OriginListener| listener.tls.is_some();
    let before = &start.auth;
    let needs_restart = changed(&[
        ("hostname", *hostname != start.hostname),
        ("aliases", *aliases != start.aliases),
        ("listener.bind", listener.bind != start.listener.bind),
        ("listener.tls", has_tls(listener) != has_tls(&start.listener)),
        ("admin.bind", *admin != start.admin),
        ("storage", *storage != start.storage),
        ("database", *database != start.database),
        ("auth.token_lifetime", auth.token_lifetime != before.token_lifetime),
        ("auth.key_algorithm", auth.key_algorithm != before.key_algorithm),
        ("auth.key_rotation", auth.key_rotation != before.key_rotation),
        ("auth.failed_logins", auth.failed_logins != before.failed_logins),
        ("auth.show_robot_tokens", auth.show_robot_tokens != before.show_robot_tokens),
        ("limits", *limits != start.limits),
        ("tag_expiration", *tag_expiration != start.tag_expiration),
        ("garbage_collection", *garbage_collection != start.garbage_collection),
        ("action_log_retention", *action_log_retention != start.action_log_retention),
    ]);
    (now, needs_restart)
}
