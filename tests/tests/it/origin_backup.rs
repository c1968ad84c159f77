//! Backups of the origin: made beside a running registry, restored to a new one, and pulled from there.

use std::path::Path;

use pierhead_tests::image::{Format, Image};
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::postgres::Postgres;
use pierhead_tests::pull::{Client, reply};
use pierhead_tests::s3::S3Server;
use reqwest::Method;
use serde_json::{Value, json};

const PASSWORD: &str = "password of org";
const SCOPES: [&str; 1] = ["repository:org/image:pull,push"];

async fn push(client: &Client, tag: &str, image: &Image) {
    for blob in image.blobs() {
        client.push_blob("org/image", &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    client.push_manifest("org/image", tag, &manifest.media_type, manifest.blob.bytes.clone()).await;
}

async fn registry(setup: Setup) -> (Origin, Client) {
    setup.user("org", PASSWORD, &["--superuser"]).await;
    let origin = setup.start().await;
    let client = origin.login("org", PASSWORD, &SCOPES).await;
    (origin, client)
}

/// Pushes until the manifest is taken: a collection may be faster than a push on a busy machine.
async fn push_again(client: &Client, tag: &str, image: &Image) {
    for _ in 0..100 {
        for blob in image.blobs() {
            client.push_blob("org/image", &blob.digest, blob.bytes.clone()).await;
        }
        let manifest = &image.manifest;
        let request = client.request(Method::PUT, &format!("/v2/org/image/manifests/{tag}"));
        let request = request.header("content-type", &manifest.media_type).body(manifest.blob.bytes.clone());
        if reply(request).await.unwrap().status == 201 {
            return;
        }
    }
    panic!("100 pushes of {tag} were too slow for the collection");
}

/// Names below a directory that hold bytes.
fn files(directory: &Path) -> Vec<String> {
    let mut folders = vec![directory.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_beside_a_running_registry_is_restored_and_pulled_from() {
    let (origin, client) = registry(Setup::new()).await;
    let [first, second] = [Image::new(1, &[20_000, 300]), Image::new(2, &[10_000])];
    push(&client, "v1", &first).await;
    let directory = origin.dir().join("backups/one");
    let name = directory.to_str().unwrap();
    let made = origin.setup().command(&["backup", name]).await.expect_success().stdout;
    assert!(made.contains("blobs of"), "{made}");
    let mut expected: Vec<String> = first.blobs().map(|blob| blob.digest.hex()).collect();
    expected.sort();
    expected.dedup();
    expected.extend(["backup.json".to_owned(), "meta.db".to_owned()]);
    expected.sort();
    assert_eq!(files(&directory), expected, "one database, one summary and the blobs");
    // What comes later is not in it, and does not change it.
    push(&client, "v2", &second).await;
    let again = origin.setup().command(&["backup", name]).await.expect_failure();
    assert!(again.stderr.contains("is not empty"), "{}", again.stderr);
    let occupied = origin.setup().command(&["restore", name]).await.expect_failure();
    assert!(occupied.stderr.contains("meta.db: is there already"), "{}", occupied.stderr);
    client.pull("org/image", "v2").await.unwrap();

    let other = Setup::new();
    let restored = other.command(&["restore", name, "--json"]).await.expect_success().stdout;
    let restored: Value = serde_json::from_str(&restored).unwrap();
    assert_eq!((&restored["blobs"], &restored["missing"]), (&json!(expected.len() - 2), &json!([])), "{restored}");
    let copy = other.start().await;
    let client = copy.login("org", PASSWORD, &SCOPES).await;
    client.pull("org/image", "v1").await.unwrap();
    assert_eq!(client.get("/v2/org/image/manifests/v2").await.status, 404);
    push(&client, "v2", &second).await;
    client.pull("org/image", "v2").await.unwrap();
    // The new registry writes to files of its own.
    assert_eq!(files(&directory), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_beside_garbage_collection_lack_nothing() {
    let setup = Setup::new()
        .set("/tag_expiration", "0s")
        .set("/garbage_collection", json!({ "interval": "20ms", "blob_grace": "200ms" }));
    let (origin, client) = registry(setup).await;
    push_again(&client, "kept", &Image::new(100, &[5_000])).await;
    for round in 0..5 {
        // Each push takes the tag from the one before, which is garbage from then on.
        let churn = async {
            for image in 0..4 {
                push_again(&client, "moving", &Image::of(Format::Oci, "amd64", round * 10 + image, &[2_000, 3_000]))
                    .await;
            }
        };
        let directory = origin.dir().join(format!("backup-{round}"));
        let arguments = ["backup", directory.to_str().unwrap(), "--json"];
        let (made, ()) = tokio::join!(origin.setup().command(&arguments), churn);
        let made: Value = serde_json::from_str(&made.expect_success().stdout).unwrap();
        assert_eq!(made["summary"]["missing"], json!([]), "{made}");
        let other = Setup::new();
        other.command(&["restore", directory.to_str().unwrap()]).await.expect_success();
        let copy = other.start().await;
        copy.login("org", PASSWORD, &SCOPES).await.pull("org/image", "kept").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backup_lacks_is_named() {
    let (origin, client) = registry(Setup::new()).await;
    let image = Image::new(1, &[20_000]);
    push(&client, "v1", &image).await;
    let lost = &image.layers[0].digest;
    let hex = lost.hex();
    std::fs::remove_file(origin.dir().join("blobs/sha256").join(&hex[..2]).join(&hex)).unwrap();
    let directory = origin.dir().join("backup");
    let name = directory.to_str().unwrap();
    let made = origin.setup().command(&["backup", name]).await.expect_success().stdout;
    assert!(made.contains("1 blobs are missing") && made.contains(&lost.to_string()), "{made}");
    // Without its last file it is no backup, and nothing is made of it.
    let other = Setup::new();
    std::fs::rename(directory.join("backup.json"), directory.join("elsewhere")).unwrap();
    let refused = other.command(&["restore", name]).await.expect_failure();
    assert!(refused.stderr.contains("is not a whole backup"), "{}", refused.stderr);
    assert!(!other.dir.path().join("meta.db").exists());
    std::fs::rename(directory.join("elsewhere"), directory.join("backup.json")).unwrap();
    // A blob of the backup that was cut off is not taken for whole.
    let config = image.config.digest.hex();
    std::fs::write(directory.join("blobs/sha256").join(&config[..2]).join(&config), "x").unwrap();
    let restored = other.command(&["restore", name]).await.expect_success().stdout;
    assert!(restored.contains("2 blobs are missing"), "{restored}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_alone_is_whole_after_a_stop() {
    let (mut origin, client) = registry(Setup::new()).await;
    push(&client, "v1", &Image::new(1, &[1_000])).await;
    origin.stop().await;
    let beside = |suffix: &str| origin.dir().join(format!("meta.db{suffix}"));
    assert!(beside("").exists() && !beside("-wal").exists() && !beside("-shm").exists());
    // A copy of the one file has the account, and the tag.
    let other = Setup::new();
    std::fs::copy(beside(""), other.dir.path().join("meta.db")).unwrap();
    let list = other.command(&["user", "list"]).await.expect_success().stdout;
    assert!(list.contains("org\tenabled\tsuperuser"), "{list}");
    // So is it after a command that nobody runs beside.
    assert!(!other.dir.path().join("meta.db-wal").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_stores_are_told_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("backup").to_str().unwrap().to_owned();
    let postgres = Postgres::start().await;
    let refused = Setup::new().database(postgres.section()).command(&["backup", &name]).await.expect_failure();
    assert!(refused.stderr.contains("pg_dump"), "{}", refused.stderr);
    let server = S3Server::start().await;
    let setup = Setup::new().storage(server.storage());
    setup.user("org", PASSWORD, &[]).await;
    let made = setup.command(&["backup", &name]).await.expect_success().stdout;
    assert!(made.contains("bucket"), "{made}");
    assert_eq!(files(Path::new(&name)), ["backup.json", "meta.db"]);
}
