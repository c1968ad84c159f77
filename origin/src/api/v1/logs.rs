//! Who did what: of an organisation, of a repository, of the caller, of all; line by line, and counted by kind and day.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Failures};
use super::extract::{At, Named, Wanted, Who};
use super::page::{DAY, MOST, after, cut, date, day, token};
use crate::api::Origin;
use crate::meta::{ActionCount, ActionFilter, ActionLine, Millis, now};

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

/// How often what was done, day by day.
#[derive(Serialize, ToSchema)]
pub(super) struct LogCounts {
    aggregated: Vec<LogCount>,
}

/// How often something was done on a day.
#[derive(Serialize, ToSchema)]
pub(super) struct LogCount {
    kind: String,
    count: i64,
    /// When the day began.
    datetime: String,
}

impl LogCount {
    fn of(count: ActionCount) -> LogCount {
        LogCount { kind: count.kind, count: count.count, datetime: date(count.day.saturating_mul(DAY)) }
    }
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

/// A span of a log that somebody may see.
struct Span {
    from: Millis,
    to: Millis,
    filter: ActionFilter,
}

impl Span {
    /// What a query asks for. `since`: when what it is about was made. What had the same name before is nobody's business.
    fn new(query: LogQuery, since: Millis, about: ActionFilter, now: Millis) -> Result<Span, ApiError> {
        let to = match &query.endtime {
            Some(last) => day(last)?.saturating_add(DAY),
            None => now + 1,
        };
        let from = match &query.starttime {
            Some(first) => day(first)?,
            None => to.saturating_sub(RECENT),
        };
        let place = after(query.next_page.as_deref())?;
        let after = if place.is_empty() {
            None
        } else {
            let parts = place.split_once(' ').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
            Some(parts.ok_or_else(|| ApiError::invalid("next_page is none that was given out here"))?)
        };
        let (performer, first) = (query.performer, from.max(since));
        let filter = ActionFilter { performer, from: Some(first), to: Some(to), after, ..about };
        Ok(Span { from, to, filter })
    }

    async fn page(self, origin: &Origin) -> Result<Json<LogPage>, ApiError> {
        let Span { from, to, filter } = self;
        let (lines, more) = cut(origin.meta.actions(filter, PAGE as u64 + 1).await?, PAGE);
        let next_page = lines.last().filter(|_| more).map(|line| token(&format!("{} {}", line.at, line.id)));
        let logs = lines.into_iter().map(LogLine::of).collect();
        Ok(Json(LogPage { start_time: date(from), end_time: date(to), logs, next_page }))
    }

    async fn counts(self, origin: &Origin) -> Result<Json<LogCounts>, ApiError> {
        let counts = origin.meta.action_counts(self.filter, MOST).await?;
        Ok(Json(LogCounts { aggregated: counts.into_iter().map(LogCount::of).collect() }))
    }
}

async fn organization(origin: &Origin, who: &Who, name: &str, query: LogQuery) -> Result<Span, ApiError> {
    let organization = super::organizations::inspected(origin, who, name).await?;
    let about = ActionFilter { namespace: Some(organization.name), ..ActionFilter::default() };
    Span::new(query, organization.created, about, now())
}

async fn repository(origin: &Origin, who: &Who, at: &Named, query: LogQuery) -> Result<Span, ApiError> {
    let repository = origin.repository_for(who, at, |rights| rights.inspect).await?;
    let about = ActionFilter { repository: Some(repository.name), ..ActionFilter::default() };
    Span::new(query, repository.created, about, now())
}

fn user(who: &Who, query: LogQuery) -> Result<Span, ApiError> {
    let user = who.user()?;
    let about = ActionFilter { namespace: Some(user.name.clone()), ..ActionFilter::default() };
    Span::new(query, user.created, about, now())
}

fn all(who: &Who, query: LogQuery) -> Result<Span, ApiError> {
    who.sees_all()?;
    Span::new(query, 0, ActionFilter::default(), now())
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
    organization(&origin, &who, &orgname, query).await?.page(&origin).await
}

/// How often what was done in an organisation.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/aggregatelogs", operation_id = "getAggregateOrgLogs", tag = "logs",
    params(("orgname" = String, Path, example = "acme"), LogQuery), responses((status = 200, body = LogCounts), Failures))]
pub(super) async fn counts_of_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(orgname): At<String>,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogCounts>, ApiError> {
    organization(&origin, &who, &orgname, query).await?.counts(&origin).await
}

/// What was done with a repository.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}/logs", operation_id = "listRepoLogs", tag = "logs",
    params(Named, LogQuery), responses((status = 200, body = LogPage), Failures))]
pub(super) async fn of_repository(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogPage>, ApiError> {
    repository(&origin, &who, &at, query).await?.page(&origin).await
}

/// How often what was done with a repository.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}/aggregatelogs", operation_id = "getAggregateRepoLogs", tag = "logs",
    params(Named, LogQuery), responses((status = 200, body = LogCounts), Failures))]
pub(super) async fn counts_of_repository(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogCounts>, ApiError> {
    repository(&origin, &who, &at, query).await?.counts(&origin).await
}

/// What was done in the caller's namespace.
#[utoipa::path(get, path = "/api/v1/user/logs", operation_id = "listUserLogs", tag = "logs",
    params(LogQuery), responses((status = 200, body = LogPage), Failures))]
pub(super) async fn of_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogPage>, ApiError> {
    user(&who, query)?.page(&origin).await
}

/// How often what was done in the caller's namespace.
#[utoipa::path(get, path = "/api/v1/user/aggregatelogs", operation_id = "getAggregateUserLogs", tag = "logs",
    params(LogQuery), responses((status = 200, body = LogCounts), Failures))]
pub(super) async fn counts_of_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogCounts>, ApiError> {
    user(&who, query)?.counts(&origin).await
}

/// What was done at all.
#[utoipa::path(get, path = "/api/v1/superuser/logs", operation_id = "listAllLogs", tag = "superuser",
    params(LogQuery), responses((status = 200, body = LogPage), Failures))]
pub(super) async fn of_all(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogPage>, ApiError> {
    all(&who, query)?.page(&origin).await
}

/// How often what was done at all.
#[utoipa::path(get, path = "/api/v1/superuser/aggregatelogs", operation_id = "getAggregateAllLogs", tag = "superuser",
    params(LogQuery), responses((status = 200, body = LogCounts), Failures))]
pub(super) async fn counts_of_all(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<LogQuery>,
) -> Result<Json<LogCounts>, ApiError> {
    all(&who, query)?.counts(&origin).await
}
