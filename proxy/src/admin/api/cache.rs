//! The cache: what is in it, how much it helps, and what operators may change of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::ApiError;
use super::extract::{Asked, Sent};
use super::shape::{
    Absence, CacheStats, ErrorBody, Holding, HoldingList, Image, ImageList, Part, Pinned, Purged, RegistryStats, Why,
};
use super::{Seen, Shared};
use crate::admin::metrics::FORWARDED;
use crate::cache::{Cache, RepositoryId, Selection};

/// How many repositories are shown unless asked otherwise.
const SHOWN: usize = 1000;
/// docker.io keeps names of one part below this.
const LIBRARY: &str = "library/";

/// Which repositories to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Those of a registry.
    registry: Option<String>,
    /// How many at the most; 1000 unless given.
    limit: Option<usize>,
}

/// Which image to look at.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Named {
    /// The registry's name.
    registry: String,
    /// The repository in it.
    repository: String,
    /// A tag or a digest.
    reference: Option<String>,
}

/// How large the cache is, and how many pulls came from it.
#[utoipa::path(get, path = "/api/v1/cache", operation_id = "cache_stats", security(("token" = [])),
    responses((status = 200, body = CacheStats), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn stats(State(shared): Seen) -> Result<Json<CacheStats>, ApiError> {
    open(&shared)?;
    let metrics = &shared.metrics;
    let mut registries: Vec<RegistryStats> = Vec::new();
    for (name, outcome, count) in metrics.outcomes() {
        if !registries.iter().any(|known| known.name == name) {
            registries.push(RegistryStats { name: name.clone(), ..RegistryStats::default() });
        }
        let Some(registry) = registries.iter_mut().find(|known| known.name == name) else { continue };
        match outcome {
            "hit" => registry.hits += count,
            "revalidated" => registry.revalidated += count,
            "stale" => registry.stale += count,
            "miss" => registry.misses += count,
            "bypass" => registry.bypasses += count,
            FORWARDED => registry.forwarded += count,
            _ => {}
        }
    }
    for registry in &mut registries {
        let local = registry.hits + registry.revalidated + registry.stale;
        let all = local + registry.misses;
        registry.hit_rate = (all > 0).then(|| local as f64 / all as f64);
    }
    registries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Json(CacheStats {
        bytes: u64::try_from(metrics.cache_bytes.get()).unwrap_or_default(),
        limit: u64::try_from(metrics.cache_limit.get()).unwrap_or_default(),
        contents: u64::try_from(metrics.cache_entries.get()).unwrap_or_default(),
        evictions: metrics.evictions.get(),
        evicted_bytes: metrics.evicted_bytes.get(),
        writable: metrics.writable.get() != 0,
        registries,
    }))
}

/// The repositories that hold something in the cache, the largest first.
#[utoipa::path(get, path = "/api/v1/cache/repositories", operation_id = "cache_repositories", security(("token" = [])),
    params(Wanted), responses((status = 200, body = HoldingList), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn repositories(
    State(shared): Seen,
    Asked(wanted): Asked<Wanted>,
) -> Result<Json<HoldingList>, ApiError> {
    let registry = wanted.registry.as_deref().map(registry).transpose()?;
    let mut holdings = open(&shared)?.holdings(registry).await.map_err(failed)?;
    let total = holdings.len();
    holdings.sort_by(|one, other| other.bytes.cmp(&one.bytes).then_with(|| one.repository.cmp(&other.repository)));
    holdings.truncate(wanted.limit.unwrap_or(SHOWN));
    Ok(Json(HoldingList { total, repositories: holdings.into_iter().map(Holding::from).collect() }))
}

/// The tags of a repository that are known, and what is in the cache of their images.
#[utoipa::path(get, path = "/api/v1/cache/images", operation_id = "cache_images", security(("token" = [])),
    params(Named), responses((status = 200, body = ImageList), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn images(State(shared): Seen, Asked(named): Asked<Named>) -> Result<Json<ImageList>, ApiError> {
    let id = repository(&named.registry, &named.repository)?;
    let mut images = open(&shared)?.images(id).await.map_err(failed)?;
    images.sort_by(|one, other| one.tag.as_str().cmp(other.tag.as_str()));
    Ok(Json(ImageList { images: images.into_iter().map(Image::from).collect() }))
}

/// Why an image, or a piece of content, is in the cache, or is not.
#[utoipa::path(get, path = "/api/v1/cache/why", operation_id = "cache_why", security(("token" = [])),
    params(Named), responses((status = 200, body = Why), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn why(State(shared): Seen, Asked(named): Asked<Named>) -> Result<Json<Why>, ApiError> {
    let id = repository(&named.registry, &named.repository)?;
    let reference = named.reference.as_deref().unwrap_or("latest");
    let reference = reference.parse().map_err(|_| invalid("the reference is neither a tag nor a digest"))?;
    check_registry(&shared, &id.registry).await?;
    let cache = open(&shared)?;
    let facts = cache.facts(id, reference).await.map_err(failed)?;
    let arriving = match &facts.digest {
        Some(digest) if facts.presence.used.is_none() => cache.blob_size(digest).await.is_some(),
        _ => false,
    };
    let size = facts.digest.and_then(|digest| cache.announced_size(&digest));
    let limit = u64::try_from(shared.metrics.cache_limit.get()).unwrap_or_default();
    Ok(Json(Why::of(facts, Absence { size, limit, arriving })))
}

/// Deletes a part of the cache, pinned or not. What another part holds too stays; pulls that have begun go on.
#[utoipa::path(post, path = "/api/v1/cache/purge", operation_id = "cache_purge", security(("token" = [])),
    request_body = Part,
    responses((status = 200, body = Purged), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
pub(super) async fn purge(State(shared): Seen, Sent(part): Sent<Part>) -> Result<Json<Purged>, ApiError> {
    let selection = match (&part.repository, &part.reference) {
        (None, None) => Selection::Registry(registry(&part.registry)?),
        (None, Some(_)) => return Err(invalid("a reference needs its repository")),
        (Some(name), None) => Selection::Repository(repository(&part.registry, name)?),
        (Some(name), Some(reference)) => {
            let reference = reference.parse().map_err(|_| invalid("the reference is neither a tag nor a digest"))?;
            Selection::Content(repository(&part.registry, name)?, reference)
        }
    };
    let purged = open(&shared)?.purge(selection).await.map_err(failed)?;
    let Purged { contents, bytes, tags, repositories } = Purged::from(purged);
    let (repository, reference) = (part.repository.as_deref(), part.reference.as_deref());
    let registry = &part.registry;
    tracing::info!(registry, repository, reference, contents, bytes, tags, "an operator purged the cache");
    Ok(Json(Purged { contents, bytes, tags, repositories }))
}

/// Keeps an image, or all of a repository, from eviction. It holds through restarts, also for what is not here yet.
#[utoipa::path(post, path = "/api/v1/cache/pin", operation_id = "cache_pin", security(("token" = [])),
    request_body = Part,
    responses((status = 200, body = Pinned), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
pub(super) async fn pin(State(shared): Seen, Sent(part): Sent<Part>) -> Result<Json<Pinned>, ApiError> {
    set_pin(&shared, &part, true).await
}

/// Takes an operator's pin away. One of the configuration stays.
#[utoipa::path(post, path = "/api/v1/cache/unpin", operation_id = "cache_unpin", security(("token" = [])),
    request_body = Part,
    responses((status = 200, body = Pinned), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
pub(super) async fn unpin(State(shared): Seen, Sent(part): Sent<Part>) -> Result<Json<Pinned>, ApiError> {
    set_pin(&shared, &part, false).await
}

async fn set_pin(shared: &Arc<Shared>, part: &Part, pinned: bool) -> Result<Json<Pinned>, ApiError> {
    let Some(name) = &part.repository else { return Err(invalid("name a repository, or a tag of one")) };
    let id = repository(&part.registry, name)?;
    let tag = part.reference.as_deref().map(str::parse).transpose();
    let tag = tag.map_err(|_| invalid("the reference is not a tag: images are pinned by their tags"))?;
    // What was pinned while its registry was configured can be unpinned after that.
    if pinned {
        check_registry(shared, &id.registry).await?;
    }
    let changed = open(shared)?.pin(id.clone(), tag, pinned).await.map_err(failed)?;
    if changed {
        tracing::info!(repository = %id, tag = part.reference, pinned, "an operator changed what is pinned");
    }
    Ok(Json(Pinned { pinned, changed }))
}

fn open(shared: &Arc<Shared>) -> Result<Arc<Cache>, ApiError> {
    (shared.operated.cache)().ok_or_else(|| ApiError::NotFound { what: "cache", name: String::new() })
}

/// Fails for a registry that is not configured and has nothing in the cache: most likely the name lacks its registry.
async fn check_registry(shared: &Arc<Shared>, name: &Arc<str>) -> Result<(), ApiError> {
    let cache = open(shared)?;
    let is_known = (shared.operated.is_registry)(name)
        || !cache.holdings(Some(Arc::clone(name))).await.map_err(failed)?.is_empty();
    if is_known { Ok(()) } else { Err(ApiError::UnknownRegistry(name.as_ref().to_owned())) }
}

/// A registry's name, which is a directory's name as well.
fn registry(name: &str) -> Result<Arc<str>, ApiError> {
    let is_allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b':');
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_allowed) {
        return Err(invalid("the registry is no host name in lower case"));
    }
    Ok(name.into())
}

fn repository(of: &str, name: &str) -> Result<RepositoryId, ApiError> {
    let registry = registry(of)?;
    let library = if of == "docker.io" && !name.contains('/') { LIBRARY } else { "" };
    let name = format!("{library}{name}").parse();
    Ok(RepositoryId { registry, name: name.map_err(|_| invalid("the repository's name is not valid"))? })
}

fn invalid(message: &str) -> ApiError {
    ApiError::Invalid { status: StatusCode::UNPROCESSABLE_ENTITY, message: message.to_owned() }
}

fn failed(error: std::io::Error) -> ApiError {
    ApiError::Storage(error.to_string())
}
