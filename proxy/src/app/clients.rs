//! The clients of registries: made anew only where something of what they are made from has changed, for a client knows
//! tokens and which addresses fail.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use pierhead_config::{Config, HttpListener, HttpTarget, Registry, Source};
use pierhead_registry::client::{Client, EdgeId, EndpointSettings};

use super::{AppError, parts};
use crate::admin::metrics::Metrics;
use crate::pool::{Pool, Pools, transport};

/// A registry's client, with all that it was made from.
pub(super) struct Known {
    pub(super) registry: Registry,
    pub(super) client: Client,
    pub(super) pool: Option<Arc<Pool>>,
    /// Whether clients come over TLS, which an origin behind a pool is told.
    secure: bool,
    files: Vec<FileState>,
}

/// Which file a client was made from, as far as one sees from outside: device, inode, length, last change.
type FileState = (PathBuf, Option<(u64, u64, u64, SystemTime)>);

/// Every registry with its client, and which of them are as they were. Contacts nobody: an edge starts while all
/// upstreams are down.
pub(super) fn make(
    config: &Config,
    pools: &Pools,
    before: &[Known],
    metrics: &Arc<Metrics>,
    listeners: &[SocketAddr],
    edge: Option<&EdgeId>,
) -> Result<(Vec<Known>, Vec<bool>), AppError> {
    // A client that was kept knows the listeners of its time, which is as good while they stay.
    let secure = config.listeners.iter().filter_map(|listener| listener.http()).any(is_secure_door);
    let mut made = Vec::with_capacity(config.registries.len());
    let mut kept = Vec::with_capacity(config.registries.len());
    for registry in &config.registries {
        let pool = match &registry.upstream.source {
            Source::Pool(name) => pools.get(name).cloned(),
            Source::Upstream(_) => None,
        };
        let files: Vec<FileState> = files(registry).map(state).collect();
        let same = before.iter().find(|known| {
            let same_pool = known.pool.as_ref().map(Arc::as_ptr) == pool.as_ref().map(Arc::as_ptr);
            known.registry == *registry && known.files == files && known.secure == secure && same_pool
        });
        let client = match same {
            Some(known) => known.client.clone(),
            None => {
                let mut settings = parts::upstream(registry, listeners, edge);
                settings.endpoints.extend(pool.as_ref().and_then(|pool| origin(registry, pool, secure)));
                Client::new(settings, Arc::new(metrics.upstream(&registry.name)))
                    .map_err(|source| AppError::Client { name: registry.name.clone(), source })?
            }
        };
        kept.push(same.is_some());
        made.push(Known { registry: registry.clone(), client, pool, secure, files });
    }
    Ok((made, kept))
}

/// The origin behind a pool, called by the registry's own host where it has one.
fn origin(registry: &Registry, pool: &Arc<Pool>, secure: bool) -> Option<EndpointSettings> {
    let hosts = registry.hosts.iter().chain([&registry.name]).map(String::as_str);
    let mut endpoint = transport::endpoint(pool, hosts, secure)?;
    endpoint.account = parts::account(registry.upstream.credentials.as_ref());
    Some(endpoint)
}

fn is_secure_door(http: &HttpListener) -> bool {
    http.tls.is_some() && http.target == HttpTarget::Registries
}

fn files(registry: &Registry) -> impl Iterator<Item = &Path> {
    registry.upstream.source.endpoints().iter().flat_map(|endpoint| {
        let pair = endpoint.client_certificate.iter().flat_map(|pair| [pair.cert.as_path(), pair.key.as_path()]);
        endpoint.ca.as_deref().into_iter().chain(pair)
    })
}

fn state(path: &Path) -> FileState {
    let state =
        std::fs::metadata(path).ok().and_then(|file| Some((file.dev(), file.ino(), file.len(), file.modified().ok()?)));
    (path.to_owned(), state)
}
