//! Disks that are full or may not be written to: they cost no pull.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::misbehaving::Upstream;
use pierhead_tests::pierhead::Setup;
use pierhead_tests::process::run;
use pierhead_tests::registry::DockerRegistry;
use serde_json::json;
use tokio::process::Command;

/// The same directory once more on top of itself, read-only, until dropped. A file system cannot be made read-only while
/// files of it are open for writing, as the index's are; what is opened from now on finds it so.
struct ReadOnly(PathBuf);

impl ReadOnly {
    async fn over(directory: PathBuf) -> Option<ReadOnly> {
        let mut bind = Command::new("mount");
        bind.arg("--bind").args([&directory, &directory]);
        if !run(bind, Duration::from_secs(10)).await.success {
            return None;
        }
        let mut seal = Command::new("mount");
        seal.args(["-o", "remount,bind,ro"]).arg(&directory);
        run(seal, Duration::from_secs(10)).await.expect_success();
        Some(ReadOnly(directory))
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A file system of its own; unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) async fn mount(at: PathBuf, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(&at).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "pierhead-test"]).arg(&at);
        run(command, Duration::from_secs(10)).await.success.then_some(SmallDisk(at))
    }

    pub(crate) async fn remount(&self, options: &str) {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{options}")]).arg(&self.0);
        run(command, Duration::from_secs(10)).await.expect_success();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A disk that is smaller than `max_size` is a limit like it: old content makes room for new.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_smaller_than_max_size_is_a_limit_like_it() {
    let registry = DockerRegistry::start().await;
    let images: Vec<Image> = (1..=6).map(|seed| Image::new(seed, &[6 << 20])).collect();
    for (number, image) in images.iter().enumerate() {
        registry.push("team/app", &format!("v{number}"), image).await;
    }
    let keys = json!({ "default": true, "retries": 0 });
    let setup = Setup::new().registry_with("up.test", registry.url(), keys).set("/cache/max_size", "1GiB");
    let Some(disk) = SmallDisk::mount(setup.cache(), "20m").await else {
        eprintln!("skipped: mounting a tmpfs is not permitted here");
        return;
    };
    let config = setup.write();
    let mut check = Command::new(pierhead_tests::setup::binary());
    check.args(["check", "--config"]).arg(&config);
    let checked = run(check, Duration::from_secs(10)).await.expect_success();
    assert!(checked.stderr.contains("cache.max_size"), "{}", checked.stderr);
    let mut edge = setup.start().await;
    assert!(edge.log().count(|line| line.contains("smaller than max_size")) > 0, "no warning in the log");
    for _ in 0..2 {
        for (number, image) in images.iter().enumerate() {
            edge.client().pull("team/app", &format!("v{number}")).await.unwrap();
            edge.committed(&image.layers[0].digest).await;
        }
    }
    assert_eq!(edge.access_log().iter().filter(|line| line["outcome"] == "bypass").count(), 0);
    assert!(edge.metric("pierhead_cache_evictions_total", &[]).await >= 8.0);
    assert_eq!(edge.metric("pierhead_cache_writable", &[]).await, 1.0);
    assert!(edge.metric("pierhead_cache_limit_bytes", &[]).await <= (20 << 20) as f64);
    // Operators see it; what the edge serves is well all the same.
    let health = edge.operator().get("/health/endtoend").await;
    assert_eq!(health.status, 200);
    let health: serde_json::Value = serde_json::from_slice(&health.body).unwrap();
    let cache = &health["data"]["services_expanded"]["cache"];
    let said = cache["message"].as_str().unwrap_or_default();
    assert!(cache["status"] == true && said.starts_with("degraded: the disk holds at most"), "{health}");
    let status = edge.ctl(&["status"]).await.expect_success();
    assert!(status.stdout.contains("less than cache.max_size, 1073741824"), "{}", status.stdout);
    // What cannot fit is passed through, and costs nothing else its place.
    let large = Image::new(9, &[30 << 20]);
    registry.push("team/app", "large", &large).await;
    edge.client().pull("team/app", "large").await.unwrap();
    assert_eq!(edge.operator().get("/health/endtoend").await.status, 200);
    assert!(edge.path_of(&images[5].layers[0].digest).exists());
    edge.kill().await;
    drop(disk);
}

/// A disk that others have filled is served past, and used again when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_served_past_and_used_again() {
    let mut registry = DockerRegistry::start().await;
    let images: Vec<Image> = (1..=4).map(|seed| Image::new(seed, &[1500 << 10, 1500 << 10])).collect();
    for (number, image) in images.iter().enumerate() {
        registry.push("team/app", &format!("v{number}"), image).await;
    }
    let keys = json!({ "default": true, "retries": 0 });
    let setup = Setup::new().registry_with("up.test", registry.url(), keys).set("/cache/max_size", "1GiB");
    let Some(disk) = SmallDisk::mount(setup.cache(), "8m").await else {
        eprintln!("skipped: mounting a tmpfs is not permitted here");
        return;
    };
    let foreign = setup.cache().join("somebody-elses");
    let mut edge = setup.start().await;
    std::fs::write(&foreign, vec![0; 7 << 20]).or_else(|_| std::fs::write(&foreign, vec![0; 6 << 20])).unwrap();
    for round in 0..2 {
        for number in 0..images.len() {
            let pulled = edge.client().pull("team/app", &format!("v{number}")).await;
            assert!(pulled.is_ok(), "round {round}, image {number}: {pulled:?}");
        }
    }
    edge.logged("a bypass", |line| line["outcome"] == "bypass").await;
    edge.metric_until("pierhead_cache_writable", &[], |writable| writable == 0.0).await;
    assert!(edge.metric("pierhead_cache_storage_errors_total", &[]).await >= 1.0);
    assert!(
        edge.log().count(|line| line.contains("the disk is full of something else") && line.contains("are free")) > 0,
        "no clear line in the log"
    );
    let health = edge.operator().get("/health/endtoend").await;
    assert_eq!(health.status, 503, "{:?}", health.body);

    disk.remount("size=64m").await;
    eventually("caching resumes", Duration::from_secs(60), async || {
        edge.client().pull("team/app", "v3").await.unwrap();
        (edge.metric("pierhead_cache_writable", &[]).await == 1.0).then_some(())
    })
    .await;
    for number in 0..images.len() {
        edge.client().pull("team/app", &format!("v{number}")).await.unwrap();
    }
    registry.stop().await;
    for number in 0..images.len() {
        edge.client().pull("team/app", &format!("v{number}")).await.unwrap();
    }
    edge.kill().await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_served_past() {
    let registry = DockerRegistry::start().await;
    let images = [Image::new(1, &[100_000]), Image::new(2, &[100_000])];
    for (number, image) in images.iter().enumerate() {
        registry.push("team/app", &format!("v{number}"), image).await;
    }
    let setup = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true, "retries": 0 }));
    let cache = setup.cache();
    let mut edge = setup.start().await;
    edge.client().pull("team/app", "v0").await.unwrap();
    let Some(lid) = ReadOnly::over(cache.clone()).await else {
        eprintln!("skipped: mounting is not permitted here");
        return;
    };
    assert!(std::fs::write(cache.join("probe"), "x").is_err(), "the cache can still be written");
    edge.client().pull("team/app", "v0").await.unwrap();
    edge.client().pull("team/app", "v1").await.unwrap();
    edge.logged("a bypass", |line| line["outcome"] == "bypass" && line["kind"] == "blob").await;
    edge.metric_until("pierhead_cache_writable", &[], |writable| writable == 0.0).await;
    drop(lid);
    eventually("caching resumes", Duration::from_secs(60), async || {
        edge.client().pull("team/app", "v1").await.unwrap();
        (edge.metric("pierhead_cache_writable", &[]).await == 1.0).then_some(())
    })
    .await;
    edge.kill().await;
}

/// A list of tags that is as large as a hostile registry likes.
fn long_list(bytes: usize) -> String {
    let tags: Vec<String> = (0..bytes / 40).map(|number| format!("t{number:036}")).collect();
    json!({ "name": "any", "tags": tags }).to_string()
}

/// A stranger asks for lists of ever new repositories, which a hostile registry makes as large as it likes, or as many as it
/// likes. They are bounded by `max_size`, and by what the disk can have of files; they evict nothing of another registry, and
/// caching goes on, also after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn lists_of_any_number_of_repositories_do_not_fill_the_disk() {
    const MIB: u64 = 1 << 20;
    for (disk, list, repositories) in [("48m", long_list(2 << 20), 30), ("48m,nr_inodes=1500", long_list(40), 500)] {
        let (mut good, hostile) = (DockerRegistry::start().await, Upstream::start().await);
        let images = [1, 2].map(|seed| Image::new(seed, &[3 << 20]));
        for (number, image) in images.iter().enumerate() {
            good.push("team/app", &format!("v{number}"), image).await;
        }
        let list = Bytes::from(list);
        for number in 0..2 * repositories {
            let path = format!("/v2/fill{number}/x/tags/list");
            hostile.hold_other(&path, &[("Content-Type", "application/json")], list.clone());
        }
        let setup = (Setup::new().registry_with("good.test", good.url(), json!({ "default": true, "retries": 0 })))
            .registry_with("hostile.test", hostile.url(), json!({ "max_share": "50%" }))
            .set("/cache/max_size", "16MiB");
        let Some(mounted) = SmallDisk::mount(setup.cache(), disk).await else {
            eprintln!("skipped: mounting a tmpfs is not permitted here");
            return;
        };
        let mut edge = setup.start().await;
        edge.client().pull("team/app", "v0").await.unwrap();
        edge.committed(&images[0].layers[0].digest).await;
        for round in 0..2 {
            for number in round * repositories..(round + 1) * repositories {
                let reply = edge.client().get(&format!("/v2/hostile.test/fill{number}/x/tags/list")).await;
                assert_eq!((reply.status, reply.body.len()), (200, list.len()), "{disk}: {number}");
            }
            let content = edge.metric("pierhead_cache_bytes", &[]).await;
            let records = edge.metric("pierhead_cache_record_bytes", &[]).await;
            assert!(records > 0.0 && content + records <= (16 * MIB) as f64, "{disk}: {content} {records}");
            assert!(edge.disk_usage() <= 16 * MIB, "{disk}: {}", edge.disk_usage());
            assert_eq!(edge.metric("pierhead_cache_writable", &[]).await, 1.0, "{disk}");
            assert_eq!(edge.metric("pierhead_cache_storage_errors_total", &[]).await, 0.0, "{disk}");
            assert_eq!(edge.operator().get("/health/endtoend").await.status, 200, "{disk}");
            if round == 0 {
                edge.stop().await;
                edge.start_again().await;
            }
        }
        // What another registry has here is kept, and what it has new is cached.
        edge.client().pull("team/app", "v1").await.unwrap();
        edge.committed(&images[1].layers[0].digest).await;
        good.stop().await;
        for tag in ["v0", "v1"] {
            edge.client().pull("team/app", tag).await.unwrap();
        }
        edge.kill().await;
        drop(mounted);
    }
}
