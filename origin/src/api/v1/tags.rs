//! Tags: as they are and as they were, moved, deleted, and brought back within the time machine's window.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use pierhead_registry::oci::{Digest, Tag};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Failures};
use super::extract::{At, Named, Sent, Wanted, Who};
use super::page::{LAST, cut, date, flag, seconds};
use crate::api::Origin;
use crate::meta::{
    Action, Change, HistoryFilter, MetaError, Millis, Repository, RepositoryState, TagMove, TagName, TagTime, now,
};

/// Rows of a page, if nobody says otherwise.
const PAGE: u32 = 50;
/// Most rows of a page, as Quay has it.
const LARGEST_PAGE: u32 = 100;
/// Last page that is looked for.
const LAST_PAGE: u32 = 100_000;
/// Media types of what points to manifests for several platforms.
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

/// Which part of a history to show.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TagQuery {
    /// Only tags that are there.
    #[serde(default, deserialize_with = "flag", rename = "onlyActiveTags")]
    only_active_tags: bool,
    /// Only this tag.
    #[serde(rename = "specificTag")]
    specific_tag: Option<String>,
    /// `eq:NAME` or `like:PART`.
    filter_tag_name: Option<String>,
    /// From 1 on.
    #[param(minimum = 1, maximum = 100000)]
    page: Option<u32>,
    /// Rows of a page.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// The history of tags, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct TagList {
    tags: Vec<TagView>,
    page: u32,
    has_additional: bool,
}

/// A tag's time on one manifest.
#[derive(Serialize, ToSchema)]
pub(super) struct TagView {
    name: String,
    reversion: bool,
    /// Seconds since the epoch.
    start_ts: i64,
    /// The same; absent while it is there and does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    end_ts: Option<i64>,
    manifest_digest: String,
    is_manifest_list: bool,
    /// Bytes of the blobs that the manifest names; for a list of manifests there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<i64>,
    last_modified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
}

/// Where to put a tag.
#[derive(Deserialize, ToSchema)]
pub(super) struct TagTarget {
    /// A manifest of the repository.
    manifest_digest: String,
}

/// What changes of a tag: one of both is there.
#[derive(Deserialize, ToSchema)]
pub(super) struct TagEdit {
    /// A manifest of the repository: the tag is moved to it, or made.
    manifest_digest: Option<String>,
    /// When the tag expires, in seconds since the epoch; `null`: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 253402300799_i64)]
    expiration: Option<Option<i64>>,
}

/// What is there and nothing is something else than what is not there.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// That it was restored.
#[derive(Serialize, ToSchema)]
pub(super) struct Restored {}

impl TagView {
    fn of(tag: TagTime) -> TagView {
        let is_manifest_list = INDEXES.contains(&tag.media_type.as_str());
        TagView {
            name: tag.name,
            reversion: tag.reversion,
            start_ts: seconds(tag.started),
            end_ts: tag.ended.map(seconds),
            manifest_digest: tag.digest,
            is_manifest_list,
            size: (!is_manifest_list).then_some(tag.layers_size),
            last_modified: date(tag.started),
            expiration: tag.ended.map(date),
        }
    }
}

/// When the time machine's window began.
fn window(origin: &Origin, now: Millis) -> Millis {
    now.saturating_sub(Millis::try_from(origin.live().tag_expiration.as_millis()).unwrap_or(Millis::MAX))
}

fn name_filter(specific: Option<String>, filter: Option<String>) -> Result<TagName, ApiError> {
    match (specific, filter.as_deref().map(|filter| filter.split_once(':'))) {
        (Some(name), _) => Ok(TagName::Is(name)),
        (None, None) => Ok(TagName::Any),
        (None, Some(Some(("eq", name)))) => Ok(TagName::Is(name.to_owned())),
        (None, Some(Some(("like", "")))) => Ok(TagName::Any),
        (None, Some(Some(("like", part)))) => Ok(TagName::Has(part.to_owned())),
        (None, Some(_)) => Err(ApiError::invalid("filter_tag_name reads eq:<name> or like:<part of a name>")),
    }
}

/// Tags, as they are and as they were.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}/tag", operation_id = "listRepoTags", tag = "tag",
    params(Named, TagQuery),
    responses((status = 200, body = TagList), Failures))]
pub(super) async fn list(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
    Wanted(query): Wanted<TagQuery>,
) -> Result<Json<TagList>, ApiError> {
    let repository = origin.repository_for(&who, &at, |rights| rights.pull).await?;
    let (page, limit) = (query.page.unwrap_or(1), query.limit.unwrap_or(PAGE));
    if !(1..=LAST_PAGE).contains(&page) || limit == 0 {
        return Err(ApiError::invalid("page begins with 1, and limit too"));
    }
    let limit = limit.min(LARGEST_PAGE);
    let filter = HistoryFilter {
        repository: repository.id,
        name: name_filter(query.specific_tag, query.filter_tag_name)?,
        ended_after: (!query.only_active_tags).then(|| window(&origin, now())),
        offset: (page - 1) * limit,
        limit: limit + 1,
    };
    let (rows, has_additional) = cut(origin.meta.tag_history(&filter).await?, limit as usize);
    Ok(Json(TagList { tags: rows.into_iter().map(TagView::of).collect(), page, has_additional }))
}

/// A repository that takes changes of its tags, for those who may make them.
async fn writable(origin: &Origin, who: &Who, at: &Named) -> Result<Repository, ApiError> {
    origin.repository_for(who, at, |rights| rights.push).await
}

/// Holds it as it is until the change ends.
async fn held(change: &Change, repository: &Repository) -> Result<(), ApiError> {
    let held = change.hold_repository(repository.id).await?.ok_or(ApiError::NotFound("repository"))?;
    if held.state == RepositoryState::Normal { Ok(()) } else { Err(ApiError::Forbidden) }
}

fn tag_name(text: &str) -> Result<Tag, ApiError> {
    text.parse().map_err(|_| ApiError::invalid("Invalid tag name"))
}

fn manifest_digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|_| ApiError::invalid("Invalid manifest digest"))
}

/// Move a tag to another manifest of the repository, or make it; say when it expires, or that it does not.
#[utoipa::path(put, path = "/api/v1/repository/{namespace}/{repository}/tag/{tag}", operation_id = "changeTag", tag = "tag",
    params(Named, ("tag" = String, Path, example = "latest")), request_body = TagEdit,
    responses((status = 201, body = String, content_type = "application/json"), Failures))]
pub(super) async fn put(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace, repository, tag)): At<(String, String, String)>,
    Sent(sent): Sent<TagEdit>,
) -> Result<(StatusCode, Json<&'static str>), ApiError> {
    let repository = writable(&origin, &who, &Named { namespace, repository }).await?;
    if sent.manifest_digest.is_none() && sent.expiration.is_none() {
        return Err(ApiError::invalid("one of manifest_digest and expiration is needed"));
    }
    let tag = tag_name(&tag)?;
    let at = now();
    let change = origin.meta.change().await?;
    held(&change, &repository).await?;
    if let Some(digest) = sent.manifest_digest {
        let digest = manifest_digest(&digest)?;
        let manifest = change.present_manifest(repository.id, &digest.to_string()).await?;
        let manifest = manifest.ok_or(ApiError::NotFound("manifest"))?;
        let moved = move_tag(&change, repository.id, &tag, manifest, at, false).await?;
        let kind = if moved == TagMove::Created { "create_tag" } else { "move_tag" };
        let metadata = json!({ "tag": tag.as_str(), "manifest_digest": digest.to_string() });
        change.log(&who.performer, Action::in_repository(kind, &repository.name, metadata), at).await?;
    }
    if let Some(seconds) = sent.expiration {
        let expires = expiration(seconds, at)?;
        let before = change.set_expiration(repository.id, tag.as_str(), expires, at).await?;
        let before = before.ok_or(ApiError::NotFound("tag"))?;
        let metadata = json!({
            "tag": tag.as_str(), "expiration_date": expires.map(date), "old_expiration_date": before.map(date),
        });
        change
            .log(&who.performer, Action::in_repository("change_tag_expiration", &repository.name, metadata), at)
            .await?;
    }
    change.commit().await?;
    Ok((StatusCode::CREATED, Json("Updated")))
}

/// When a tag is to expire: some time that is to come.
fn expiration(seconds: Option<i64>, now: Millis) -> Result<Option<Millis>, ApiError> {
    let Some(seconds) = seconds else { return Ok(None) };
    let at = seconds.checked_mul(1000).filter(|at| *at > now && seconds <= LAST);
    at.map(Some).ok_or_else(|| ApiError::invalid("expiration is a time to come, in seconds since the epoch"))
}

async fn move_tag(
    change: &Change,
    repository: i64,
    tag: &Tag,
    manifest: i64,
    at: Millis,
    reversion: bool,
) -> Result<TagMove, ApiError> {
    change.set_tag(repository, tag.as_str(), manifest, at, reversion).await.map_err(|error| match error {
        MetaError::Exists => {
            ApiError::Later(StatusCode::SERVICE_UNAVAILABLE, 1, "somebody else moves this tag; try again".to_owned())
        }
        other => other.into(),
    })
}

/// Delete a tag. It can be restored for a while.
#[utoipa::path(delete, path = "/api/v1/repository/{namespace}/{repository}/tag/{tag}", operation_id = "deleteFullTag", tag = "tag",
    params(Named, ("tag" = String, Path, example = "latest")),
    responses((status = 204), Failures))]
pub(super) async fn delete(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace, repository, tag)): At<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let repository = writable(&origin, &who, &Named { namespace, repository }).await?;
    let at = now();
    let change = origin.meta.change().await?;
    held(&change, &repository).await?;
    if !change.end_tag(repository.id, &tag, at).await? {
        return Err(ApiError::NotFound("tag"));
    }
    who.done(change, Action::in_repository("delete_tag", &repository.name, json!({ "tag": tag }))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Put a tag back to where it was within the time machine's window.
#[utoipa::path(post, path = "/api/v1/repository/{namespace}/{repository}/tag/{tag}/restore", operation_id = "restoreTag", tag = "tag",
    params(Named, ("tag" = String, Path, example = "latest")), request_body = TagTarget,
    responses((status = 200, body = Restored), Failures))]
pub(super) async fn restore(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace, repository, tag)): At<(String, String, String)>,
    Sent(sent): Sent<TagTarget>,
) -> Result<Json<Restored>, ApiError> {
    let repository = writable(&origin, &who, &Named { namespace, repository }).await?;
    let (tag, digest) = (tag_name(&tag)?, manifest_digest(&sent.manifest_digest)?);
    let at = now();
    let change = origin.meta.change().await?;
    held(&change, &repository).await?;
    let manifest = change.revive_manifest(repository.id, &digest.to_string()).await?;
    let manifest = manifest.ok_or(ApiError::NotFound("manifest"))?;
    if !change.was_tagged(repository.id, tag.as_str(), manifest, window(&origin, at)).await? {
        return Err(ApiError::NotFound("time of this tag on this manifest"));
    }
    move_tag(&change, repository.id, &tag, manifest, at, true).await?;
    let metadata = json!({ "tag": tag.as_str(), "manifest_digest": digest.to_string() });
    who.done(change, Action::in_repository("revert_tag", &repository.name, metadata)).await?;
    Ok(Json(Restored {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_expires_in_time_to_come() {
        const NOW: Millis = 1_700_000_000_500;
        for (seconds, expected) in [
            (None, Some(None)),
            (Some(1_700_000_001), Some(Some(1_700_000_001_000))),
            (Some(1_700_000_000), None),
            (Some(0), None),
            (Some(-1), None),
            (Some(LAST), Some(Some(LAST * 1000))),
            (Some(LAST + 1), None),
            (Some(i64::MAX), None),
        ] {
            assert_eq!(expiration(seconds, NOW).ok(), expected, "{seconds:?}");
        }
        let read = |text: &str| serde_json::from_str::<TagEdit>(text).map(|edit| edit.expiration);
        assert_eq!(read(r#"{"manifest_digest":"x"}"#).unwrap(), None);
        assert_eq!(read(r#"{"expiration":null}"#).unwrap(), Some(None));
        assert_eq!(read(r#"{"expiration":7}"#).unwrap(), Some(Some(7)));
    }

    #[test]
    fn names_are_filtered_as_quay_does() {
        let filter = |text: &str| name_filter(None, Some(text.to_owned())).ok();
        assert_eq!(filter("eq:v1"), Some(TagName::Is("v1".to_owned())));
        assert_eq!(filter("like:v"), Some(TagName::Has("v".to_owned())));
        assert_eq!(filter("like:"), Some(TagName::Any));
        assert_eq!(filter("v1"), None);
        assert_eq!(filter("is:v1"), None);
        assert_eq!(name_filter(None, None).ok(), Some(TagName::Any));
        assert_eq!(name_filter(Some("a".to_owned()), Some("x".to_owned())).ok(), Some(TagName::Is("a".to_owned())));
    }
}
