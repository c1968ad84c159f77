//! Default permissions of organisations, which new repositories begin with. Quay's paths call them prototypes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::error::{ApiError, Failures};
use super::extract::{At, Sent, Who};
use super::page::MOST;
use super::permissions::RoleName;
use super::teams::grantee;
use crate::api::Origin;
use crate::auth::uuid;
use crate::meta::{Account, AccountKind, Action, DefaultPermission, Grantee};

/// A default permission that is to be.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewPrototype {
    role: RoleName,
    /// Only for repositories that this one creates.
    activating_user: Option<Activating>,
    delegate: NewDelegate,
}

/// Who creates repositories.
#[derive(Deserialize, ToSchema)]
pub(super) struct Activating {
    name: String,
}

/// Who is to get the permission.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewDelegate {
    #[schema(example = "owners")]
    name: String,
    kind: DelegateKind,
}

/// What somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum DelegateKind {
    /// A user or robot.
    User,
    /// A team.
    Team,
}

/// Another role.
#[derive(Deserialize, ToSchema)]
pub(super) struct PrototypeEdit {
    role: RoleName,
}

/// An organisation's default permissions.
#[derive(Serialize, ToSchema)]
pub(super) struct PrototypeList {
    prototypes: Vec<Prototype>,
}

/// A default permission.
#[derive(Serialize, ToSchema)]
pub(super) struct Prototype {
    id: String,
    role: RoleName,
    activating_user: Option<Delegate>,
    delegate: Option<Delegate>,
}

/// Somebody.
#[derive(Serialize, ToSchema)]
pub(super) struct Delegate {
    name: String,
    kind: DelegateKind,
    is_robot: bool,
}

impl Delegate {
    fn of(account: &Account) -> Delegate {
        let is_robot = account.kind == AccountKind::Robot;
        Delegate { name: account.name.clone(), kind: DelegateKind::User, is_robot }
    }
}

fn about<'a>(kind: &'static str, organization: &'a Account, prototype: &Prototype) -> Action<'a> {
    let name = |delegate: &Option<Delegate>| delegate.as_ref().map(|delegate| delegate.name.clone());
    let metadata = json!({
        "prototypeid": prototype.id, "role": prototype.role,
        "activating_username": name(&prototype.activating_user), "delegate": name(&prototype.delegate),
        "namespace": organization.name,
    });
    Action::in_namespace(kind, &organization.name, metadata)
}

async fn view(origin: &Origin, organization: &Account, found: DefaultPermission) -> Result<Prototype, ApiError> {
    let activating = match found.activating_id {
        Some(id) => origin.meta.account_by_id(id).await?,
        None => None,
    };
    let delegate = match (found.account_id, found.team_id) {
        (Some(id), _) => origin.meta.account_by_id(id).await?.as_ref().map(Delegate::of),
        (None, Some(id)) => {
            let teams = origin.meta.teams(organization.id).await?;
            let team = teams.into_iter().find(|size| size.team.id == id);
            team.map(|size| Delegate { name: size.team.name, kind: DelegateKind::Team, is_robot: false })
        }
        (None, None) => None,
    };
    Ok(Prototype {
        id: found.uuid,
        role: found.role.into(),
        activating_user: activating.as_ref().map(Delegate::of),
        delegate,
    })
}

/// An organisation's default permissions.
#[utoipa::path(get, path = "/api/v1/organization/{orgname}/prototypes", operation_id = "getOrganizationPrototypePermissions", tag = "prototype",
    params(("orgname" = String, Path, example = "acme")), responses((status = 200, body = PrototypeList), Failures))]
pub(super) async fn list(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(orgname): At<String>,
) -> Result<Json<PrototypeList>, ApiError> {
    let organization = super::organizations::inspected(&origin, &who, &orgname).await?;
    let mut prototypes = Vec::new();
    for found in origin.meta.default_permissions(organization.id, MOST).await? {
        prototypes.push(view(&origin, &organization, found).await?);
    }
    Ok(Json(PrototypeList { prototypes }))
}

/// Make a default permission.
#[utoipa::path(post, path = "/api/v1/organization/{orgname}/prototypes", operation_id = "createOrganizationPrototypePermission", tag = "prototype",
    params(("orgname" = String, Path, example = "acme")), request_body = NewPrototype, responses((status = 200, body = Prototype), Failures))]
pub(super) async fn create(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At(orgname): At<String>,
    Sent(new): Sent<NewPrototype>,
) -> Result<Json<Prototype>, ApiError> {
    let organization = origin.administrated(&who, &orgname).await?;
    let unknown = |_| ApiError::invalid("there is no such user, robot or team");
    let activating = match &new.activating_user {
        Some(user) => Some(grantee(&origin, &organization, &user.name).await.map_err(unknown)?.id),
        None => None,
    };
    let delegate = match new.delegate.kind {
        DelegateKind::User => {
            Grantee::Account(grantee(&origin, &organization, &new.delegate.name).await.map_err(unknown)?.id)
        }
        DelegateKind::Team => {
            let team = origin.meta.team(organization.id, &new.delegate.name).await?;
            Grantee::Team(team.ok_or(ApiError::NotFound("team")).map_err(unknown)?.id)
        }
    };
    let known = origin.meta.default_permissions(organization.id, MOST).await?;
    if known.len() as u64 >= MOST {
        return Err(ApiError::invalid("there are too many default permissions"));
    }
    let change = origin.meta.change().await?;
    let made = change.create_default_permission(uuid(), organization.id, activating, delegate, new.role.into()).await?;
    let metadata = json!({
        "prototypeid": made.uuid, "role": new.role, "delegate": new.delegate.name,
        "activating_username": new.activating_user.map(|user| user.name), "namespace": organization.name,
    });
    let log = Action::in_namespace("create_prototype_permission", &organization.name, metadata);
    who.done(change, log).await?;
    Ok(Json(view(&origin, &organization, made).await?))
}

async fn find(origin: &Origin, organization: &Account, id: &str) -> Result<DefaultPermission, ApiError> {
    origin.meta.default_permission(organization.id, id).await?.ok_or(ApiError::NotFound("prototype"))
}

/// Give a default permission another role.
#[utoipa::path(put, path = "/api/v1/organization/{orgname}/prototypes/{prototypeid}", operation_id = "updateOrganizationPrototypePermission", tag = "prototype",
    params(("orgname" = String, Path, example = "acme"), ("prototypeid" = String, Path)), request_body = PrototypeEdit,
    responses((status = 200, body = Prototype), Failures))]
pub(super) async fn edit(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, id)): At<(String, String)>,
    Sent(sent): Sent<PrototypeEdit>,
) -> Result<Json<Prototype>, ApiError> {
    let organization = origin.administrated(&who, &orgname).await?;
    let found = find(&origin, &organization, &id).await?;
    let edited = DefaultPermission { role: sent.role.into(), ..found };
    let edited = (edited.id, view(&origin, &organization, edited).await?);
    let change = origin.meta.change().await?;
    change.edit_default_permission(edited.0, sent.role.into()).await?;
    let log = about("modify_prototype_permission", &organization, &edited.1);
    who.done(change, log).await?;
    Ok(Json(edited.1))
}

/// Take a default permission away. What repositories got by it stays.
#[utoipa::path(delete, path = "/api/v1/organization/{orgname}/prototypes/{prototypeid}", operation_id = "deleteOrganizationPrototypePermission", tag = "prototype",
    params(("orgname" = String, Path, example = "acme"), ("prototypeid" = String, Path)), responses((status = 204), Failures))]
pub(super) async fn delete(
    State(origin): State<Arc<Origin>>,
    who: Who,
    At((orgname, id)): At<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let organization = origin.administrated(&who, &orgname).await?;
    let found = find(&origin, &organization, &id).await?;
    let row = found.id;
    let gone = view(&origin, &organization, found).await?;
    let change = origin.meta.change().await?;
    change.delete_default_permission(row).await?;
    let log = about("delete_prototype_permission", &organization, &gone);
    who.done(change, log).await?;
    Ok(StatusCode::NO_CONTENT)
}
