//! Robots: accounts for machines, of organisations and of users. A robot's token is shown when it is made and never again.

use std::sync::Arc;

use axum::Json;
use axum::body::HttpBody;
use axum::extract::{FromRequest, Request, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::{ApiError, Failures};
use super::extract::{At, Sent, Who, text};
use super::organizations::inspected;
use super::page::{MOST, date};
use super::permissions::{GrantedList, granted};
use super::teams::DESCRIPTION_LIMIT;
use crate::api::Origin;
use crate::auth::{Name, RobotName, hash, token};
use crate::meta::{Account, AccountEdit, AccountKind, Action, Grantee, MetaError, NewAccount, now};

/// A robot that is to be.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRobot {
    /// What it is for.
    description: Option<String>,
    /// Taken for Quay's sake, and not kept.
    #[expect(dead_code, reason = "clients of Quay send it")]
    unstructured_metadata: Option<serde_json::Value>,
}

/// A robot.
#[derive(Serialize, ToSchema)]
pub(super) struct Robot {
    /// `owner+name`
    name: String,
    created: String,
    last_accessed: Option<String>,
    description: String,
    /// Only when it was made just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// Robots by name.
#[derive(Serialize, ToSchema)]
pub(super) struct RobotList {
    robots: Vec<Robot>,
}

impl Robot {
    fn of(account: Account, token: Option<String>) -> Robot {
        Robot {
            name: account.name,
            created: date(account.created),
            last_accessed: account.last_login.map(date),
            description: account.description,
            token,
        }
    }
}

/// Whose robots, by the path.
enum Owner<'a> {
    Organization(&'a str),
    User,
}

impl Owner<'_> {
    /// Who it is, for those who administrate it.
    async fn find(self, origin: &Origin, who: &Who) -> Result<Account, ApiError> {
        match self {
            Owner::Organization(name) => origin.administrated(who, name).await,
            Owner::User => Ok(who.user()?.clone()),
        }
    }

    /// The same, for those who may look.
    async fn seen(self, origin: &Origin, who: &Who) -> Result<Account, ApiError> {
        match self {
            Owner::Organization(name) => inspected(origin, who, name).await,
            Owner::User => Ok(who.user()?.clone()),
        }
    }
}

fn about<'a>(kind: &'static str, owner: &'a Account, robot: &str) -> Action<'a> {
    Action::in_namespace(kind, &owner.name, json!({ "robot": robot }))
}

async fn list(origin: &Origin, who: &Who, owner: Owner<'_>) -> Result<Json<RobotList>, ApiError> {
    let owner = owner.seen(origin, who).await?;
    let robots = origin.meta.robots(owner.id, MOST).await?;
    Ok(Json(RobotList { robots: robots.into_iter().map(|robot| Robot::of(robot, None)).collect() }))
}

async fn find(origin: &Origin, owner: &Account, short: &str) -> Result<Account, ApiError> {
    let found = origin.meta.account(&format!("{}+{short}", owner.name)).await?;
    found.filter(|robot| robot.kind == AccountKind::Robot).ok_or(ApiError::NotFound("robot"))
}

async fn create(
    origin: &Origin,
    who: &Who,
    owner: Owner<'_>,
    short: &str,
    sent: NewRobot,
) -> Result<(StatusCode, Json<Robot>), ApiError> {
    let owner = owner.find(origin, who).await?;
    let name = RobotName::new(&owner.name.parse::<Name>()?, short)?;
    let description = text(sent.description.unwrap_or_default(), DESCRIPTION_LIMIT)?;
    let token = token();
    let new = NewAccount {
        owner: Some(owner.id),
        token_hash: Some(hash(&token)),
        description,
        ..NewAccount::new(name.as_str(), AccountKind::Robot)
    };
    let change = origin.meta.change().await?;
    let made = change.create_account(new, now()).await.map_err(|error| match error {
        MetaError::Exists => ApiError::invalid(format!("Existing robot with name: {name}")),
        other => other.into(),
    })?;
    who.done(change, about("create_robot", &owner, short)).await?;
    Ok((StatusCode::CREATED, Json(Robot::of(made, Some(token.reveal().to_owned())))))
}

async fn delete(origin: &Origin, who: &Who, owner: Owner<'_>, short: &str) -> Result<StatusCode, ApiError> {
    let owner = owner.find(origin, who).await?;
    let robot = find(origin, &owner, short).await?;
    let change = origin.meta.change().await?;
    change.delete_account(robot.id, now()).await?;
    who.done(change, about("delete_robot", &owner, short)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn regenerate(origin: &Origin, who: &Who, owner: Owner<'_>, short: &str) -> Result<Json<Robot>, ApiError> {
    let owner = owner.find(origin, who).await?;
    let robot = find(origin, &owner, short).await?;
    let token = token();
    let edit = AccountEdit { token_hash: Some(hash(&token)), ..AccountEdit::default() };
    let change = origin.meta.change().await?;
    change.edit_account(robot.id, edit).await?;
    who.done(change, about("regenerate_robot_token", &owner, short)).await?;
    Ok(Json(Robot::of(robot, Some(token.reveal().to_owned()))))
}

async fn show(origin: &Origin, who: &Who, owner: Owner<'_>, short: &str) -> Result<Json<Robot>, ApiError> {
    let owner = owner.seen(origin, who).await?;
    Ok(Json(Robot::of(find(origin, &owner, short).await?, None)))
}

async fn permissions(origin: &Origin, who: &Who, owner: Owner<'_>, short: &str) -> Result<Json<GrantedList>, ApiError> {
    let owner = owner.seen(origin, who).await?;
    let robot = find(origin, &owner, short).await?;
    Ok(Json(granted(origin.meta.permissions_of(Grantee::Account(robot.id), MOST).await?)))
}

/// A body that need not be there.
pub(super) struct Perhaps(NewRobot);

impl FromRequest<Arc<Origin>> for Perhaps {
    type Rejection = ApiError;

    async fn from_request(request: Request, origin: &Arc<Origin>) -> Result<Perhaps, ApiError> {
        if request.body().is_end_stream() {
            return Ok(Perhaps(NewRobot::default()));
        }
        let Sent(sent) = Sent::from_request(request, origin).await?;
        Ok(Perhaps(sent))
    }
}

/// An organisation's robots.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/robots", operation_id = "getOrgRobots", tag = "robot",
    params(("orgname" = String, Path, example = "acme")), responses((status = 200, body = RobotList), Failures))]
pub(super) async fn of_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(orgname): At<String>,
) -> Result<Json<RobotList>, ApiError> {
    list(&origin, &who, Owner::Organization(&orgname)).await
}

/// A robot of an organisation.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/robots/{robot_shortname}", operation_id = "getOrgRobot", tag = "robot",
    params(("orgname" = String, Path, example = "acme"), ("robot_shortname" = String, Path, example = "ci")), responses((status = 200, body = Robot), Failures))]
pub(super) async fn one_of_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, short)): At<(String, String)>,
) -> Result<Json<Robot>, ApiError> {
    show(&origin, &who, Owner::Organization(&orgname), &short).await
}

/// Make a robot of an organisation. The answer is the only one with its token.
#[utoipa::path(put, path = "/api/v1/organization/{orgname}/robots/{robot_shortname}", operation_id = "createOrgRobot", tag = "robot",
    params(("orgname" = String, Path, example = "acme"), ("robot_shortname" = String, Path, example = "ci")), request_body = Option<NewRobot>,
    responses((status = 201, body = Robot), Failures))]
pub(super) async fn create_of_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, short)): At<(String, String)>,
    Perhaps(sent): Perhaps,
) -> Result<(StatusCode, Json<Robot>), ApiError> {
    create(&origin, &who, Owner::Organization(&orgname), &short, sent).await
}

/// Take a robot of an organisation away.
#[utoipa::path(delete, path = "/api/v1/organization/{orgname}/robots/{robot_shortname}", operation_id = "deleteOrgRobot", tag = "robot",
    params(("orgname" = String, Path, example = "acme"), ("robot_shortname" = String, Path, example = "ci")), responses((status = 204), Failures))]
pub(super) async fn delete_of_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, short)): At<(String, String)>,
) -> Result<StatusCode, ApiError> {
    delete(&origin, &who, Owner::Organization(&orgname), &short).await
}

/// Give a robot of an organisation another token. The one before is worth nothing from here on.
#[utoipa::path(post, path = "/api/v1/organization/{orgname}/robots/{robot_shortname}/regenerate", operation_id = "regenerateOrgRobotToken", tag = "robot",
    params(("orgname" = String, Path, example = "acme"), ("robot_shortname" = String, Path, example = "ci")), responses((status = 200, body = Robot), Failures))]
pub(super) async fn regenerate_of_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, short)): At<(String, String)>,
) -> Result<Json<Robot>, ApiError> {
    regenerate(&origin, &who, Owner::Organization(&orgname), &short).await
}

/// What a robot of an organisation was given.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/robots/{robot_shortname}/permissions", operation_id = "getOrgRobotPermissions", tag = "robot",
    params(("orgname" = String, Path, example = "acme"), ("robot_shortname" = String, Path, example = "ci")), responses((status = 200, body = GrantedList), Failures))]
pub(super) async fn permissions_of_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, short)): At<(String, String)>,
) -> Result<Json<GrantedList>, ApiError> {
    permissions(&origin, &who, Owner::Organization(&orgname), &short).await
}

/// The caller's robots.
#[utoipa::path(get, path = "/api/v1/user/robots", operation_id = "getUserRobots", tag = "robot",
    responses((status = 200, body = RobotList), Failures))]
pub(super) async fn of_user(State(origin): State<Arc<Origin>>, who: Who) -> Result<Json<RobotList>, ApiError> {
    list(&origin, &who, Owner::User).await
}

/// A robot of the caller.
#[utoipa::path(get, path = "/api/v1/user/robots/{robot_shortname}", operation_id = "getUserRobot", tag = "robot",
    params(("robot_shortname" = String, Path, example = "ci")), responses((status = 200, body = Robot), Failures))]
pub(super) async fn one_of_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(short): At<String>,
) -> Result<Json<Robot>, ApiError> {
    show(&origin, &who, Owner::User, &short).await
}

/// Make a robot of the caller. The answer is the only one with its token.
#[utoipa::path(put, path = "/api/v1/user/robots/{robot_shortname}", operation_id = "createUserRobot", tag = "robot",
    params(("robot_shortname" = String, Path, example = "ci")), request_body = Option<NewRobot>,
    responses((status = 201, body = Robot), Failures))]
pub(super) async fn create_of_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(short): At<String>,
    Perhaps(sent): Perhaps,
) -> Result<(StatusCode, Json<Robot>), ApiError> {
    create(&origin, &who, Owner::User, &short, sent).await
}

/// Take a robot of the caller away.
#[utoipa::path(delete, path = "/api/v1/user/robots/{robot_shortname}", operation_id = "deleteUserRobot", tag = "robot",
    params(("robot_shortname" = String, Path, example = "ci")), responses((status = 204), Failures))]
pub(super) async fn delete_of_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(short): At<String>,
) -> Result<StatusCode, ApiError> {
    delete(&origin, &who, Owner::User, &short).await
}

/// Give a robot of the caller another token.
#[utoipa::path(post, path = "/api/v1/user/robots/{robot_shortname}/regenerate", operation_id = "regenerateUserRobotToken", tag = "robot",
    params(("robot_shortname" = String, Path, example = "ci")), responses((status = 200, body = Robot), Failures))]
pub(super) async fn regenerate_of_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(short): At<String>,
) -> Result<Json<Robot>, ApiError> {
    regenerate(&origin, &who, Owner::User, &short).await
}

/// What a robot of the caller was given.
#[utoipa::path(get, path = "/api/v1/user/robots/{robot_shortname}/permissions", operation_id = "getUserRobotPermissions", tag = "robot",
    params(("robot_shortname" = String, Path, example = "ci")), responses((status = 200, body = GrantedList), Failures))]
pub(super) async fn permissions_of_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(short): At<String>,
) -> Result<Json<GrantedList>, ApiError> {
    permissions(&origin, &who, Owner::User, &short).await
}
