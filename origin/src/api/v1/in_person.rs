//! What the token of an application is not enough for: pure.
//!
//! Such a token may be lost without anybody's noticing, and is taken away when somebody does. It must leave nothing behind then, so it
//! changes repositories and tags, and nothing of who there is, who is in what, and who may do what. An operation that is not named here
//! is for people.

use http::Method;

/// What changes something, and may be done by an application.
const BY_APPLICATION: [(Method, &str); 10] = [
    (Method::POST, "/api/v1/repository"),
    (Method::PUT, "/api/v1/repository/{namespace}/{repository}"),
    (Method::DELETE, "/api/v1/repository/{namespace}/{repository}"),
    (Method::POST, "/api/v1/repository/{namespace}/{repository}/changevisibility"),
    (Method::PUT, "/api/v1/repository/{namespace}/{repository}/changestate"),
    (Method::PUT, "/api/v1/repository/{namespace}/{repository}/tag/{tag}"),
    (Method::DELETE, "/api/v1/repository/{namespace}/{repository}/tag/{tag}"),
    (Method::POST, "/api/v1/repository/{namespace}/{repository}/tag/{tag}/restore"),
    (Method::POST, "/api/v1/user/starred"),
    (Method::DELETE, "/api/v1/user/starred/{namespace}/{repository}"),
];

/// Whether an operation is for those who logged in themselves.
pub(super) fn is_for_people(method: &Method, path: &str) -> bool {
    !method.is_safe() && !BY_APPLICATION.iter().any(|(known, template)| known == method && *template == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing that changes something is missing: whoever adds an operation decides whether it is for applications.
    #[test]
    fn every_operation_is_decided() {
        let document = serde_json::to_value(super::super::described().into_openapi()).unwrap();
        let (mut people, mut applications) = (Vec::new(), Vec::new());
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
                let id = operation["operationId"].as_str().unwrap().to_owned();
                match is_for_people(&method, path) {
                    true => people.push(id),
                    false if !method.is_safe() => applications.push(id),
                    false => {}
                }
            }
        }
        people.sort();
        applications.sort();
        assert_eq!(people, PEOPLE);
        assert_eq!(applications, APPLICATIONS);
    }

    const PEOPLE: [&str; 28] = [
        "changeInstallUser",
        "changeOrganizationDetails",
        "changeTeamPermissions",
        "changeUserDetails",
        "changeUserPermissions",
        "createAppToken",
        "createInstallUser",
        "createOrgRobot",
        "createOrganization",
        "createOrganizationPrototypePermission",
        "createUserRobot",
        "deleteAdminedOrganization",
        "deleteInstallUser",
        "deleteOrgRobot",
        "deleteOrganization",
        "deleteOrganizationPrototypePermission",
        "deleteOrganizationTeam",
        "deleteOrganizationTeamMember",
        "deleteTeamPermissions",
        "deleteUserPermissions",
        "deleteUserRobot",
        "regenerateOrgRobotToken",
        "regenerateUserRobotToken",
        "removeOrganizationMember",
        "revokeAppToken",
        "updateOrganizationPrototypePermission",
        "updateOrganizationTeam",
        "updateOrganizationTeamMember",
    ];
    const APPLICATIONS: [&str; 10] = [
        "changeRepoState",
        "changeRepoVisibility",
        "changeTag",
        "createRepo",
        "createStar",
        "deleteFullTag",
        "deleteRepository",
        "deleteStar",
        "restoreTag",
        "updateRepo",
    ];
}
