//! SIGHUP: the configuration is read again, and what can change while the origin runs does.
//!
//! Invariant: a configuration that has a problem changes nothing. A key that differs and needs a restart is named, each time.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use pierhead_config::{OriginConfig, OriginListener};

use super::Places;
use super::tls::Tls;
use crate::api::Origin;

/// Takes up what can be taken up, and says what cannot.
pub(super) async fn reload(path: &Path, origin: &Arc<Origin>, places: &Places, tls: Option<&Tls>) {
    let mut new = match OriginConfig::load(path) {
        Ok(new) => new,
        Err(problems) => {
            return tracing::error!(%problems, "the new configuration is not valid; the one before stays");
        }
    };
    let live = origin.live();
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
    if new.auth != live.auth
        && let Err(error) = origin.auth.change(&new.auth).await
    {
        tracing::error!(%error, "what changed below `auth` cannot be used; what was before holds: send SIGHUP again");
        new.auth = live.auth.clone();
    }
    let (now, needs_restart) = differences(&live, &new);
    if new.limits != live.limits {
        places.change(&new.limits);
    }
    origin.set_live(taken_up(&live, new));
    if now.is_empty() {
        tracing::info!("configuration reloaded: no key changed that can change while the origin runs");
    } else {
        tracing::info!(keys = now.join(", "), "configuration reloaded");
    }
    if !needs_restart.is_empty() {
        tracing::warn!(keys = needs_restart.join(", "), "these keys changed, and take effect at the next start");
    }
}

/// The new configuration, with what needs a restart as it is.
fn taken_up(live: &OriginConfig, new: OriginConfig) -> OriginConfig {
    let listener = OriginListener {
        bind: live.listener.bind,
        tls: if has_tls(live) == has_tls(&new) { new.listener.tls } else { live.listener.tls.clone() },
        trusted_proxies: new.listener.trusted_proxies,
    };
    OriginConfig {
        hostname: live.hostname.clone(),
        listener,
        admin: live.admin,
        storage: live.storage.clone(),
        database: live.database.clone(),
        ..new
    }
}

fn has_tls(config: &OriginConfig) -> bool {
    config.listener.tls.is_some()
}

/// Which keys differ from what holds now: those that change at once, and those that need a restart.
fn differences(live: &OriginConfig, new: &OriginConfig) -> (Vec<&'static str>, Vec<&'static str>) {
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
        ("aliases", *aliases != live.aliases),
        ("listener.trusted_proxies", listener.trusted_proxies != live.listener.trusted_proxies),
        ("pulls", *pulls != live.pulls),
        ("auth", *auth != live.auth),
        ("limits", *limits != live.limits),
        ("registry_state", *registry_state != live.registry_state),
        ("tag_expiration", *tag_expiration != live.tag_expiration),
        ("garbage_collection", *garbage_collection != live.garbage_collection),
        ("action_log_retention", *action_log_retention != live.action_log_retention),
        ("access_log", *access_log != live.access_log),
        ("drain_timeout", *drain_timeout != live.drain_timeout),
        ("drain_wait", *drain_wait != live.drain_wait),
    ]);
    let needs_restart = changed(&[
        ("hostname", *hostname != live.hostname),
        ("listener.bind", listener.bind != live.listener.bind),
        ("listener.tls", has_tls(new) != has_tls(live)),
        ("admin.bind", *admin != live.admin),
        ("storage", *storage != live.storage),
        ("database", *database != live.database),
    ]);
    (now, needs_restart)
}
