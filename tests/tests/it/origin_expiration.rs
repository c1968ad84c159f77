//! Tags of the origin that expire: because their image says so, or because somebody did.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pierhead_tests::eventually;
use pierhead_tests::image::{Blob, Format, Image, Index, Manifest};
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::postgres::Postgres;
use pierhead_tests::pull::Client;
use serde_json::{Value, json};

use super::origin_acme::{Caller, PASSWORD, acme, caller, origin_on};

const TAG: &str = "/repository/acme/app/tag/nightly";
const DAY: i64 = 24 * 3600;

/// An image whose configuration has the label.
fn labelled(format: Format, seed: u64, label: &str) -> Image {
    let image = Image::of(format, "amd64", seed, &[1_000]);
    let mut config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
    config["config"]["Labels"] = json!({ "quay.expires-after": label });
    let config = Blob::new(serde_json::to_vec(&config).unwrap());
    let mut manifest: Value = serde_json::from_slice(&image.manifest.blob.bytes).unwrap();
    manifest["config"]["digest"] = json!(config.digest.to_string());
    manifest["config"]["size"] = json!(config.bytes.len());
    let manifest = Manifest::new(&image.manifest.media_type, &manifest);
    Image { manifest, config, layers: image.layers }
}

async fn put(client: &Client, manifest: &Manifest) {
    client.push_manifest("acme/app", "nightly", &manifest.media_type, manifest.blob.bytes.clone()).await;
}

async fn push(client: &Client, image: &Image) {
    for blob in image.blobs() {
        client.push_blob("acme/app", &blob.digest, blob.bytes.clone()).await;
    }
    put(client, &image.manifest).await;
}

fn seconds() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// In how many days the tag ends, as it is now.
async fn ends(who: &Caller) -> Option<i64> {
    let tags = who.see("/repository/acme/app/tag?onlyActiveTags=true&specificTag=nightly").await;
    let tag = &tags["tags"][0];
    assert_eq!(tag["name"], "nightly", "{tags}");
    assert_eq!(tag["end_ts"].is_null(), tag["expiration"].is_null(), "{tags}");
    assert_eq!(who.see("/repository/acme/app").await["tags"]["nightly"]["expiration"], tag["expiration"], "{tags}");
    let left = tag["end_ts"].as_i64()? - seconds();
    assert!((left + 60) % DAY <= 60, "{tags}");
    Some((left + 60) / DAY)
}

async fn expire(origin: &Origin) {
    let ann = acme(origin).await;
    let client = origin.login("ann", PASSWORD, &["repository:acme/app:pull,push"]).await;
    for (format, label, expected) in [
        (Format::Oci, "2w", Some(14)),
        (Format::Docker, "3d", Some(3)),
        (Format::Oci, "someday", None),
        (Format::Oci, "1000w", Some(104 * 7)),
    ] {
        push(&client, &labelled(format, 1, label)).await;
        assert_eq!(ends(&ann).await, expected, "{label}");
    }
    // An index has no configuration, but annotations.
    let index = Index::new(Format::Oci, 5, 1_000);
    for image in &index.images {
        push(&client, image).await;
        assert_eq!(ends(&ann).await, None);
    }
    let mut body: Value = serde_json::from_slice(&index.manifest.blob.bytes).unwrap();
    body["annotations"] = json!({ "quay.expires-after": "1d" });
    put(&client, &Manifest::new(&index.manifest.media_type, &body)).await;
    assert_eq!(ends(&ann).await, Some(1));

    // What somebody says holds until it is pushed again.
    let image = labelled(Format::Oci, 1, "2w");
    push(&client, &image).await;
    assert_eq!(ann.put(TAG, json!({ "expiration": seconds() + 7 * DAY })).await.0, 201);
    assert_eq!(ends(&ann).await, Some(7));
    assert_eq!(ann.put(TAG, json!({ "expiration": null })).await.0, 201);
    assert_eq!(ends(&ann).await, None);
    push(&client, &image).await;
    assert_eq!(ends(&ann).await, Some(14));
    for (who, path, body, expected) in [
        (&ann, TAG, json!({ "expiration": seconds() - 1 }), 400),
        (&ann, TAG, json!({ "expiration": "tomorrow" }), 400),
        (&ann, TAG, json!({}), 400),
        (&ann, "/repository/acme/app/tag/absent", json!({ "expiration": null }), 404),
        (&caller(origin, "eve"), TAG, json!({ "expiration": null }), 403),
    ] {
        assert_eq!(who.put(path, body.clone()).await.0, expected, "{body}");
    }
    let logs = ann.see("/repository/acme/app/logs").await;
    let line = logs["logs"].as_array().unwrap().iter().find(|line| line["kind"] == "change_tag_expiration").unwrap();
    assert_eq!(line["metadata"]["expiration_date"], Value::Null);
    assert!(line["metadata"]["old_expiration_date"].is_string(), "{line}");

    // From that moment on it is gone, and its manifest is not.
    let other = Image::new(9, &[1_000]);
    for blob in other.blobs() {
        client.push_blob("acme/app", &blob.digest, blob.bytes.clone()).await;
    }
    client.push_manifest("acme/app", "stays", &other.manifest.media_type, other.manifest.blob.bytes.clone()).await;
    let at = seconds() + 2;
    assert_eq!(ann.put(TAG, json!({ "expiration": at })).await.0, 201);
    eventually("the tag expires", Duration::from_secs(20), async || {
        client.manifest("acme/app", "nightly").await.is_err().then_some(())
    })
    .await;
    assert!(seconds() >= at);
    assert!(client.manifest("acme/app", &image.digest().to_string()).await.is_ok());
    let tags: Value = serde_json::from_slice(&client.get("/v2/acme/app/tags/list").await.body).unwrap();
    assert_eq!(tags["tags"], json!(["stays"]));
    assert_eq!(ann.put(TAG, json!({ "expiration": null })).await.0, 404);
    assert_eq!(ann.delete(TAG).await, 404);
    for (arguments, expected) in [(&["gc", "--dry-run"][..], 1), (&["gc"], 1), (&["gc"], 0)] {
        let told = origin.setup().command(arguments).await.expect_success().stdout;
        assert!(told.contains(&format!(" {expected} expired tags")), "{arguments:?}: {told}");
    }
    let history = ann.see("/repository/acme/app/tag?specificTag=nightly").await;
    assert_eq!(history["tags"][0]["end_ts"], at, "{history}");
    let back = json!({ "manifest_digest": image.digest().to_string() });
    assert_eq!(ann.post(&format!("{TAG}/restore"), back).await.0, 200);
    assert_eq!(ends(&ann).await, None);
    client.pull("acme/app", "nightly").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_expire_and_can_be_brought_back() {
    expire(&origin_on(Setup::new(), &["ann", "bob", "eve"]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_expire_on_postgresql_too() {
    let postgres = Postgres::start().await;
    expire(&origin_on(Setup::new().database(postgres.section()), &["ann", "bob", "eve"]).await).await;
}
