//! Repositories: made, listed, described, opened to everybody, stopped, taken away.

mod shape;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use pierhead_registry::oci::RepositoryName;
use serde_json::json;

pub(super) use self::shape::Usage;
use self::shape::{
    DescriptionEdit, KindName, Listed, Made, NewRepository, RepositoryList, RepositoryQuery, RepositoryView, ShowQuery,
    StateEdit, StateName, Success, TagBrief, VisibilityEdit,
};
use super::error::{ApiError, Failures};
use super::extract::{At, Named, Sent, Wanted, Who};
use super::page::{PAGE, after, cut, date, seconds, token};
use super::permissions::own_name;
use super::teams::DESCRIPTION_LIMIT;
use crate::api::Origin;
use crate::meta::{
    Action, HistoryFilter, Listing, MetaError, Millis, Repository, RepositoryEdit, RepositoryState, TagName, Viewer,
    Visibility,
};
use crate::text::paragraph;

/// Tags that are shown with a repository.
const TAGS: u32 = 500;

/// Make a repository.
#[utoipa::path(post, path = "/api/v1/repository", operation_id = "createRepo", tag = "repository",
    request_body = NewRepository, responses((status = 201, body = Made), Failures))]
pub(super) async fn create(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Sent(new): Sent<NewRepository>,
) -> Result<(StatusCode, Json<Made>), ApiError> {
    let creator = who.account()?.id;
    let namespace = new.namespace.as_deref().or(who.caller.name()).unwrap_or_default();
    let whole = format!("{namespace}/{}", new.repository);
    let whole: RepositoryName = whole.parse().map_err(|_| ApiError::invalid("Invalid repository name"))?;
    let description = paragraph(new.description, DESCRIPTION_LIMIT)?;
    let (account, rights) = origin.auth.namespace(&who.caller, namespace).await?;
    who.may(rights.create)?;
    let account = account.ok_or(ApiError::NotFound("namespace"))?;
    let change = origin.meta.change().await?;
    let made = change.insert_repository(account.id, whole.as_str(), new.visibility.into(), &description).await;
    let made = made.map_err(|error| match error {
        MetaError::Exists => ApiError::invalid("Repository already exists"),
        other => other.into(),
    })?;
    change.grant_defaults(made.id, account.id, creator).await?;
    who.done(change, Action::in_repository("create_repo", whole.as_str(), json!({ "namespace": namespace }))).await?;
    let made =
        Made { namespace: namespace.to_owned(), name: new.repository, kind: new.repo_kind.unwrap_or(KindName::Image) };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Repositories by name: those that the caller was given, or owns; and public ones, if asked for.
#[utoipa::path(get, path = "/api/v1/repository", operation_id = "listRepos", tag = "repository",
    params(RepositoryQuery), responses((status = 200, body = RepositoryList), Failures))]
pub(super) async fn list(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<RepositoryQuery>,
) -> Result<Json<RepositoryList>, ApiError> {
    if query.namespace.is_none() && !query.public && !query.starred {
        return Err(ApiError::invalid("one of namespace, public and starred is needed: all repositories are too many"));
    }
    let starred_by = if query.starred { Some(who.account()?.id) } else { None };
    let page = after(query.next_page.as_deref())?;
    // What somebody starred, or looks for in a namespace, may well be public.
    let public = query.public || query.starred || query.namespace.is_some();
    let viewer = origin.auth.viewer(&who.caller).filter(|viewer| public || *viewer != Viewer::Anonymous);
    let nothing = Ok(Json(RepositoryList { repositories: Vec::new(), next_page: None }));
    let Some(viewer) = viewer else { return nothing };
    let namespace = match &query.namespace {
        None => None,
        Some(name) => match origin.meta.account(name).await? {
            Some(account) => Some(account.id),
            // As one in which the caller may see nothing.
            None => return nothing,
        },
    };
    let listing = Listing { viewer, public, namespace, starred_by, after: page, limit: PAGE + 1 };
    let (rows, more) = cut(origin.meta.repositories(&listing).await?, PAGE as usize);
    let next_page = rows.last().filter(|_| more).map(|row| token(&row.name));
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let sizes = origin.meta.sizes(&ids).await?;
    let changed = if query.last_modified { origin.meta.last_modified(&ids).await? } else { HashMap::new() };
    let starred = match who.caller.id() {
        Some(account) => origin.meta.starred(account, &ids).await?,
        None => Vec::new(),
    };
    let view = |row: Repository| listed(row, &sizes, &changed, &starred);
    Ok(Json(RepositoryList { repositories: rows.into_iter().map(view).collect(), next_page }))
}

fn listed(row: Repository, sizes: &HashMap<i64, i64>, changed: &HashMap<i64, Millis>, starred: &[i64]) -> Listed {
    Listed {
        namespace: row.name.split('/').next().unwrap_or_default().to_owned(),
        name: own_name(&row.name).to_owned(),
        is_public: row.visibility == Visibility::Public,
        kind: KindName::Image,
        state: StateName::of(row.state),
        is_starred: starred.contains(&row.id),
        quota_report: Usage::of(sizes.get(&row.id).copied().unwrap_or_default()),
        last_modified: changed.get(&row.id).copied().map(seconds),
        description: row.description,
    }
}

/// A repository.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}", operation_id = "getRepo", tag = "repository",
    params(Named, ShowQuery),
    responses((status = 200, body = RepositoryView), Failures))]
pub(super) async fn show(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
    Wanted(query): Wanted<ShowQuery>,
) -> Result<Json<RepositoryView>, ApiError> {
    let (facts, rights) = origin.about(&who, &at).await?;
    who.may(rights.pull)?;
    let row = facts.repository.ok_or(ApiError::NotFound("repository"))?;
    let organization = facts.namespace.is_some_and(|account| account.kind == crate::meta::AccountKind::Organization);
    let starred = match who.caller.id() {
        Some(account) => !origin.meta.starred(account, &[row.id]).await?.is_empty(),
        None => false,
    };
    let tags = if query.include_tags { Some(tags(&origin, row.id).await?) } else { None };
    let sizes = origin.meta.sizes(&[row.id]).await?;
    Ok(Json(RepositoryView {
        namespace: at.namespace,
        name: at.repository,
        kind: KindName::Image,
        description: row.description,
        is_public: row.visibility == Visibility::Public,
        is_organization: organization,
        is_starred: starred,
        tag_expiration_s: origin.live().tag_expiration.as_secs(),
        state: StateName::of(row.state),
        can_write: rights.push,
        can_admin: rights.admin,
        quota_report: Usage::of(sizes.get(&row.id).copied().unwrap_or_default()),
        tags,
    }))
}

async fn tags(origin: &Origin, repository: i64) -> Result<BTreeMap<String, TagBrief>, ApiError> {
    let filter = HistoryFilter { repository, name: TagName::Any, ended_after: None, offset: 0, limit: TAGS };
    let found = origin.meta.tag_history(&filter).await?;
    let brief = |tag: crate::meta::TagTime| {
        let brief = TagBrief {
            name: tag.name.clone(),
            size: tag.layers_size,
            last_modified: date(tag.started),
            manifest_digest: tag.digest,
            expiration: tag.ended.map(date),
        };
        (tag.name, brief)
    };
    Ok(found.into_iter().map(brief).collect())
}

/// Changes a repository, and says so in the log.
async fn change(
    origin: &Origin,
    who: &Who,
    at: &Named,
    edit: RepositoryEdit,
    kind: &'static str,
    metadata: serde_json::Value,
) -> Result<Json<Success>, ApiError> {
    let row = origin.repository_for(who, at, |rights| rights.admin).await?;
    let change = origin.meta.change().await?;
    if !change.edit_repository(row.id, edit).await? {
        return Err(ApiError::NotFound("repository"));
    }
    who.done(change, Action::in_repository(kind, &row.name, metadata)).await?;
    Ok(Json(Success { success: true }))
}

/// Describe a repository.
#[utoipa::path(put, path = "/api/v1/repository/{namespace}/{repository}", operation_id = "updateRepo", tag = "repository",
    params(Named), request_body = DescriptionEdit,
    responses((status = 200, body = Success), Failures))]
pub(super) async fn describe(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
    Sent(sent): Sent<DescriptionEdit>,
) -> Result<Json<Success>, ApiError> {
    let description = paragraph(sent.description, DESCRIPTION_LIMIT)?;
    let metadata = json!({ "description": description });
    let edit = RepositoryEdit { description: Some(description), ..RepositoryEdit::default() };
    change(&origin, &who, &at, edit, "set_repo_description", metadata).await
}

/// Open a repository to everybody, or close it.
#[utoipa::path(post, path = "/api/v1/repository/{namespace}/{repository}/changevisibility", operation_id = "changeRepoVisibility", tag = "repository",
    params(Named), request_body = VisibilityEdit,
    responses((status = 200, body = Success), Failures))]
pub(super) async fn change_visibility(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
    Sent(sent): Sent<VisibilityEdit>,
) -> Result<Json<Success>, ApiError> {
    let edit = RepositoryEdit { visibility: Some(sent.visibility.into()), ..RepositoryEdit::default() };
    change(&origin, &who, &at, edit, "change_repo_visibility", json!({ "visibility": sent.visibility })).await
}

/// Have a repository take no pushes and no deletions, or take them again.
#[utoipa::path(put, path = "/api/v1/repository/{namespace}/{repository}/changestate", operation_id = "changeRepoState", tag = "repository",
    params(Named), request_body = StateEdit,
    responses((status = 200, body = Success), Failures))]
pub(super) async fn change_state(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
    Sent(sent): Sent<StateEdit>,
) -> Result<Json<Success>, ApiError> {
    let state = match sent.state {
        StateName::Normal => RepositoryState::Normal,
        StateName::ReadOnly => RepositoryState::ReadOnly,
    };
    let edit = RepositoryEdit { state: Some(state), ..RepositoryEdit::default() };
    change(&origin, &who, &at, edit, "change_repo_state", json!({ "state_changed": sent.state })).await
}

/// Take a repository away. Its name is free at once.
#[utoipa::path(delete, path = "/api/v1/repository/{namespace}/{repository}", operation_id = "deleteRepository", tag = "repository",
    params(Named), responses((status = 204), Failures))]
pub(super) async fn delete(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
) -> Result<StatusCode, ApiError> {
    let row = origin.repository_for(&who, &at, |rights| rights.admin).await?;
    let change = origin.meta.change().await?;
    if !change.delete_repository(row.id).await? {
        return Err(ApiError::NotFound("repository"));
    }
    who.done(change, Action::in_repository("delete_repo", &row.name, json!({}))).await?;
    Ok(StatusCode::NO_CONTENT)
}
