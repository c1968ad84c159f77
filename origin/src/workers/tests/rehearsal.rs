//! What a rehearsal tells is what a collection does, whatever people did before.

use std::time::Duration;

use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_registry::store::UploadId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::{Collected, LONG, Scratch};
use crate::meta::scratch::{on_both, time_passes};
use crate::meta::{Repository, now};

on_both!(a_rehearsal_tells_what_a_collection_does);

/// A registry whose people do this and that.
struct Bustle<'a> {
    scratch: &'a Scratch,
    random: StdRng,
    repositories: Vec<Repository>,
    /// Manifests that were pushed: where, which, and whether another may be about it or name it.
    manifests: Vec<(usize, Digest, bool)>,
    pushed: u32,
}

impl Bustle<'_> {
    async fn something(&mut self) {
        let at = self.random.random_range(0..self.repositories.len());
        let (id, meta) = (self.repositories[at].id, &self.scratch.meta);
        let there: Vec<_> = self.manifests.iter().filter(|(repository, ..)| *repository == at).copied().collect();
        let some = (!there.is_empty()).then(|| there[self.random.random_range(0..there.len())]);
        match (self.random.random_range(0..12), some) {
            (0..5, some) => self.push(at, some).await,
            (5..7, Some((_, digest, _))) => {
                let change = meta.change().await.unwrap();
                change.delete_manifest(id, &digest, now()).await.unwrap();
                change.commit().await.unwrap();
            }
            (7, _) => {
                let change = meta.change().await.unwrap();
                let tag = format!("tag{}", self.random.random_range(0..3));
                if self.random.random() {
                    change.end_tag(id, &tag, now()).await.unwrap();
                } else {
                    change.set_expiration(id, &tag, Some(now() + LONG / 2), now()).await.unwrap();
                }
                change.commit().await.unwrap();
            }
            (8, _) => {
                let change = meta.change().await.unwrap();
                let blob = self.random.random_range(0..40);
                if change.manifest_that_needs(id, blob).await.unwrap().is_none() {
                    change.release_blob(id, blob).await.unwrap();
                }
                change.commit().await.unwrap();
            }
            (9, _) => {
                let change = meta.change().await.unwrap();
                change.insert_upload(&UploadId::random(), id, "sha256", Vec::new(), None).await.unwrap();
                if self.random.random_bool(0.2) && self.repositories.len() > 1 {
                    change.delete_repository(id).await.unwrap();
                    self.repositories.remove(at);
                    self.manifests.clear();
                }
                change.commit().await.unwrap();
            }
            _ => time_passes(meta, Duration::from_secs(60 * self.random.random_range(5..40))).await,
        }
    }

    /// An image; or an index of another, or something about it.
    async fn push(&mut self, at: usize, other: Option<(usize, Digest, bool)>) {
        let repository = &self.repositories[at];
        let mut blobs = Vec::new();
        for _ in 0..self.random.random_range(1..3) {
            let content: &'static [u8] = format!("blob {}", self.random.random_range(0..40)).into_bytes().leak();
            blobs.push(self.scratch.blob(repository, content, LONG).await);
        }
        self.pushed += 1;
        let content: &'static [u8] = format!("{{{}}}", self.pushed).into_bytes().leak();
        let tag = format!("tag{}", self.random.random_range(0..3));
        let tag = self.random.random_bool(0.5).then_some(tag.as_str());
        let reference = |digest: &Digest| digest.to_string().parse().unwrap();
        let plain = match other {
            Some((_, digest, true))
                if self.random.random_bool(0.6)
                    && self.scratch.meta.manifest(&repository.name, &reference(&digest)).await.unwrap().is_some() =>
            {
                let (children, subject) =
                    if self.random.random() { (vec![digest], None) } else { (vec![], Some(digest)) };
                self.scratch.manifest(repository, content, tag, (&blobs, &children, subject)).await;
                false
            }
            _ => {
                self.scratch.manifest(repository, content, tag, (&blobs, &[], None)).await;
                true
            }
        };
        self.manifests.push((at, Digest::of(Algorithm::Sha256, content), plain));
    }
}

async fn a_rehearsal_tells_what_a_collection_does(database: crate::meta::scratch::Scratch) {
    let scratch = Scratch::new(database).await;
    let mut repositories = Vec::new();
    for name in ["a/app", "b/app", "c/app"] {
        repositories.push(scratch.repository(name).await);
    }
    let random = StdRng::seed_from_u64(7);
    let mut bustle = Bustle { scratch: &scratch, random, repositories, manifests: Vec::new(), pushed: 0 };
    let collector = scratch.collector(Duration::from_secs(3600));
    let mut sum = Collected::default();
    for turn in 0..25 {
        for _ in 0..12 {
            bustle.something().await;
        }
        let told = collector.rehearse(|_| ()).await.unwrap();
        let collected = collector.run(&CancellationToken::new()).await.unwrap().unwrap();
        assert_eq!(told, collected, "turn {turn}");
        sum.repositories += collected.repositories;
        sum.manifests += collected.manifests;
        sum.blobs += collected.blobs;
        sum.tags += collected.tags;
        sum.expired += collected.expired;
        sum.uploads += collected.uploads;
    }
    let enough = sum.repositories > 0
        && sum.manifests > 20
        && sum.blobs > 20
        && sum.tags > 10
        && sum.uploads > 5
        && sum.expired > 0;
    assert!(enough, "{sum}");
}
