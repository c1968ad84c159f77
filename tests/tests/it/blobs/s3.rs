//! The suite on S3, and what is S3's own: keys, faults and their names, large copies, a store that goes away.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_registry::store::{BlobStore, Proof, S3, S3Settings, StoreError, UploadId};
use pierhead_tests::image::noise;
use pierhead_tests::s3::S3Server;
use pierhead_tests::server::{Server, certificate};

use super::conformance::{Subject, all, read};

const PART: usize = 5 << 20;

struct InProcess(S3Server);

impl Subject for InProcess {
    const PART: usize = PART;
    const PRESIGNS: bool = true;

    async fn instance(&self) -> Arc<dyn BlobStore> {
        open(self.0.settings()).await
    }
}

async fn open(settings: S3Settings) -> Arc<dyn BlobStore> {
    Arc::new(S3::open(settings).await.unwrap())
}

/// Bytes, and the digest of them.
fn content(seed: u64, size: usize) -> (Bytes, Digest) {
    let bytes = Bytes::from(noise(seed, size));
    (bytes.clone(), Digest::of(Algorithm::Sha256, &bytes))
}

async fn push(store: &dyn BlobStore, bytes: &Bytes, digest: &Digest) -> Result<(), StoreError> {
    let mut upload = store.begin(&UploadId::random()).await?;
    upload.write(bytes.clone()).await?;
    upload.commit(digest, Proof::Hashed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() {
    all(&InProcess(S3Server::start().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_lie_where_quay_puts_them() {
    let server = S3Server::start().await;
    for prefix in ["", "datastorage/registry", "with space/and+ü"] {
        let store = open(S3Settings { prefix: prefix.to_owned(), ..server.settings() }).await;
        for size in [10, PART + 10] {
            let (bytes, digest) = content(1, size);
            push(&*store, &bytes, &digest).await.unwrap();
            let hex = digest.hex();
            let start = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
            let key = format!("{start}sha256/{}/{hex}", &hex[..2]);
            assert!(server.keys().contains(&key), "{key}: {:?}", server.keys());
            store.delete(&digest).await.unwrap();
        }
        assert_eq!(server.keys(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_one_copy_is_copied_in_parts() {
    let server = S3Server::start().await;
    let store = open(S3Settings { largest_copy: PART as u64, ..server.settings() }).await;
    let (bytes, digest) = content(2, 3 * PART + 17);
    push(&*store, &bytes, &digest).await.unwrap();
    assert!(read(&*store, &digest, 0..bytes.len() as u64).await.unwrap() == bytes);
    assert_eq!((server.keys().len(), server.uploads()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_has_its_name() {
    let server = S3Server::start().await;
    let (bytes, digest) = content(3, 100);
    let wrong_key = Some(("AKIDPIERHEAD".to_owned(), "another secret".to_owned()));
    let nobody = Some(("NOBODY".to_owned(), "no secret".to_owned()));
    for settings in [
        S3Settings { bucket: "not-there".to_owned(), ..server.settings() },
        S3Settings { credentials: wrong_key, ..server.settings() },
        S3Settings { credentials: nobody, ..server.settings() },
    ] {
        let store = open(settings.clone()).await;
        for failed in [
            store.stat(&digest).await.map(drop),
            store.open(&digest, 0..1).await.map(drop),
            push(&*store, &bytes, &digest).await,
            store.verify().await,
            store.sweep(SystemTime::now()).await.map(drop),
        ] {
            assert!(matches!(failed, Err(StoreError::Refused(_))), "{settings:?}: {failed:?}");
            let text = failed.unwrap_err().to_string();
            assert!(!text.contains("secret"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_behind_tls_is_known_by_its_authority() {
    let server = S3Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key, authority) = certificate(dir.path(), &["localhost"]);
    let nginx = Server::nginx(
        1,
        &format!(
            "server {{ listen 127.0.0.1:@PORT@ ssl; ssl_certificate {}; ssl_certificate_key {}; client_max_body_size 0;\n\
             location / {{ proxy_pass http://{}; proxy_set_header Host $http_host; proxy_request_buffering off; }} }}",
            certificate.display(),
            key.display(),
            server.address
        ),
    )
    .await;
    let endpoint = format!("https://localhost:{}", nginx.address().port()).parse().unwrap();
    let settings = S3Settings { endpoint: Some(endpoint), ..server.settings() };
    let (bytes, digest) = content(8, 2 * PART + 10);
    let unknown = open(settings.clone()).await.verify().await;
    assert!(matches!(&unknown, Err(StoreError::Unavailable(reason)) if reason.contains("ertificate")), "{unknown:?}");
    let store = open(S3Settings { ca: Some(authority.into_bytes()), ..settings }).await;
    store.verify().await.unwrap();
    push(&*store, &bytes, &digest).await.unwrap();
    assert!(read(&*store, &digest, 0..bytes.len() as u64).await.unwrap() == bytes);
}

#[tokio::test]
async fn buckets_are_named_in_the_path_or_in_the_host() {
    let (_, digest) = content(9, 10);
    let endpoint = Some("https://s3.example.com:7480".parse().unwrap());
    let settings = S3Settings { endpoint, bucket: "blobs".to_owned(), ca: None, ..S3Settings::default() };
    let settings = S3Settings { credentials: Some(("key".to_owned(), "secret".to_owned())), ..settings };
    for (path_style, start) in
        [(true, "https://s3.example.com:7480/blobs/sha256/"), (false, "https://blobs.s3.example.com:7480/sha256/")]
    {
        let store = open(S3Settings { path_style, ..settings.clone() }).await;
        let url = store.presign(&digest, Duration::from_secs(60)).await.unwrap().unwrap();
        assert!(url.as_str().starts_with(start), "{url}");
    }
    let aws = S3Settings { endpoint: None, path_style: false, region: "eu-central-1".to_owned(), ..settings };
    let url = open(aws).await.presign(&digest, Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(url.host_str(), Some("blobs.s3.eu-central-1.amazonaws.com"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_unavailable_at_once_and_nothing_is_lost() {
    let mut server = S3Server::start().await;
    let store = open(server.settings()).await;
    let (bytes, digest) = content(4, 2 * PART + 100);
    push(&*store, &bytes, &digest).await.unwrap();
    let (pushed, next) = content(5, 3 * PART + 100);
    let id = UploadId::random();
    let mut upload = store.begin(&id).await.unwrap();
    upload.write(pushed.slice(..PART + 5)).await.unwrap();
    let checkpoint = upload.checkpoint().await.unwrap();
    server.stop().await;
    let began = Instant::now();
    let written = match upload.write(pushed.slice(PART + 5..)).await {
        Ok(()) => upload.checkpoint().await.map(drop),
        Err(error) => Err(error),
    };
    for failed in [
        written,
        upload.checkpoint().await.map(drop),
        store.stat(&digest).await.map(drop),
        store.open(&digest, 0..1).await.map(drop),
        store.verify().await,
    ] {
        assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    server.start_again().await;
    store.verify().await.unwrap();
    assert!(read(&*store, &digest, 0..bytes.len() as u64).await.unwrap() == bytes);
    let mut upload = store.resume(&id, &checkpoint).await.unwrap();
    upload.write(pushed.slice(PART + 5..)).await.unwrap();
    upload.commit(&next, Proof::Hashed).await.unwrap();
    assert!(read(&*store, &next, 0..pushed.len() as u64).await.unwrap() == pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_ended_between_assembly_and_copy_can_be_made_again() {
    let server = S3Server::start().await;
    let store = open(server.settings()).await;
    let (bytes, digest) = content(6, 2 * PART + 100);
    let id = UploadId::random();
    let mut upload = store.begin(&id).await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    let checkpoint = upload.checkpoint().await.unwrap();
    // What ends it there is bytes of another digest: they are read back after they were assembled.
    let other = Digest::of(Algorithm::Sha512, b"other");
    let failed = upload.commit(&other, Proof::ReadBack).await;
    assert!(matches!(failed, Err(StoreError::Mismatch)), "{failed:?}");
    assert_eq!(server.uploads(), 0);
    let again = store.resume(&id, &checkpoint).await.unwrap();
    again.commit(&digest, Proof::Hashed).await.unwrap();
    assert!(read(&*store, &digest, 0..bytes.len() as u64).await.unwrap() == bytes);
    assert_eq!(server.keys().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_a_crash_left_is_swept() {
    let server = S3Server::start().await;
    // No copy in one go, and no second part: a driver that stops in the middle of copying.
    let store = open(S3Settings { largest_copy: PART as u64, ..server.settings() }).await;
    let (bytes, digest) = content(7, 4 * PART);
    let mut upload = store.begin(&UploadId::random()).await.unwrap();
    upload.write(bytes).await.unwrap();
    // Dropped as soon as the copy has begun: that is when there is a second upload.
    let commit = upload.commit(&digest, Proof::Hashed);
    let begun = async {
        while !server.keys().iter().any(|key| key.ends_with(".copy")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = begun => {}
        done = commit => done.unwrap(),
    }
    assert_eq!(store.stat(&digest).await.unwrap(), None, "the copy was faster");
    let later = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!((server.keys().len(), server.uploads()), (2, 1), "the assembled object, the note, and the copy");
    assert_eq!(store.sweep(later).await.unwrap(), 1, "they go together");
    assert_eq!((server.keys(), server.uploads()), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_quay_uploads_to_the_same_bucket_is_left_alone() {
    let server = S3Server::start().await;
    let store = open(server.settings()).await;
    let upload = format!("datastorage/registry/uploads/{}", UploadId::random().as_str());
    let chunk = format!("{upload}_chunk");
    // By a process that died some time ago.
    for key in ["datastorage/registry/sha256/aa/aa", &upload] {
        server.upload_of_another(key);
    }
    server.object_of_another(&chunk);
    let later = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(store.sweep(later).await.unwrap(), 0);
    assert_eq!((server.keys(), server.uploads()), (vec![chunk], 2));
}
