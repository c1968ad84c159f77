//! Organisations, and who is in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::{ApiError, Failures};
use super::extract::{At, Sent, Who};
use super::repositories::Usage;
use super::teams::TeamView;
use crate::api::Origin;
use crate::auth::Name;
use crate::meta::{Account, AccountEdit, AccountKind, Action, Change, NewAccount, TeamRole, now};
use crate::text::line;

/// Longest address.
pub(super) const EMAIL_LIMIT: usize = 255;
/// The team that whoever makes an organisation is put into.
const OWNERS: &str = "owners";

/// An organisation that is to be.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewOrganization {
    /// Lower-case letters and digits, joined by `.`, `_` or `-`.
    #[schema(min_length = 2, max_length = 255, example = "acme")]
    name: String,
    /// For people to write to.
    email: Option<String>,
}

/// What changes of an organisation.
#[derive(Deserialize, ToSchema)]
pub(super) struct OrganizationEdit {
    /// For people to write to.
    email: Option<String>,
}

/// An organisation.
#[derive(Serialize, ToSchema)]
pub(super) struct OrganizationView {
    name: String,
    /// For those who administrate it.
    email: Option<String>,
    is_admin: bool,
    is_member: bool,
    /// By name; for those who are in it.
    teams: BTreeMap<String, TeamView>,
    /// Their names, in order.
    ordered_teams: Vec<String>,
    /// How long its tags can be restored, in seconds.
    tag_expiration_s: u64,
    /// What it holds; for those who are in it.
    quota_report: Option<Usage>,
}

/// Who is in an organisation.
#[derive(Serialize, ToSchema)]
pub(super) struct MemberList {
    members: Vec<Member>,
}

/// Somebody who is in an organisation.
#[derive(Serialize, ToSchema)]
pub(super) struct Member {
    name: String,
    /// `user` or `robot`.
    kind: &'static str,
    teams: Vec<MemberTeam>,
}

/// A team of a member.
#[derive(Serialize, ToSchema)]
pub(super) struct MemberTeam {
    name: String,
}

/// What an account is called in Quay's lists.
pub(super) fn kind(account: &Account) -> &'static str {
    match account.kind {
        AccountKind::User => "user",
        AccountKind::Organization => "org",
        AccountKind::Robot => "robot",
    }
}

/// Make an organisation. Whoever does is in its team of owners.
#[utoipa::path(post, path = "/api/v1/organization", operation_id = "createOrganization", tag = "organization",
    request_body = NewOrganization, responses((status = 201, body = String, content_type = "application/json"), Failures))]
pub(super) async fn create(
    State(origin): State<Arc<Origin>>,
    who: Who,
    Sent(new): Sent<NewOrganization>,
) -> Result<(StatusCode, Json<&'static str>), ApiError> {
    let creator = who.user()?.id;
    let name = Name::of_new_account(&new.name)?;
    let email = new.email.map(|email| line(email, EMAIL_LIMIT)).transpose()?;
    let change = origin.meta.change().await?;
    let account = NewAccount { email, ..NewAccount::new(name.as_str(), AccountKind::Organization) };
    let made = change.create_account(account, now()).await.map_err(|error| match error {
        crate::meta::MetaError::Exists => ApiError::invalid("A user or organization with this name already exists"),
        other => other.into(),
    })?;
    let owners = change.create_team(made.id, OWNERS, TeamRole::Admin, "").await?;
    change.add_member(owners.id, creator).await?;
    who.done(change, Action::in_namespace("org_create", name.as_str(), json!({ "namespace": name.as_str() }))).await?;
    Ok((StatusCode::CREATED, Json("Created")))
}

/// An organisation, for those who are logged in.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}", operation_id = "getOrganization", tag = "organization",
    params(("orgname" = String, Path, example = "acme")), responses((status = 200, body = OrganizationView), Failures))]
pub(super) async fn show(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(name): At<String>,
) -> Result<Json<OrganizationView>, ApiError> {
    who.account()?;
    Ok(Json(view(&origin, &who, &name).await?))
}

async fn view(origin: &Origin, who: &Who, name: &str) -> Result<OrganizationView, ApiError> {
    let (organization, rights) = origin.organization(who, name).await?;
    let teams = if rights.view { origin.meta.teams(organization.id).await? } else { Vec::new() };
    let teams: Vec<TeamView> = teams.iter().map(|size| TeamView::sized(size, rights)).collect();
    let quota_report = match rights.view {
        true => Some(Usage::of(origin.meta.namespace_size(organization.id).await?)),
        false => None,
    };
    Ok(OrganizationView {
        name: organization.name,
        email: organization.email.filter(|_| rights.admin),
        is_admin: rights.admin,
        is_member: rights.view,
        ordered_teams: teams.iter().map(|team| team.name.clone()).collect(),
        teams: teams.into_iter().map(|team| (team.name.clone(), team)).collect(),
        tag_expiration_s: origin.live().tag_expiration.as_secs(),
        quota_report,
    })
}

/// Change an organisation.
#[utoipa::path(put, path = "/api/v1/organization/{orgname}", operation_id = "changeOrganizationDetails", tag = "organization",
    params(("orgname" = String, Path, example = "acme")), request_body = OrganizationEdit,
    responses((status = 200, body = OrganizationView), Failures))]
pub(super) async fn edit(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(name): At<String>,
    Sent(sent): Sent<OrganizationEdit>,
) -> Result<Json<OrganizationView>, ApiError> {
    let organization = origin.administrated(&who, &name).await?;
    if let Some(email) = sent.email {
        let email = line(email, EMAIL_LIMIT)?;
        let change = origin.meta.change().await?;
        let log = Action::in_namespace("org_change_email", &name, json!({ "email": email, "namespace": name }));
        change.log(&who.performer, log, now()).await?;
        change
            .edit_account(organization.id, AccountEdit { email: Some(Some(email)), ..AccountEdit::default() })
            .await?;
        change.commit().await?;
    }
    Ok(Json(view(&origin, &who, &name).await?))
}

/// Take an organisation away, with all its repositories.
#[utoipa::path(delete, path = "/api/v1/organization/{orgname}", operation_id = "deleteAdminedOrganization", tag = "organization",
    params(("orgname" = String, Path, example = "acme")), responses((status = 204), Failures))]
pub(super) async fn delete(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(name): At<String>,
) -> Result<StatusCode, ApiError> {
    let organization = origin.administrated(&who, &name).await?;
    remove(&origin, &who, &organization, "org_delete").await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a user or organisation away, with all that belongs to it.
pub(super) async fn remove(origin: &Origin, who: &Who, account: &Account, kind: &'static str) -> Result<(), ApiError> {
    let change = origin.meta.change().await?;
    let log = Action::in_namespace(kind, &account.name, json!({ "namespace": account.name }));
    change.log(&who.performer, log, now()).await?;
    change.delete_repositories_of(account.id).await?;
    change.delete_account(account.id, now()).await?;
    change.commit().await?;
    Ok(())
}

/// Who is in any team of an organisation.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/members", operation_id = "getOrganizationMembers", tag = "organization",
    params(("orgname" = String, Path, example = "acme")), responses((status = 200, body = MemberList), Failures))]
pub(super) async fn members(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(name): At<String>,
) -> Result<Json<MemberList>, ApiError> {
    let organization = inspected(&origin, &who, &name).await?;
    let members = origin.meta.members(organization.id).await?;
    Ok(Json(MemberList { members: members.into_iter().map(member_view).collect() }))
}

/// An organisation, for those who administrate it or may read everything.
pub(super) async fn inspected(origin: &Origin, who: &Who, name: &str) -> Result<Account, ApiError> {
    who.account()?;
    let (organization, rights) = origin.organization(who, name).await?;
    who.may(rights.admin || who.caller.superuser() != crate::meta::Superuser::No)?;
    Ok(organization)
}

/// Refuses a change that would leave an organisation to nobody, who could undo it.
pub(super) async fn keeps_admins(change: &Change, had_admins: bool, organization: i64) -> Result<(), ApiError> {
    if had_admins && !change.hold_admins(organization).await? {
        return Err(ApiError::invalid("an organisation keeps a team of admins with a user in it who can log in"));
    }
    Ok(())
}

fn member_view((account, teams): (Account, Vec<String>)) -> Member {
    let teams = teams.into_iter().map(|name| MemberTeam { name }).collect();
    Member { kind: kind(&account), name: account.name, teams }
}

/// Somebody who is in an organisation.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/members/{membername}", operation_id = "getOrganizationMember", tag = "organization",
    params(("orgname" = String, Path, example = "acme"), ("membername" = String, Path, example = "ann")), responses((status = 200, body = Member), Failures))]
pub(super) async fn member(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((name, member)): At<(String, String)>,
) -> Result<Json<Member>, ApiError> {
    let organization = inspected(&origin, &who, &name).await?;
    let members = origin.meta.members(organization.id).await?;
    let found = members.into_iter().find(|(account, _)| account.name == member);
    Ok(Json(member_view(found.ok_or(ApiError::NotFound("member"))?)))
}

/// Take somebody out of all teams, and what they were given in repositories.
#[utoipa::path(delete, path = "/api/v1/organization/{orgname}/members/{membername}", operation_id = "removeOrganizationMember", tag = "organization",
    params(("orgname" = String, Path, example = "acme"), ("membername" = String, Path, example = "ann")), responses((status = 204), Failures))]
pub(super) async fn remove_member(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((name, member)): At<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let organization = origin.administrated(&who, &name).await?;
    let account = origin.meta.account(&member).await?.ok_or(ApiError::NotFound("member"))?;
    let change = origin.meta.change().await?;
    let had_admins = change.hold_admins(organization.id).await?;
    let member_of = change.remove_from_organization(organization.id, account.id).await?;
    let given = change.revoke_in_namespace(organization.id, account.id).await?;
    if !member_of && !given {
        return Err(ApiError::NotFound("member"));
    }
    keeps_admins(&change, had_admins, organization.id).await?;
    who.done(change, Action::in_namespace("org_remove_team_member", &name, json!({ "member": member }))).await?;
    Ok(StatusCode::NO_CONTENT)
}
