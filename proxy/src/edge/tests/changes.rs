//! What a change that is made through the edge does to what is known.

use std::time::SystemTime;

use axum::http::{HeaderMap, StatusCode};
use pierhead_config::AuthMode;
use pierhead_registry::client::ListKind;
use pierhead_registry::oci::{Algorithm, Digest};

use super::Stage;
use crate::cache::Extent;
use crate::edge::manifests::Wish;
use crate::edge::outcome::Outcome;
use crate::edge::passage::Write;
use crate::edge::route::Addressed;
use crate::edge::written::Change;

impl Stage {
    /// The registry says that this was changed.
    async fn changed(&self, change: Change) {
        let write = Write::new(&self.edge.cache, &self.edge.registries[0], vec![change]).unwrap();
        write.answered(Some(StatusCode::NO_CONTENT)).await;
    }
}

#[tokio::test]
async fn what_was_asked_before_a_change_is_not_kept_after_it() {
    let repository = Extent::Repository("team/app".parse().unwrap());
    for change in [
        Change::Gone(repository.clone()),
        Change::Gone(Extent::Namespace("team".into())),
        Change::Rights(repository),
        Change::Created,
    ] {
        let mut stage = Stage::set(|config| config.auth = AuthMode::Passthrough).await;
        stage.by(Some(("ann", "secret")));
        let digest = Digest::of(Algorithm::Sha256, b"layer");
        stage.upstream.put(&format!("blobs/{digest}"), "application/octet-stream", "layer");
        stage.upstream.put("tags/list", "application/json", "{}");
        let before = stage.scope();
        stage.changed(change.clone()).await;
        // Its answers come now.
        for (scope, kept) in [(before, false), (stage.scope(), true)] {
            let (headers, now) = (HeaderMap::new(), SystemTime::now());
            assert!(stage.edge.blob(&scope, &digest, true, &headers, now).await.is_ok());
            assert!(stage.edge.blob(&scope, &digest, false, &headers, now).await.is_ok());
            let wish = Wish { head: false, headers: &headers };
            assert!(stage.edge.manifest(&scope, &"v1".parse().unwrap(), wish, now).await.is_ok());
            assert!(stage.edge.list(&scope, ListKind::Tags, None, Addressed::Default, now).await.is_ok());
            let (cache, id) = (&stage.edge.cache, &scope.repository);
            let known = [
                cache.holds(id, &digest).await,
                cache.tag(id, &"v1".parse().unwrap()).await.is_some(),
                cache.list(id, "tags/list").await.is_some(),
                cache.authorised(id, &scope.caller.as_ref().unwrap().id).await.is_some(),
            ];
            assert_eq!(known, [kept; 4], "{change:?}");
        }
    }
}

#[tokio::test]
async fn where_credentials_changed_somewhere_all_are_asked_about_again() {
    let mut stage = Stage::set(|config| config.auth = AuthMode::Passthrough).await;
    stage.by(Some(("ann", "secret")));
    let now = SystemTime::now();
    assert_eq!((stage.outcome(now).await, stage.outcome(now).await), (Outcome::Miss, Outcome::Hit));
    stage.changed(Change::Credentials).await;
    assert_eq!(stage.outcome(now).await, Outcome::Revalidated);
}
