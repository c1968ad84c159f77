//! Robots: accounts for machines, of organisations and of users.
//!
//! Those who administer a robot read its token again, as in Quay: operators write pull secrets from it. `auth.show_robot_tokens: false` turns
//! that off; then a token is shown when it is made and never again.

use std::sync::Arc;

use axum::Json;
use axum::body::HttpBody;
use axum::extract::{FromRequest, Request, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Failures};
use super::extract::{At, Sent, Wanted, Who};
use super::organizations::inspected;
use super::page::{MOST, date, flag};
use super::permissions::{GrantedList, granted, own_name};
use super::teams::DESCRIPTION_LIMIT;
use crate::api::Origin;
use crate::auth::{Name, RobotName, hash, token};
use crate::meta::{Account, AccountEdit, AccountKind, Action, Grantee, MetaError, NewAccount, now};
use crate::text::paragraph;

/// A robot that is to be.
#[derive(Default, Deserialize, ToSchema)]
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
    /// For those who administer the robot, if the token is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// With `permissions=true`: the teams that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    teams: Option<Vec<RobotTeam>>,
    /// With `permissions=true`: the repositories in which it was given a role, by what they are called in their namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    repositories: Option<Vec<String>>,
}

/// A team that a robot is in.
#[derive(Serialize, ToSchema)]
pub(super) struct RobotTeam {
    name: String,
}

/// What to show of robots.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RobotQuery {
    /// Their teams and repositories too.
    #[serde(default, deserialize_with = "flag")]
    permissions: bool,
    /// Their tokens too.
    #[serde(default = "yes", deserialize_with = "flag")]
    token: bool,
    /// So many at most.
    limit: Option<u32>,
}

fn yes() -> bool {
    true
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
            teams: None,
            repositories: None,
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

    /// The same, for those who may look, and whether they may see the robots' tokens: those who could make new ones. An application
    /// token without scopes could not, so it sees none: what it does must end with it.
    async fn seen(self, origin: &Origin, who: &Who) -> Result<(Account, bool), ApiError> {
        let unnamed = who.caller.is_by_application() && who.caller.scopes().is_none();
        match self {
            Owner::Organization(name) => {
                let owner = inspected(origin, who, name).await?;
                let (_, rights) = origin.organization(who, name).await?;
                Ok((owner, rights.admin && !unnamed))
            }
            Owner::User => Ok((who.user()?.clone(), !unnamed)),
        }
    }
}

fn about<'a>(kind: &'static str, owner: &'a Account, robot: &str) -> Action<'a> {
    Action::in_namespace(kind, &owner.name, json!({ "robot": robot }))
}

async fn list(origin: &Origin, who: &Who, owner: Owner<'_>, query: &RobotQuery) -> Result<Json<RobotList>, ApiError> {
    let (owner, sees_tokens) = owner.seen(origin, who).await?;
    let limit = query.limit.map_or(MOST, |limit| MOST.min(u64::from(limit)));
    let robots = origin.meta.robots(owner.id, limit).await?;
    let mut given = match query.permissions {
        true => Some(origin.meta.robots_given(owner.id, MOST).await?),
        false => None,
    };
    let view = |account: Account| {
        let token = if sees_tokens && query.token { kept(origin, &account) } else { None };
        let given = given.as_mut().map(|given| given.remove(&account.id).unwrap_or_default());
        let (teams, repositories) = given.map(|given| (given.teams, given.repositories)).unzip();
        Robot {
            teams: teams.map(|names| names.into_iter().map(|name| RobotTeam { name }).collect()),
            repositories: repositories.map(|names| names.iter().map(|name| own_name(name).to_owned()).collect()),
            ..Robot::of(account, token)
        }
    };
    Ok(Json(RobotList { robots: robots.into_iter().map(view).collect() }))
}

/// The token of a robot, if it is kept.
fn kept(origin: &Origin, robot: &Account) -> Option<String> {
    origin.auth.robots().open(&robot.name, robot.token_sealed.as_deref()?)
}

async fn find(origin: &Origin, owner: &Account, short: &str) -> Result<Account, ApiError> {
    let found = origin.meta.account(&format!("{}+{short}", owner.name)).await?;
    let found = found.filter(|robot| robot.kind == AccountKind::Robot);
    // Quay's status and words: its operators make a robot when they hear exactly this.
    found.ok_or_else(|| ApiError::invalid("Could not find robot with specified username"))
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
    let description = paragraph(sent.description.unwrap_or_default(), DESCRIPTION_LIMIT)?;
    let token = token();
    let new = NewAccount {
        owner: Some(owner.id),
        token_hash: Some(hash(&token)),
        token_sealed: origin.auth.robots().seal(name.as_str(), &token),
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
    let sealed = origin.auth.robots().seal(&robot.name, &token);
    let edit = AccountEdit { token: Some((hash(&token), sealed)), ..AccountEdit::default() };
    let change = origin.meta.change().await?;
    change.edit_account(robot.id, edit).await?;
    who.done(change, about("regenerate_robot_token", &owner, short)).await?;
    Ok(Json(Robot::of(robot, Some(token.reveal().to_owned()))))
}

async fn show(origin: &Origin, who: &Who, owner: Owner<'_>, short: &str) -> Result<Json<Robot>, ApiError> {
    let (owner, sees_tokens) = owner.seen(origin, who).await?;
    let robot = find(origin, &owner, short).await?;
    let token = if sees_tokens { kept(origin, &robot) } else { None };
    Ok(Json(Robot::of(robot, token)))
}

async fn permissions(origin: &Origin, who: &Who, owner: Owner<'_>, short: &str) -> Result<Json<GrantedList>, ApiError> {
    let (owner, _) = owner.seen(origin, who).await?;
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
    params(("orgname" = String, Path, example = "acme"), RobotQuery), responses((status = 200, body = RobotList), Failures))]
pub(super) async fn of_organization(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(orgname): At<String>,
    Wanted(query): Wanted<RobotQuery>,
) -> Result<Json<RobotList>, ApiError> {
    list(&origin, &who, Owner::Organization(&orgname), &query).await
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

/// Make a robot of an organisation.
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
    params(RobotQuery), responses((status = 200, body = RobotList), Failures))]
pub(super) async fn of_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Wanted(query): Wanted<RobotQuery>,
) -> Result<Json<RobotList>, ApiError> {
    list(&origin, &who, Owner::User, &query).await
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

/// Make a robot of the caller.
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
