//! Who may do what in a repository: what users, robots and teams were given.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::{ApiError, Failures};
use super::extract::{At, Named, Sent, Who};
use super::teams::grantee;
use crate::api::Origin;
use crate::auth::Caller;
use crate::meta::{Account, AccountKind, Action, Grantee, Repository, Role, Superuser, Visibility};

/// What may be done with a repository. Each includes those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoleName {
    /// Pull.
    Read,
    /// Push and delete as well.
    Write,
    /// Everything.
    Admin,
}

impl From<Role> for RoleName {
    fn from(role: Role) -> RoleName {
        match role {
            Role::Read => RoleName::Read,
            Role::Write => RoleName::Write,
            Role::Admin => RoleName::Admin,
        }
    }
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Role {
        match role {
            RoleName::Read => Role::Read,
            RoleName::Write => Role::Write,
            RoleName::Admin => Role::Admin,
        }
    }
}

/// A role that is to be given.
#[derive(Deserialize, ToSchema)]
pub(super) struct RoleEdit {
    role: RoleName,
}

/// What was given in a repository, by the name of who got it.
#[derive(Serialize, ToSchema)]
pub(super) struct PermissionList {
    permissions: BTreeMap<String, Permission>,
}

/// What somebody was given in a repository.
#[derive(Serialize, ToSchema)]
pub(super) struct Permission {
    name: String,
    role: RoleName,
    is_robot: bool,
    is_org_member: bool,
}

/// What somebody was given, repository by repository.
#[derive(Serialize, ToSchema)]
pub(super) struct GrantedList {
    permissions: Vec<Granted>,
}

/// What somebody was given in a repository.
#[derive(Serialize, ToSchema)]
pub(super) struct Granted {
    repository: GrantedRepository,
    role: RoleName,
}

/// Where.
#[derive(Serialize, ToSchema)]
pub(super) struct GrantedRepository {
    name: String,
    is_public: bool,
}

/// The roles that somebody has in a repository, from all sources.
#[derive(Serialize, ToSchema)]
pub(super) struct RoleList {
    permissions: Vec<RoleOf>,
}

/// A role.
#[derive(Serialize, ToSchema)]
pub(super) struct RoleOf {
    role: RoleName,
}

/// What somebody was given, as Quay shows it: repositories by what they are called in their namespace.
pub(super) fn granted(given: Vec<(Repository, Role)>) -> GrantedList {
    let one = |(repository, role): (Repository, Role)| Granted {
        repository: GrantedRepository {
            name: own_name(&repository.name).to_owned(),
            is_public: repository.visibility == Visibility::Public,
        },
        role: role.into(),
    };
    GrantedList { permissions: given.into_iter().map(one).collect() }
}

/// A repository's name within its namespace.
pub(super) fn own_name(whole: &str) -> &str {
    whole.split_once('/').map_or(whole, |(_, own)| own)
}

async fn inspected(origin: &Origin, who: &Who, at: &Named) -> Result<Repository, ApiError> {
    origin.repository_for(who, at, |rights| rights.inspect).await
}

async fn administrated(origin: &Origin, who: &Who, at: &Named) -> Result<Repository, ApiError> {
    origin.repository_for(who, at, |rights| rights.admin).await
}

async fn namespace(origin: &Origin, repository: &Repository) -> Result<Account, ApiError> {
    origin.meta.account_by_id(repository.namespace_id).await?.ok_or(ApiError::NotFound("namespace"))
}

/// What users and robots were given.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}/permissions/user", operation_id = "listRepoUserPermissions", tag = "permission",
    params(Named), responses((status = 200, body = PermissionList), Failures))]
pub(super) async fn users(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
) -> Result<Json<PermissionList>, ApiError> {
    let repository = inspected(&origin, &who, &at).await?;
    let given = origin.meta.account_permissions(repository.id).await?;
    let members = origin.meta.members(repository.namespace_id).await?;
    let view = |(account, role): (Account, Role)| {
        let is_org_member = members.iter().any(|(member, _)| member.id == account.id);
        (account.name.clone(), user_view(&account, role, is_org_member))
    };
    Ok(Json(PermissionList { permissions: given.into_iter().map(view).collect() }))
}

fn user_view(account: &Account, role: Role, is_org_member: bool) -> Permission {
    let is_robot = account.kind == AccountKind::Robot;
    Permission { name: account.name.clone(), role: role.into(), is_robot, is_org_member }
}

async fn given_to_user(origin: &Origin, repository: &Repository, name: &str) -> Result<Permission, ApiError> {
    let given = origin.meta.account_permissions(repository.id).await?;
    let found = given.into_iter().find(|(account, _)| account.name == name);
    let (account, role) = found.ok_or(ApiError::NotFound("permission"))?;
    let is_org_member = origin.meta.team_role(repository.namespace_id, account.id).await?.is_some();
    Ok(user_view(&account, role, is_org_member))
}

/// What a user or robot was given.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}/permissions/user/{username}", operation_id = "getUserPermissions", tag = "permission",
    params(Named, ("username" = String, Path, example = "ann")),
    responses((status = 200, body = Permission), Failures))]
pub(super) async fn user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace, repository, username)): At<(String, String, String)>,
) -> Result<Json<Permission>, ApiError> {
    let repository = inspected(&origin, &who, &Named { namespace, repository }).await?;
    Ok(Json(given_to_user(&origin, &repository, &username).await?))
}

/// The roles that a user or robot has by being who it is and by the teams that it is in.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}/permissions/user/{username}/transitive", operation_id = "getUserTransitivePermission", tag = "permission",
    params(Named, ("username" = String, Path, example = "ann")),
    responses((status = 200, body = RoleList), Failures))]
pub(super) async fn transitive(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace, repository, username)): At<(String, String, String)>,
) -> Result<Json<RoleList>, ApiError> {
    let at = Named { namespace, repository };
    inspected(&origin, &who, &at).await?;
    let account = origin.meta.account(&username).await?.ok_or(ApiError::NotFound("user"))?;
    // Who is a superuser is not for those to learn who administrate a repository.
    let caller = Caller::known(Account { superuser: Superuser::No, ..account });
    let (_, rights) = origin.auth.repository(&caller, &at.whole()).await?;
    let role = match rights {
        rights if rights.admin => Some(RoleName::Admin),
        rights if rights.push => Some(RoleName::Write),
        rights if rights.pull => Some(RoleName::Read),
        _ => None,
    };
    Ok(Json(RoleList { permissions: role.map(|role| RoleOf { role }).into_iter().collect() }))
}

/// Give a user, or a robot of this namespace, a role.
#[utoipa::path(put, path = "/api/v1/repository/{namespace}/{repository}/permissions/user/{username}", operation_id = "changeUserPermissions", tag = "permission",
    params(Named, ("username" = String, Path, example = "ann")), request_body = RoleEdit,
    responses((status = 200, body = Permission), Failures))]
pub(super) async fn grant_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace_name, name, username)): At<(String, String, String)>,
    Sent(sent): Sent<RoleEdit>,
) -> Result<Json<Permission>, ApiError> {
    let at = Named { namespace: namespace_name, repository: name };
    let repository = administrated(&origin, &who, &at).await?;
    let owner = namespace(&origin, &repository).await?;
    let account = grantee(&origin, &owner, &username).await?;
    grant(&origin, &who, &repository, Grantee::Account(account.id), sent.role, json!({ "username": username })).await?;
    Ok(Json(given_to_user(&origin, &repository, &username).await?))
}

async fn grant(
    origin: &Origin,
    who: &Who,
    repository: &Repository,
    to: Grantee,
    role: RoleName,
    mut metadata: serde_json::Value,
) -> Result<(), ApiError> {
    let change = origin.meta.change().await?;
    change.grant(repository.id, to, role.into()).await?;
    metadata["role"] = json!(role);
    who.done(change, Action::in_repository("change_repo_permission", &repository.name, metadata)).await?;
    Ok(())
}

async fn revoke(
    origin: &Origin,
    who: &Who,
    repository: &Repository,
    from: Grantee,
    metadata: serde_json::Value,
) -> Result<StatusCode, ApiError> {
    let change = origin.meta.change().await?;
    if !change.revoke(repository.id, from).await? {
        return Err(ApiError::NotFound("permission"));
    }
    who.done(change, Action::in_repository("delete_repo_permission", &repository.name, metadata)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take what a user or robot was given.
#[utoipa::path(delete, path = "/api/v1/repository/{namespace}/{repository}/permissions/user/{username}", operation_id = "deleteUserPermissions", tag = "permission",
    params(Named, ("username" = String, Path, example = "ann")),
    responses((status = 204), Failures))]
pub(super) async fn revoke_user(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace, name, username)): At<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let at = Named { namespace, repository: name };
    let repository = administrated(&origin, &who, &at).await?;
    let account = origin.meta.account(&username).await?.ok_or(ApiError::NotFound("user"))?;
    revoke(&origin, &who, &repository, Grantee::Account(account.id), json!({ "username": username })).await
}

/// What teams were given.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}/permissions/team", operation_id = "listRepoTeamPermissions", tag = "permission",
    params(Named), responses((status = 200, body = PermissionList), Failures))]
pub(super) async fn teams(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(at): At<Named>,
) -> Result<Json<PermissionList>, ApiError> {
    let repository = inspected(&origin, &who, &at).await?;
    let given = origin.meta.team_permissions(repository.id).await?;
    let view = |(team, role): (crate::meta::Team, Role)| (team.name.clone(), team_view(team.name, role));
    Ok(Json(PermissionList { permissions: given.into_iter().map(view).collect() }))
}

fn team_view(name: String, role: Role) -> Permission {
    Permission { name, role: role.into(), is_robot: false, is_org_member: true }
}

/// What a team was given.
#[utoipa::path(get, path = "/api/v1/repository/{namespace}/{repository}/permissions/team/{teamname}", operation_id = "getTeamPermissions", tag = "permission",
    params(Named, ("teamname" = String, Path, example = "owners")),
    responses((status = 200, body = Permission), Failures))]
pub(super) async fn team(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace, name, teamname)): At<(String, String, String)>,
) -> Result<Json<Permission>, ApiError> {
    let repository = inspected(&origin, &who, &Named { namespace, repository: name }).await?;
    let given = origin.meta.team_permissions(repository.id).await?;
    let found = given.into_iter().find(|(team, _)| team.name == teamname);
    let (team, role) = found.ok_or(ApiError::NotFound("permission"))?;
    Ok(Json(team_view(team.name, role)))
}

/// Give a team a role.
#[utoipa::path(put, path = "/api/v1/repository/{namespace}/{repository}/permissions/team/{teamname}", operation_id = "changeTeamPermissions", tag = "permission",
    params(Named, ("teamname" = String, Path, example = "owners")), request_body = RoleEdit,
    responses((status = 200, body = Permission), Failures))]
pub(super) async fn grant_team(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace, name, teamname)): At<(String, String, String)>,
    Sent(sent): Sent<RoleEdit>,
) -> Result<Json<Permission>, ApiError> {
    let at = Named { namespace, repository: name };
    let repository = administrated(&origin, &who, &at).await?;
    let team = origin.meta.team(repository.namespace_id, &teamname).await?.ok_or(ApiError::NotFound("team"))?;
    grant(&origin, &who, &repository, Grantee::Team(team.id), sent.role, json!({ "team": teamname })).await?;
    Ok(Json(team_view(team.name, sent.role.into())))
}

/// Take what a team was given.
#[utoipa::path(delete, path = "/api/v1/repository/{namespace}/{repository}/permissions/team/{teamname}", operation_id = "deleteTeamPermissions", tag = "permission",
    params(Named, ("teamname" = String, Path, example = "owners")),
    responses((status = 204), Failures))]
pub(super) async fn revoke_team(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((namespace, name, teamname)): At<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let at = Named { namespace, repository: name };
    let repository = administrated(&origin, &who, &at).await?;
    let team = origin.meta.team(repository.namespace_id, &teamname).await?.ok_or(ApiError::NotFound("team"))?;
    revoke(&origin, &who, &repository, Grantee::Team(team.id), json!({ "team": teamname })).await
}
