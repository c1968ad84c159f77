//! Teams of organisations.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::{ApiError, Failures};
use super::extract::{At, Sent, Who};
use super::organizations::{keeps_admins, kind};
use super::page::MOST;
use super::permissions::{GrantedList, granted};
use crate::api::Origin;
use crate::auth::{Name, NamespaceRights};
use crate::meta::{Account, AccountKind, Action, Grantee, Team, TeamRole, TeamSize, now};
use crate::text::paragraph;

/// Longest description.
pub(super) const DESCRIPTION_LIMIT: usize = 4096;

/// What members of a team may do in its organisation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TeamRoleName {
    /// What the team was given in repositories.
    Member,
    /// Create repositories as well.
    Creator,
    /// Everything.
    Admin,
}

impl From<TeamRole> for TeamRoleName {
    fn from(role: TeamRole) -> TeamRoleName {
        match role {
            TeamRole::Member => TeamRoleName::Member,
            TeamRole::Creator => TeamRoleName::Creator,
            TeamRole::Admin => TeamRoleName::Admin,
        }
    }
}

impl From<TeamRoleName> for TeamRole {
    fn from(role: TeamRoleName) -> TeamRole {
        match role {
            TeamRoleName::Member => TeamRole::Member,
            TeamRoleName::Creator => TeamRole::Creator,
            TeamRoleName::Admin => TeamRole::Admin,
        }
    }
}

/// A team as it is to be.
#[derive(Deserialize, ToSchema)]
pub(super) struct TeamEdit {
    role: TeamRoleName,
    description: Option<String>,
}

/// A team.
#[derive(Serialize, ToSchema)]
pub(super) struct TeamView {
    pub(super) name: String,
    description: String,
    role: TeamRoleName,
    can_view: bool,
    repo_count: u64,
    member_count: u64,
    is_synced: bool,
}

impl TeamView {
    pub(super) fn sized(size: &TeamSize, rights: NamespaceRights) -> TeamView {
        TeamView {
            name: size.team.name.clone(),
            description: size.team.description.clone(),
            role: size.team.role.into(),
            can_view: rights.view,
            repo_count: size.repositories,
            member_count: size.members,
            is_synced: false,
        }
    }
}

/// Who is in a team.
#[derive(Serialize, ToSchema)]
pub(super) struct TeamMembers {
    name: String,
    members: Vec<TeamMember>,
    can_edit: bool,
}

/// Somebody who is in a team.
#[derive(Serialize, ToSchema)]
pub(super) struct TeamMember {
    name: String,
    /// `user` or `robot`.
    kind: &'static str,
    is_robot: bool,
    /// Always no: who is added is in.
    invited: bool,
}

impl TeamMember {
    fn of(account: Account) -> TeamMember {
        let is_robot = account.kind == AccountKind::Robot;
        TeamMember { kind: kind(&account), name: account.name, is_robot, invited: false }
    }
}

async fn find(origin: &Origin, organization: i64, name: &str) -> Result<Team, ApiError> {
    origin.meta.team(organization, name).await?.ok_or(ApiError::NotFound("team"))
}

/// Make a team, or change it.
#[utoipa::path(put, path = "/api/v1/organization/{orgname}/team/{teamname}", operation_id = "updateOrganizationTeam", tag = "team",
    params(("orgname" = String, Path, example = "acme"), ("teamname" = String, Path, example = "owners")), request_body = TeamEdit,
    responses((status = 200, body = TeamView), Failures))]
pub(super) async fn put(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, teamname)): At<(String, String)>,
    Sent(sent): Sent<TeamEdit>,
) -> Result<Json<TeamView>, ApiError> {
    let organization = origin.administrated(&who, &orgname).await?;
    let name: Name = teamname.parse()?;
    let description = sent.description.map(|written| paragraph(written, DESCRIPTION_LIMIT)).transpose()?;
    let role = TeamRole::from(sent.role);
    let change = origin.meta.change().await?;
    let had_admins = change.hold_admins(organization.id).await?;
    let log = json!({ "team": name.as_str(), "role": sent.role });
    match change.team(organization.id, name.as_str()).await? {
        None => {
            change
                .create_team(organization.id, name.as_str(), role, description.as_deref().unwrap_or_default())
                .await?;
            change.log(&who.performer, Action::in_namespace("org_create_team", &orgname, log), now()).await?;
        }
        Some(mut team) => {
            if team.role != role {
                change.log(&who.performer, Action::in_namespace("org_set_team_role", &orgname, log), now()).await?;
                team.role = role;
            }
            if let Some(description) = description.filter(|description| *description != team.description) {
                let log = json!({ "team": name.as_str(), "description": description });
                change
                    .log(&who.performer, Action::in_namespace("org_set_team_description", &orgname, log), now())
                    .await?;
                team.description = description;
            }
            change.edit_team(&team).await?;
            keeps_admins(&change, had_admins, organization.id).await?;
        }
    }
    change.commit().await?;
    let teams = origin.meta.teams(organization.id).await?;
    let made = teams.iter().find(|size| size.team.name == name.as_str()).ok_or(ApiError::NotFound("team"))?;
    Ok(Json(TeamView::sized(made, NamespaceRights { view: true, create: true, admin: true })))
}

/// Take a team away, and what it was given.
#[utoipa::path(delete, path = "/api/v1/organization/{orgname}/team/{teamname}", operation_id = "deleteOrganizationTeam", tag = "team",
    params(("orgname" = String, Path, example = "acme"), ("teamname" = String, Path, example = "owners")), responses((status = 204), Failures))]
pub(super) async fn delete(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, teamname)): At<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let organization = origin.administrated(&who, &orgname).await?;
    let team = find(&origin, organization.id, &teamname).await?;
    let change = origin.meta.change().await?;
    let had_admins = change.hold_admins(organization.id).await?;
    change.delete_team(team.id).await?;
    keeps_admins(&change, had_admins, organization.id).await?;
    who.done(change, Action::in_namespace("org_delete_team", &orgname, json!({ "team": teamname }))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who is in a team.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/team/{teamname}/members", operation_id = "getOrganizationTeamMembers", tag = "team",
    params(("orgname" = String, Path, example = "acme"), ("teamname" = String, Path, example = "owners")), responses((status = 200, body = TeamMembers), Failures))]
pub(super) async fn members(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, teamname)): At<(String, String)>,
) -> Result<Json<TeamMembers>, ApiError> {
    who.account()?;
    let (organization, rights) = origin.organization(&who, &orgname).await?;
    who.may(rights.view)?;
    let team = find(&origin, organization.id, &teamname).await?;
    let members = origin.meta.team_members(team.id).await?;
    let members = members.into_iter().map(TeamMember::of).collect();
    Ok(Json(TeamMembers { name: team.name, members, can_edit: rights.admin }))
}

/// Put a user, or a robot of this organisation, into a team.
#[utoipa::path(put, path = "/api/v1/organization/{orgname}/team/{teamname}/members/{membername}", operation_id = "updateOrganizationTeamMember", tag = "team",
    params(("orgname" = String, Path, example = "acme"), ("teamname" = String, Path, example = "owners"), ("membername" = String, Path, example = "ann")),
    responses((status = 200, body = TeamMember), Failures))]
pub(super) async fn add_member(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, teamname, membername)): At<(String, String, String)>,
) -> Result<Json<TeamMember>, ApiError> {
    let organization = origin.administrated(&who, &orgname).await?;
    let team = find(&origin, organization.id, &teamname).await?;
    let member = grantee(&origin, &organization, &membername).await?;
    let change = origin.meta.change().await?;
    change.add_member(team.id, member.id).await?;
    let log = Action::in_namespace("org_add_team_member", &orgname, json!({ "team": teamname, "member": membername }));
    who.done(change, log).await?;
    Ok(Json(TeamMember::of(member)))
}

/// A user, or a robot of this namespace: who may be given something here.
pub(super) async fn grantee(origin: &Origin, namespace: &Account, name: &str) -> Result<Account, ApiError> {
    let found = origin.meta.account(name).await?.filter(|account| match account.kind {
        AccountKind::User => true,
        AccountKind::Robot => account.owner_id == Some(namespace.id),
        AccountKind::Organization => false,
    });
    found.ok_or(ApiError::NotFound("user"))
}

/// Take somebody out of a team.
#[utoipa::path(delete, path = "/api/v1/organization/{orgname}/team/{teamname}/members/{membername}", operation_id = "deleteOrganizationTeamMember", tag = "team",
    params(("orgname" = String, Path, example = "acme"), ("teamname" = String, Path, example = "owners"), ("membername" = String, Path, example = "ann")),
    responses((status = 204), Failures))]
pub(super) async fn remove_member(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, teamname, membername)): At<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    who.account()?;
    let (organization, rights) = origin.organization(&who, &orgname).await?;
    // Everybody may leave.
    who.may(rights.admin || who.caller.name() == Some(membername.as_str()))?;
    let team = find(&origin, organization.id, &teamname).await?;
    let member = origin.meta.account(&membername).await?.ok_or(ApiError::NotFound("member"))?;
    let change = origin.meta.change().await?;
    let had_admins = change.hold_admins(organization.id).await?;
    if !change.remove_member(team.id, member.id).await? {
        return Err(ApiError::NotFound("member"));
    }
    keeps_admins(&change, had_admins, organization.id).await?;
    let log =
        Action::in_namespace("org_remove_team_member", &orgname, json!({ "team": teamname, "member": membername }));
    who.done(change, log).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a team was given in repositories.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/team/{teamname}/permissions", operation_id = "getOrganizationTeamPermissions", tag = "team",
    params(("orgname" = String, Path, example = "acme"), ("teamname" = String, Path, example = "owners")), responses((status = 200, body = GrantedList), Failures))]
pub(super) async fn permissions(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, teamname)): At<(String, String)>,
) -> Result<Json<GrantedList>, ApiError> {
    let organization = super::organizations::inspected(&origin, &who, &orgname).await?;
    let team = find(&origin, organization.id, &teamname).await?;
    Ok(Json(granted(origin.meta.permissions_of(Grantee::Team(team.id), MOST).await?)))
}
