//! What repositories look like in the API: Quay's shapes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::page::flag;
use crate::meta::{RepositoryState, Visibility};

/// Who may pull without a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::api::v1) enum VisibilityName {
    /// Everybody.
    Public,
    /// Nobody.
    Private,
}

impl From<VisibilityName> for Visibility {
    fn from(name: VisibilityName) -> Visibility {
        match name {
            VisibilityName::Public => Visibility::Public,
            VisibilityName::Private => Visibility::Private,
        }
    }
}

/// Whether a repository takes pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in crate::api::v1) enum StateName {
    /// Yes.
    Normal,
    /// No.
    ReadOnly,
}

impl StateName {
    pub(super) fn of(state: RepositoryState) -> StateName {
        match state {
            RepositoryState::Normal => StateName::Normal,
            // What is deleted is shown nowhere.
            RepositoryState::ReadOnly | RepositoryState::Deleted => StateName::ReadOnly,
        }
    }
}

/// What something holds, in Quay's shape.
#[derive(Serialize, ToSchema)]
pub(in crate::api::v1) struct Usage {
    /// Blobs that are there several times are counted once.
    pub(super) quota_bytes: i64,
    /// There is no limit here.
    pub(super) configured_quota: Option<i64>,
}

impl Usage {
    pub(in crate::api::v1) fn of(bytes: i64) -> Usage {
        Usage { quota_bytes: bytes, configured_quota: None }
    }
}

/// A repository that is to be.
#[derive(Deserialize, ToSchema)]
pub(in crate::api::v1) struct NewRepository {
    /// Its name in the namespace.
    #[schema(example = "app")]
    pub(super) repository: String,
    /// A user or organisation; the caller's own when absent.
    #[schema(example = "acme")]
    pub(super) namespace: Option<String>,
    pub(super) visibility: VisibilityName,
    pub(super) description: String,
    /// `image`: there is nothing else here.
    pub(super) repo_kind: Option<KindName>,
}

/// What a repository is for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::api::v1) enum KindName {
    /// Anything that is pushed.
    Image,
}

/// A repository that was made.
#[derive(Serialize, ToSchema)]
pub(in crate::api::v1) struct Made {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) kind: KindName,
}

/// That something was done.
#[derive(Serialize, ToSchema)]
pub(in crate::api::v1) struct Success {
    pub(super) success: bool,
}

/// Which repositories to list. One of `namespace`, `public` and `starred` is there.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api::v1) struct RepositoryQuery {
    /// Of this user or organisation.
    #[param(example = "acme")]
    pub(super) namespace: Option<String>,
    /// Those too that everybody sees.
    #[serde(default, deserialize_with = "flag")]
    pub(super) public: bool,
    /// Those that the caller starred.
    #[serde(default, deserialize_with = "flag")]
    pub(super) starred: bool,
    /// With the time of the last change of a tag.
    #[serde(default, deserialize_with = "flag")]
    pub(super) last_modified: bool,
    /// Where to go on.
    pub(super) next_page: Option<String>,
}

/// Repositories by name.
#[derive(Serialize, ToSchema)]
pub(in crate::api::v1) struct RepositoryList {
    pub(super) repositories: Vec<Listed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_page: Option<String>,
}

/// A repository in a list.
#[derive(Serialize, ToSchema)]
pub(in crate::api::v1) struct Listed {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) is_public: bool,
    pub(super) kind: KindName,
    pub(super) state: StateName,
    pub(super) is_starred: bool,
    pub(super) quota_report: Usage,
    /// Seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_modified: Option<i64>,
}

/// What to show of a repository.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api::v1) struct ShowQuery {
    /// Its tags too: the newest 500.
    #[serde(default = "yes", deserialize_with = "flag", rename = "includeTags")]
    pub(super) include_tags: bool,
}

pub(super) fn yes() -> bool {
    true
}

/// A repository.
#[derive(Serialize, ToSchema)]
pub(in crate::api::v1) struct RepositoryView {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) kind: KindName,
    pub(super) description: String,
    pub(super) is_public: bool,
    pub(super) is_organization: bool,
    pub(super) is_starred: bool,
    pub(super) tag_expiration_s: u64,
    pub(super) state: StateName,
    pub(super) can_write: bool,
    pub(super) can_admin: bool,
    pub(super) quota_report: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tags: Option<BTreeMap<String, TagBrief>>,
}

/// A tag as a repository shows it.
#[derive(Serialize, ToSchema)]
pub(in crate::api::v1) struct TagBrief {
    pub(super) name: String,
    pub(super) size: i64,
    pub(super) last_modified: String,
    pub(super) manifest_digest: String,
    /// When it expires, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expiration: Option<String>,
}

/// What changes of a repository.
#[derive(Deserialize, ToSchema)]
pub(in crate::api::v1) struct DescriptionEdit {
    pub(super) description: String,
}

/// Who may pull from now on.
#[derive(Deserialize, ToSchema)]
pub(in crate::api::v1) struct VisibilityEdit {
    pub(super) visibility: VisibilityName,
}

/// Whether it takes pushes from now on.
#[derive(Deserialize, ToSchema)]
pub(in crate::api::v1) struct StateEdit {
    pub(super) state: StateName,
}
