//! Lists and their pages: referrers, tags, the catalog.

use std::collections::BTreeSet;

use bytes::Bytes;
use pierhead_registry::oci::Digest;
use pierhead_registry::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use pierhead_tests::image::{Blob, Image, Manifest};
use serde_json::json;

use super::{REPOSITORY, code, json_of, origin, push_image, send};

#[tokio::test]
async fn referrers_are_listed_filtered_and_paged() {
    let (_origin, client) = origin().await;
    let image = Image::new(1, &[1000]);
    push_image(&client, REPOSITORY, "latest", &image).await;
    let empty = Blob::new(&b"{}"[..]);
    client.push_blob(REPOSITORY, &empty.digest, empty.bytes.clone()).await;
    let referrer = |subject: &Digest, kind: &str, number: usize| {
        Manifest::new(
            OCI_MANIFEST,
            &json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
                "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.digest.to_string(), "size": 2 },
                "layers": [], "subject": { "mediaType": OCI_MANIFEST, "digest": subject.to_string(), "size": 1 },
                "annotations": { "number": number.to_string() },
            }),
        )
    };
    // What is about something need not wait for it.
    let missing = Blob::random(7, 7).digest;
    for (subject, kind, count) in [
        (image.digest(), "application/signature", 300),
        (image.digest(), "application/sbom", 1),
        (missing, "application/signature", 1),
    ] {
        for number in 0..count {
            let manifest = referrer(&subject, kind, number);
            let path = format!("/v2/{REPOSITORY}/manifests/{}", manifest.blob.digest);
            let made = send(&client, "PUT", &path, &[("content-type", OCI_MANIFEST)], manifest.blob.bytes).await;
            assert_eq!((made.status, made.header("oci-subject")), (201, subject.to_string().as_str()));
        }
    }
    let list = async |path: String| {
        let (mut path, mut found) = (path, Vec::new());
        loop {
            let page = client.get(&path).await;
            assert_eq!((page.status, page.header("content-type")), (200, OCI_INDEX));
            let body = json_of(&page);
            assert_eq!(body["schemaVersion"], 2);
            found.extend(body["manifests"].as_array().unwrap().clone());
            let link = page.header("link");
            let Some(next) = link.strip_prefix('<').and_then(|link| link.split_once('>')) else {
                return (found, page);
            };
            path = next.0.to_owned();
        }
    };
    let (all, _) = list(format!("/v2/{REPOSITORY}/referrers/{}", image.digest())).await;
    assert_eq!(all.len(), 301);
    let signatures = all.iter().filter(|entry| entry["artifactType"] == "application/signature");
    let numbers: BTreeSet<usize> =
        signatures.map(|entry| entry["annotations"]["number"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..300).collect());
    // Most clients read one page only: all of it is on the first.
    let first = client.get(&format!("/v2/{REPOSITORY}/referrers/{}", image.digest())).await;
    assert_eq!((json_of(&first)["manifests"].as_array().unwrap().len(), first.header("link")), (301, ""));
    // A page goes on after any digest, there or not, and after nothing else: no number of a row.
    let third = all[2]["digest"].as_str().unwrap();
    let rest = client.get(&format!("/v2/{REPOSITORY}/referrers/{}?last={third}", image.digest())).await;
    assert_eq!(json_of(&rest)["manifests"].as_array().unwrap(), &all[3..]);
    for last in ["7", "abc", "sha256:0", ""] {
        let refused = client.get(&format!("/v2/{REPOSITORY}/referrers/{}?last={last}", image.digest())).await;
        assert_eq!((refused.status, code(&refused).as_str()), (400, "PAGINATION_NUMBER_INVALID"), "{last}");
    }
    let (in_other_letters, _) =
        list(format!("/v2/{REPOSITORY}/referrers/{}?artifactType=Application/SBOM", image.digest())).await;
    assert_eq!(in_other_letters.len(), 1);
    let (filtered, page) =
        list(format!("/v2/{REPOSITORY}/referrers/{}?artifactType=application/sbom", image.digest())).await;
    assert_eq!((filtered.len(), page.header("oci-filters-applied")), (1, "artifactType"));
    assert_eq!(list(format!("/v2/{REPOSITORY}/referrers/{missing}")).await.0.len(), 1);
    assert_eq!(list(format!("/v2/{REPOSITORY}/referrers/{}", Blob::random(8, 8).digest)).await.0.len(), 0);
    // A repository that nobody has pushed to yet holds nothing about anything.
    let path = format!("/v2/org/other/referrers/{missing}");
    let none = client.get(&path).await;
    assert_eq!((none.status, none.header("content-type")), (200, OCI_INDEX));
    assert_eq!(json_of(&none), json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }));
    assert_eq!(client.head(&path).await.status, 200);
    let filtered = client.get(&format!("{path}?artifactType=application/sbom")).await;
    assert_eq!((filtered.status, filtered.header("oci-filters-applied")), (200, "artifactType"));
    assert_eq!(client.get("/v2/org/other/tags/list").await.status, 404);
}

#[tokio::test]
async fn lists_go_on_where_they_ended() {
    let (_origin, client) = origin().await;
    let manifest = Bytes::from_static(b"{}");
    for tag in ["b", "a", "C", "_d", "a.1", "a-1"] {
        client.push_manifest(REPOSITORY, tag, "application/x.y", manifest.clone()).await;
    }
    client.push_manifest("org/other", "a", "application/x.y", manifest).await;
    let sorted = ["C", "_d", "a", "a-1", "a.1", "b"];
    let all = json_of(&client.get(&format!("/v2/{REPOSITORY}/tags/list")).await);
    assert_eq!(all, json!({ "name": REPOSITORY, "tags": sorted }));
    let (mut path, mut found) = (format!("/v2/{REPOSITORY}/tags/list?n=2"), Vec::new());
    loop {
        let page = client.get(&path).await;
        let tags = json_of(&page)["tags"].as_array().unwrap().clone();
        assert!(tags.len() <= 2);
        found.extend(tags);
        let Some(next) = page.header("link").strip_prefix('<').and_then(|link| link.split_once('>')) else { break };
        assert_eq!(next.1, "; rel=\"next\"");
        path = next.0.to_owned();
    }
    assert_eq!(found, sorted);
    assert_eq!(json_of(&client.get(&format!("/v2/{REPOSITORY}/tags/list?n=0")).await)["tags"], json!([]));
    assert_eq!(json_of(&client.get(&format!("/v2/{REPOSITORY}/tags/list?last=a.1")).await)["tags"], json!(["b"]));
    let refused = client.get(&format!("/v2/{REPOSITORY}/tags/list?n=x")).await;
    assert_eq!((refused.status, code(&refused).as_str()), (400, "PAGINATION_NUMBER_INVALID"));
    for path in [format!("/v2/{REPOSITORY}/tags/list?last=a%00"), "/v2/_catalog?last=%00".to_owned()] {
        let refused = client.get(&path).await;
        assert_eq!((refused.status, code(&refused).as_str()), (400, "UNSUPPORTED"), "{path}");
    }
    let first = client.get("/v2/_catalog?n=1").await;
    assert_eq!(json_of(&first), json!({ "repositories": ["org/image"] }));
    assert_eq!(first.header("link"), "</v2/_catalog?n=1&last=org%2Fimage>; rel=\"next\"");
    assert_eq!(json_of(&client.get("/v2/_catalog?last=org/image").await), json!({ "repositories": ["org/other"] }));
    assert_eq!(client.get("/v2/org/nowhere/tags/list").await.status, 401);
}

#[tokio::test]
async fn nobody_learns_from_referrers_which_repositories_there_are() {
    let (origin, client) = origin().await;
    let image = Image::new(1, &[1000]);
    push_image(&client, REPOSITORY, "latest", &image).await;
    // A token for a caller who is not known, which grants nothing in what is private and nothing in what is not there.
    let scopes = "scope=repository:org/image:pull&scope=repository:org/nowhere:pull";
    let issued = json_of(&origin.client().get(&format!("/v2/auth?{scopes}")).await);
    let anonymous = origin.client().bearer(issued["token"].as_str().unwrap().to_owned());
    for client in [origin.client(), anonymous] {
        let mut answers = Vec::new();
        for repository in ["org/image", "org/nowhere"] {
            let refused = client.get(&format!("/v2/{repository}/referrers/{}", image.digest())).await;
            answers.push((refused.status, refused.header("www-authenticate").replace(repository, "*"), refused.body));
        }
        assert_eq!(answers[0].0, 401);
        assert_eq!(answers[0], answers[1]);
    }
}

/// Pages end where four megabytes are full, and together have all of it once.
#[tokio::test]
async fn heavy_referrers_with_much_to_say_take_several_pages() {
    let (_origin, client) = origin().await;
    let empty = Blob::new(&b"{}"[..]);
    client.push_blob(REPOSITORY, &empty.digest, empty.bytes.clone()).await;
    let subject = Blob::random(7, 7).digest;
    const COUNT: usize = 12;
    for number in 0..COUNT {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/large",
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.digest.to_string(), "size": 2 },
            "layers": [], "subject": { "mediaType": OCI_MANIFEST, "digest": subject.to_string(), "size": 7 },
            "annotations": { "number": number.to_string(), "text": "x".repeat(900_000) },
        });
        client.push_manifest(REPOSITORY, &format!("v{number}"), OCI_MANIFEST, manifest.to_string().into()).await;
    }
    let (mut path, mut pages, mut numbers) =
        (format!("/v2/{REPOSITORY}/referrers/{subject}?artifactType=application/large"), 0, BTreeSet::new());
    loop {
        let page = client.get(&path).await;
        assert!(page.body.len() <= 4 * 1024 * 1024, "{}", page.body.len());
        pages += 1;
        for entry in json_of(&page)["manifests"].as_array().unwrap() {
            assert!(numbers.insert(entry["annotations"]["number"].as_str().unwrap().to_owned()), "{entry:.80}");
        }
        let link = page.header("link");
        let Some((next, _)) = link.strip_prefix('<').and_then(|link| link.split_once('>')) else { break };
        assert!(next.contains("artifactType=application%2Flarge&last=sha256%3A"), "{next}");
        path = next.to_owned();
    }
    assert_eq!((numbers.len(), pages), (COUNT, 3));
}
