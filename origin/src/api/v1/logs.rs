//! Who did what: of an organisation, of a repository, of the caller, of all.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Failures};
use super::extract::{At, Named, Wanted, Who};
use super::page::{DAY, after, cut, date, day, token};
use crate::api::Origin;
use crate::meta::{ActionFilter, ActionLine, Millis, now};

/// Lines of a page, as Quay's.
const PAGE: usize = 20;
/// What is shown when nobody says since when.
const RECENT: Millis = 30 * DAY;

/// Which part of a log to show.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// The first day, `mm/dd/yyyy`; a month ago when absent.
    starttime: Option<String>,
    /// The last day, `mm/dd/yyyy`; today when absent.
    endtime: Option<String>,
    /// Only what this account did.
    performer: Option<String>,
    /// Where to go on.
    next_page: Option<String>,
}

/// A part of a log, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct LogPage {
    start_time: String,
    end_time: String,
    logs: Vec<LogLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page: Option<String>,
}

/// Somebody did something.
#[derive(Serialize, ToSchema)]
pub(super) struct LogLine {
    /// `push_repo`, `delete_tag`, …
    kind: String,
    /// What else there is to know.
    metadata: serde_json::Value,
    ip: Option<String>,
    datetime: String,
    /// Who; absent: nobody who is known, or the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    performer: Option<LogPerformer>,
    /// Whose namespace it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<LogNamespace>,
}

/// Who did it.
#[derive(Serialize, ToSchema)]
pub(super) struct LogPerformer {
    kind: &'static str,
    name: String,
    is_robot: bool,
}

/// Where it was done.
#[derive(Serialize, ToSchema)]
pub(super) struct LogNamespace {
    name: String,
}

impl LogLine {
    fn of(line: ActionLine) -> LogLine {
        LogLine {
            kind: line.kind,
            metadata: serde_json::from_str(&line.metadata).unwrap_or_default(),
            ip: line.ip,
            datetime: date(line.at),
            performer: line.performer.map(|name| LogPerformer { kind: "user", is_robot: name.contains('+'), name }),
            namespace: line.namespace.map(|name| LogNamespace { name }),
        }
    }
}

/// `since`: when what it is about was made. What had the same name before is nobody's business.
async fn page(
    origin: &Origin,
    query: LogQuery,
    since: Millis,
    mut filter: ActionFilter,
) -> Result<Json<LogPage>, ApiError> {
    let to = match &query.endtime {
        Some(last) => day(last)?.saturating_add(DAY),
        None => now() + 1,
    };
    let from = match &query.starttime {
        Some(first) => day(first)?,
        None => to.saturating_sub(RECENT),
    };
    let place = after(query.next_page.as_deref())?;
    if !place.is_empty() {
        let parts = place.split_once(' ').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
        filter.after = Some(parts.ok_or_else(|| ApiError::invalid("next_page is none that was given out here"))?);
    }
    filter.performer = query.performer;
    (filter.from, filter.to) = (Some(from.max(since)), Some(to));
    let (lines, more) = cut(origin.meta.actions(filter, PAGE as u64 + 1).await?, PAGE);
    let next_page = lines.last().filter(|_| more).map(|line| token(&format!("{} {}", line.at, line.id)));
    let logs = lines.into_iter().map(LogLine::of).collect();
    Ok(Json(LogPage { start_time: date(from), end_time: date(to), logs, next_page }))
}

/// What was done in an organisation.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/logs", operation_id = "listOrgLogs", tag = "logs",
    params(("orgname" = String, Path, example = "acme"), LogQuery), responses((status = 200, body = LogPage), Failures))]
pub(super) async fn of_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(orgname): At<String>,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogPage>, ApiError> {
    let organization = super::organizations::inspected(&origin, &who, &orgname).await?;
    page(
        &origin,
        query,
        organization.created,
        ActionFilter { namespace: Some(organization.name), ..ActionFilter::default() },
    )
    .await
}

/// What was done with a repository.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}/logs", operation_id = "listRepoLogs", tag = "logs",
    params(("namespace" = String, Path, example = "acme"), ("repository" = String, Path, example = "app"), LogQuery),
    responses((status = 200, body = LogPage), Failures))]
pub(super) async fn of_repository(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogPage>, ApiError> {
    let repository = origin.repository_for(&who, &at, |rights| rights.inspect).await?;
    page(
        &origin,
        query,
        repository.created,
        ActionFilter { repository: Some(repository.name), ..ActionFilter::default() },
    )
    .await
}

/// What was done in the caller's namespace.
#[utoipa::path(get, path = "/api/v1/user/logs", operation_id = "listUserLogs", tag = "logs",
    params(LogQuery), responses((status = 200, body = LogPage), Failures))]
pub(super) async fn of_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogPage>, ApiError> {
    let user = who.user()?;
    let namespace = Some(user.name.clone());
    page(&origin, query, user.created, ActionFilter { namespace, ..ActionFilter::default() }).await
}

/// What was done at all.
#[utoipa::path(get, path = "/api/v1/superuser/logs", operation_id = "listAllLogs", tag = "superuser",
    params(LogQuery), responses((status = 200, body = LogPage), Failures))]
pub(super) async fn of_all(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogPage>, ApiError> {
    who.sees_all()?;
    page(&origin, query, 0, ActionFilter::default()).await
}
