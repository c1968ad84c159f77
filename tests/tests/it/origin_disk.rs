//! An origin whose disk is full: what filled it is given back, and what cannot be done says why.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::pull::{Client, Reply, reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::disk::SmallDisk;

const PASSWORD: &str = "password of org";
const MIB: usize = 1 << 20;

async fn send(client: &Client, method: Method, path: &str, body: Vec<u8>) -> Reply {
    reply(client.request(method, path).body(body)).await.unwrap()
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// Where an upload goes on.
async fn begin(client: &Client) -> String {
    let begun = send(client, Method::POST, "/v2/org/image/blobs/uploads/", Vec::new()).await;
    assert_eq!(begun.status, 202, "{}", text(&begun));
    begun.header("location").split_once("/v2/").map(|(_, rest)| format!("/v2/{rest}")).unwrap()
}

/// Sends more than the disk takes. The origin answers before all of it came, and the client may be too busy sending to hear that.
async fn too_large(origin: &Origin, client: &Client, method: Method, path: &str) {
    let sent = reply(client.request(method.clone(), path).body(vec![7; 80 * MIB])).await;
    if let Ok(full) = sent {
        assert_eq!(full.status, 507, "{method}: {}", text(&full));
    }
    let path = path.split('?').next().unwrap();
    let is_line = |line: &Value| line["method"] == method.as_str() && line["path"] == path && line["status"] == 507;
    origin.logged("an upload that is too large", is_line).await;
}

/// Takes all that a disk has left.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [MIB, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

async fn nothing_is_left(uploads: &Path) {
    // The bytes go with the last write that was under way.
    eventually("the upload is given back", Duration::from_secs(10), async || {
        (fs::read_dir(uploads).unwrap().count() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_fills_the_disk_gives_its_bytes_back() {
    let setup = Setup::new();
    let at = setup.dir.path().join("disk");
    let Some(_disk) = SmallDisk::mount(at.clone(), "60m").await else {
        return eprintln!("skipped: mounting a tmpfs is not permitted here");
    };
    let setup = setup
        .storage(json!({ "file_system": { "path": at.join("blobs") } }))
        .database(json!({ "sqlite": at.join("meta.db") }));
    setup.user("org", PASSWORD, &[]).await;
    let mut origin = setup.start().await;
    let client = origin.login("org", PASSWORD, &["repository:org/image:pull,push"]).await;
    let small = Image::new(1, &[15 * MIB]);
    for blob in small.blobs() {
        client.push_blob("org/image", &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &small.manifest;
    client.push_manifest("org/image", "small", &manifest.media_type, manifest.blob.bytes.clone()).await;
    let uploads = at.join("blobs/uploads/pierhead");
    nothing_is_left(&uploads).await;
    let digest = small.layers[0].digest;

    // Bytes that come in a piece, with the end of an upload, and in one request.
    for (method, ends) in [(Method::PATCH, false), (Method::PUT, true)] {
        let path = begin(&client).await;
        let ended = if ends { format!("{path}?digest={digest}") } else { path.clone() };
        too_large(&origin, &client, method, &ended).await;
        nothing_is_left(&uploads).await;
        for method in [Method::GET, Method::PATCH] {
            let gone = send(&client, method, &path, Vec::new()).await;
            assert_eq!(gone.status, 404, "{}", text(&gone));
            assert!(text(&gone).contains("BLOB_UPLOAD_UNKNOWN"), "{}", text(&gone));
        }
    }
    let whole = format!("/v2/org/image/blobs/uploads/?digest={digest}");
    too_large(&origin, &client, Method::POST, &whole).await;
    nothing_is_left(&uploads).await;
    // An upload that fits into what is left, and whose end the database has no room for.
    let path = begin(&client).await;
    assert_eq!(send(&client, Method::PATCH, &path, vec![7; 10 * MIB]).await.status, 202);
    fill(&at.join("filled"));
    let last = send(&client, Method::PUT, &format!("{path}?digest={digest}"), Vec::new()).await;
    assert_eq!(last.status, 507, "{}", text(&last));
    nothing_is_left(&uploads).await;
    fs::remove_file(at.join("filled")).unwrap();

    // There is room for all others.
    let next = Image::new(2, &[15 * MIB]);
    for blob in next.blobs() {
        client.push_blob("org/image", &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &next.manifest;
    client.push_manifest("org/image", "next", &manifest.media_type, manifest.blob.bytes.clone()).await;

    // A database that has no room says so, to clients, to operators, and where the origin starts.
    fill(&at.join("filled"));
    let mark = origin.log().len();
    let begun = send(&client, Method::POST, "/v2/org/image/blobs/uploads/", Vec::new()).await;
    assert_eq!(begun.status, 507, "{}", text(&begun));
    assert!(text(&begun).contains("the disk of the database is full"), "{}", text(&begun));
    let org = origin.client().login("org", PASSWORD);
    let edit = json!({ "description": "words" }).to_string();
    let request = org.request(Method::PUT, "/api/v1/repository/org/image").header("content-type", "application/json");
    let edited = reply(request.body(edit)).await.unwrap();
    assert_eq!(edited.status, 507, "{}", text(&edited));
    assert!(text(&edited).contains("the disk of the database is full"), "{}", text(&edited));
    origin.says(mark, "the disk of the database is full").await;
    origin.stop().await;
    fill(&at.join("filled more"));
    let refused = setup.command(&["serve"]).await.expect_failure();
    let expected = format!("the disk is full: make room in {}", at.display());
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
}
