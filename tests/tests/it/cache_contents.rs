//! `pierhead ctl cache`: what is in the cache, how much it helps, and what an operator may change of it.

use std::time::Duration;

use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::process::Output;
use pierhead_tests::registry::DockerRegistry;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(30);

async fn cache(edge: &Pierhead, arguments: &[&str]) -> Output {
    edge.ctl(&[&["cache"], arguments].concat()).await
}

async fn json_of(edge: &Pierhead, arguments: &[&str]) -> Value {
    let output = cache(edge, &[arguments, &["--output", "json"]].concat()).await.expect_success();
    serde_json::from_str(&output.stdout).unwrap()
}

/// Two images that share their first layer, and one of their own.
fn images() -> (Image, Image, Image) {
    let (one, two) = (Image::new(1, &[50_000, 60_000]), Image::new(2, &[70_000]));
    let shared = Image::from_layers(
        pierhead_tests::image::Format::Oci,
        "amd64",
        vec![one.layers[0].clone(), two.layers[0].clone()],
    );
    (one, two, shared)
}

async fn pulled(edge: &Pierhead, repository: &str, tag: &str, image: &Image) {
    edge.client().pull(repository, tag).await.unwrap();
    for blob in image.blobs() {
        edge.committed(&blob.digest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_is_in_the_cache() {
    let registry = DockerRegistry::start().await;
    let (one, two, _) = images();
    registry.push("team/one", "v1", &one).await;
    registry.push("library/two", "latest", &two).await;
    let edge = Setup::new()
        .registry_with("docker.io", registry.url(), json!({ "default": true }))
        .registry("up.test", registry.url())
        .start()
        .await;
    pulled(&edge, "up.test/team/one", "v1", &one).await;
    pulled(&edge, "up.test/team/one", "v1", &one).await;
    pulled(&edge, "library/two", "latest", &two).await;

    let list = json_of(&edge, &["ls"]).await;
    let names: Vec<_> = list["repositories"].as_array().unwrap().iter().map(|one| &one["repository"]).collect();
    assert_eq!(
        (&list["total"], names),
        (&json!(2), vec![&json!("team/one"), &json!("library/two")]),
        "the largest first"
    );
    let first = &list["repositories"][0];
    assert_eq!((&first["registry"], &first["tags"], &first["contents"]), (&json!("up.test"), &json!(1), &json!(4)));
    assert_eq!(first["bytes"].as_u64(), Some(one.size()), "{first}");
    let table = cache(&edge, &["ls", "docker.io"]).await.expect_success();
    assert!(table.stdout.contains("docker.io/library/two") && !table.stdout.contains("team/one"), "{}", table.stdout);
    assert_eq!(json_of(&edge, &["ls", "--limit", "1"]).await["repositories"].as_array().unwrap().len(), 1);

    let tags = json_of(&edge, &["ls", "up.test/team/one"]).await;
    let tag = &tags["images"][0];
    assert_eq!((&tag["tag"], &tag["digest"]), (&json!("v1"), &json!(one.digest().to_string())));
    assert_eq!((&tag["contents"], &tag["missing"], &tag["pinned"]), (&json!(4), &json!(0), &Value::Null), "{tag}");

    let stats = json_of(&edge, &["stats"]).await;
    let of =
        |name: &str| stats["registries"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
    let (up, hub) = (of("up.test"), of("docker.io"));
    // A manifest and three blobs, missed at first and hit then.
    assert_eq!((&up["hits"], &up["misses"], &up["hit_rate"]), (&json!(4), &json!(4), &json!(0.5)), "{up}");
    assert_eq!((&hub["hits"], &hub["hit_rate"]), (&json!(0), &json!(0.0)), "{hub}");
    assert_eq!((&stats["limit"], &stats["writable"]), (&json!(4_u64 << 30), &json!(true)));
    assert!(cache(&edge, &["stats"]).await.expect_success().stdout.contains("50.0 %"));

    for (image, says) in [
        ("up.test/team/one:v1", "it is here, and was last used"),
        ("docker.io/two", "it is here, and was last used"),
        ("up.test/team/one:v2", "the tag is not known"),
        ("up.test/team/none", "the tag is not known"),
    ] {
        let why = cache(&edge, &["why", image]).await.expect_success();
        assert!(why.stdout.contains(says), "{image}: {}", why.stdout);
    }
    let foreign = format!("docker.io/library/two@{}", one.layers[0].digest);
    let why = cache(&edge, &["why", &foreign]).await.expect_success();
    assert!(why.stdout.contains("this repository is not known to hold it"), "{}", why.stdout);
    for (named, says) in [
        ("team/one:v1", "no registry \"team\" is configured, and nothing of it is in the cache; names begin with"),
        ("nope.io/x/y:1", "no registry \"nope.io\" is configured"),
    ] {
        for wanted in ["why", "pin"] {
            let failed = cache(&edge, &[wanted, named]).await.expect_failure();
            assert!(failed.code == Some(1) && failed.stderr.contains(says), "{wanted} {named}: {}", failed.stderr);
        }
        assert!(cache(&edge, &["unpin", named]).await.expect_success().stdout.contains("no operator had pinned it"));
    }
    for bad in ["Docker.io/x", "../x", "docker.io/UPPER", "docker.io/a:b:c"] {
        assert_eq!(cache(&edge, &["why", bad]).await.expect_failure().code, Some(1), "{bad}");
    }
}

/// What is pushed through the edge says nothing about how much the cache helps.
#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_counted_apart_from_pulls() {
    let registry = DockerRegistry::start().await;
    let edge =
        super::origin::setup([registry.address].into_iter(), json!({ "hosts": ["registry.test"] })).start().await;
    let (image, client) = (Image::new(1, &[50_000]), edge.client());
    for blob in image.blobs() {
        client.push_blob("team/app", &blob.digest, blob.bytes.clone()).await;
    }
    client.push_manifest("team/app", "v1", &image.manifest.media_type, image.manifest.blob.bytes.clone()).await;
    client.manifest("team/app", "v1").await.unwrap();
    let stats = json_of(&edge, &["stats"]).await;
    let counted = &stats["registries"][0];
    assert_eq!((&counted["misses"], &counted["bypasses"]), (&json!(1), &json!(0)), "{counted}");
    assert!(counted["forwarded"].as_u64() >= Some(5), "{counted}");
    assert!(cache(&edge, &["stats"]).await.expect_success().stdout.contains("FORWARDED"));
}

/// A purge deletes what it names and nothing that something else needs; the next pull fetches it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_deletes_what_nothing_else_holds() {
    let registry = DockerRegistry::start().await;
    let (one, two, shared) = images();
    registry.push("team/app", "one", &one).await;
    registry.push("team/app", "shared", &shared).await;
    registry.push("other/app", "two", &two).await;
    let edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    let all = async || {
        pulled(&edge, "team/app", "one", &one).await;
        pulled(&edge, "team/app", "shared", &shared).await;
        pulled(&edge, "other/app", "two", &two).await;
    };
    let there = |image: &Image| -> Vec<bool> {
        image.layers.iter().map(|layer| edge.path_of(&layer.digest).exists()).collect()
    };
    let (all_of_one, own) = (vec![true, true], vec![true, false]);
    for (part, one_left, two_left) in [
        // The first layer is the other tag's too.
        ("up.test/team/app:one", &own, true),
        ("up.test/team/app:shared", &all_of_one, true),
        ("up.test/team/app", &vec![false, false], true),
        ("up.test", &vec![false, false], false),
        ("up.test/other/app:two", &all_of_one, true),
        ("up.test/none/such:tag", &all_of_one, true),
    ] {
        all().await;
        let purged = json_of(&edge, &["purge", part]).await;
        assert_eq!((&there(&one), there(&two)), (one_left, vec![two_left]), "{part}: {purged}");
        let deleted = purged["contents"].as_u64().unwrap();
        assert_eq!(deleted > 0, part != "up.test/none/such:tag", "{part}");
        assert_eq!(purged["repositories"].as_u64().unwrap() > 0, part != "up.test/none/such:tag", "{part}");
    }
    all().await;
    let blob = format!("up.test/team/app@{}", one.layers[1].digest);
    assert_eq!(json_of(&edge, &["purge", &blob]).await["contents"], json!(1));
    assert_eq!(there(&one), own);
    all().await;
    assert!(edge.log().count(|line| line.contains("an operator purged the cache")) >= 7);
}

/// What an operator pins stays while others are evicted, through a restart; the log sums evictions up.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_pins_stays() {
    let registry = DockerRegistry::start().await;
    let images: Vec<Image> = (0..8).map(|seed| Image::new(10 + seed, &[300_000])).collect();
    for (number, image) in images.iter().enumerate() {
        registry.push("team/app", &format!("v{number}"), image).await;
    }
    let mut edge = Setup::new()
        .registry_with("up.test", registry.url(), json!({ "default": true }))
        .set("/cache/max_size", "1MiB")
        .start()
        .await;
    let pinned = cache(&edge, &["pin", "up.test/team/app:v0"]).await.expect_success();
    assert_eq!(pinned.stdout.trim(), "pinned");
    assert_eq!(
        cache(&edge, &["pin", "up.test/team/app:v0"]).await.expect_success().stdout.trim(),
        "was pinned already"
    );
    pulled(&edge, "team/app", "v0", &images[0]).await;
    let fill = async |edge: &Pierhead| {
        for (number, image) in images.iter().enumerate().skip(1) {
            pulled(edge, "team/app", &format!("v{number}"), image).await;
        }
    };
    fill(&edge).await;
    let layer = edge.path_of(&images[0].layers[0].digest);
    assert!(layer.exists() && !edge.path_of(&images[1].layers[0].digest).exists());
    let why = cache(&edge, &["why", "up.test/team/app:v0"]).await.expect_success();
    assert!(why.stdout.contains("an operator pinned it"), "{}", why.stdout);
    eventually("evictions in the log", LONG, async || {
        edge.log().find(0, |line| line.contains("evicted to make room").then_some(()))
    })
    .await;
    edge.stop().await;
    edge.start_again().await;
    fill(&edge).await;
    assert!(layer.exists(), "a pin survives a restart");
    edge.reload().await;
    assert_eq!(
        cache(&edge, &["unpin", "up.test/team/app:v0"]).await.expect_success().stdout.trim(),
        "no longer pinned"
    );
    fill(&edge).await;
    eventually("the pin is gone", LONG, async || {
        fill(&edge).await;
        (!layer.exists()).then_some(())
    })
    .await;
}
