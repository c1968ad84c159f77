//! What a token of the origin is worth while it lives: a name can come to mean another repository.

use pierhead_registry::oci::Digest;
use pierhead_tests::image::Image;
use pierhead_tests::pull::{Client, reply};
use reqwest::Method;
use serde_json::json;

use super::origin_acme::{PASSWORD, acme, caller, origin_with};

async fn push(client: &Client, repository: &str, image: &Image) {
    for blob in image.blobs() {
        client.push_blob(repository, &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    client.push_manifest(repository, "latest", &manifest.media_type, manifest.blob.bytes.clone()).await;
}

async fn status(client: &Client, method: Method, path: &str) -> u16 {
    reply(client.request(method, path)).await.unwrap().status
}

/// Everything that a token for a repository could be used for.
async fn uses(client: &Client, repository: &str, blob: &Digest) -> Vec<u16> {
    let mut statuses = Vec::new();
    for (method, path) in [
        (Method::GET, "manifests/latest".to_owned()),
        (Method::GET, format!("blobs/{blob}")),
        (Method::GET, "tags/list".to_owned()),
        (Method::GET, format!("referrers/{blob}")),
        (Method::POST, "blobs/uploads/".to_owned()),
        (Method::PUT, "manifests/latest".to_owned()),
        (Method::DELETE, "manifests/absent".to_owned()),
    ] {
        statuses.push(status(client, method, &format!("/v2/{repository}/{path}")).await);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_means_the_repository_that_was_there_and_not_one_that_was_made_later() {
    let origin = origin_with(&["ann", "bob", "eve", "joe"]).await;
    let ann = acme(&origin).await;
    assert_eq!(ann.put("/organization/acme/team/makers/members/joe", json!({})).await.0, 200);
    let image = Image::new(1, &[10_000]);
    let layer = image.layers[0].digest;
    let all = |name: &str| format!("repository:acme/{name}:pull,push,delete");
    let token = async |user: &str, scopes: &[&str]| origin.login(user, PASSWORD, scopes).await;

    // Both may make it, and ask before it is there. One is faster.
    let bob = token("bob", &[&all("new"), "repository:bob/app:push"]).await;
    let joe = token("joe", &[&all("new")]).await;
    let mount = format!("/v2/bob/app/blobs/uploads/?mount={layer}&from=acme/new");
    push(&joe, "acme/new", &image).await;
    assert!(joe.pull("acme/new", "latest").await.is_ok(), "who made it goes on with the same token");
    assert_eq!(uses(&bob, "acme/new", &layer).await, [401; 7]);
    let told = reply(bob.request(Method::GET, "/v2/acme/new/manifests/latest")).await.unwrap();
    assert!(told.header("www-authenticate").contains("insufficient_scope"), "{:?}", told.headers);
    assert_eq!(status(&bob, Method::POST, &mount).await, 202);
    // Once he is given something, the same token says as much.
    let joes = caller(&origin, "joe");
    let given = joes.put("/repository/acme/new/permissions/user/bob", json!({ "role": "read" })).await.0;
    assert_eq!(given, 200);
    assert_eq!(uses(&bob, "acme/new", &layer).await, [200, 200, 200, 200, 401, 401, 401]);

    // Taken away and made anew by another: who had it before has nothing of it.
    let writer = token("bob", &[&all("app")]).await;
    push(&writer, "acme/app", &image).await;
    let reader = token("eve", &["repository:acme/app:pull"]).await;
    let anonymous =
        reply(origin.client().request(Method::GET, "/v2/auth?scope=repository:acme/open:pull")).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&anonymous.body).unwrap();
    let anonymous = origin.client().bearer(answer["token"].as_str().unwrap().to_owned());
    assert!(reader.pull("acme/app", "latest").await.is_ok());
    assert_eq!(status(&anonymous, Method::GET, "/v2/acme/open/tags/list").await, 200);
    for name in ["app", "open"] {
        assert_eq!(ann.delete(&format!("/repository/acme/{name}")).await, 204);
    }
    assert_eq!(status(&writer, Method::GET, "/v2/acme/app/tags/list").await, 404);
    for name in ["app", "open"] {
        push(&token("joe", &[&all(name)]).await, &format!("acme/{name}"), &image).await;
    }
    assert_eq!(uses(&writer, "acme/app", &layer).await, [401; 7]);
    assert_eq!(uses(&reader, "acme/app", &layer).await, [401; 7]);
    assert_eq!(uses(&anonymous, "acme/open", &layer).await, [401; 7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_make_a_repository_at_once_one_has_it() {
    let origin = origin_with(&["ann", "bob", "eve", "joe"]).await;
    let ann = acme(&origin).await;
    assert_eq!(ann.put("/organization/acme/team/makers/members/joe", json!({})).await.0, 200);
    let names: Vec<String> = (0..20).map(|number| format!("acme/race{number}")).collect();
    let scopes: Vec<String> = names.iter().map(|name| format!("repository:{name}:push")).collect();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let [bob, joe] = [origin.login("bob", PASSWORD, &scopes).await, origin.login("joe", PASSWORD, &scopes).await];
    for name in &names {
        let path = format!("/v2/{name}/blobs/uploads/");
        // Each brings two layers at once, as clients do.
        let begin = |who| status(who, Method::POST, &path);
        let (b1, j1, b2, j2) = tokio::join!(begin(&bob), begin(&joe), begin(&bob), begin(&joe));
        let heard = [[b1, b2], [j1, j2]];
        let winners = heard.iter().filter(|both| **both == [202; 2]).count();
        let losers = heard.iter().filter(|both| both.iter().all(|status| [401, 403].contains(status))).count();
        assert_eq!((winners, losers), (1, 1), "{name}: {heard:?}");
    }
}
