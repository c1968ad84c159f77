//! Upstreams that ask to be left in peace.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pierhead_registry::client::{Client, ClientError};

use crate::fake::{Fake, answer};
use crate::{Watch, digest, settings, team};

#[tokio::test]
async fn too_many_requests_silences_the_whole_registry() {
    let limited = Fake::start(|_, number| match number {
        0 => answer(429, &["Retry-After: 1", "ratelimit-remaining: 0;w=21600"], b""),
        _ => answer(200, &["RateLimit-Remaining: 76;w=21600"], b"{}"),
    })
    .await;
    let other = Fake::start(|_, _| answer(200, &[], b"{}")).await;
    let watch = Arc::new(Watch::default());
    watch.left.store(9, Ordering::SeqCst);
    let client = Client::new(settings(&[limited.url(), other.url()]), watch.clone()).unwrap();
    let latest = "latest".parse().unwrap();
    let begun = Instant::now();
    let error = team(&client).get_manifest(&latest, &[]).await.unwrap_err();
    let ClientError::RateLimited { retry_after, .. } = error else { panic!("{error}") };
    assert_eq!(retry_after, Duration::from_secs(1));
    assert_eq!(watch.left.load(Ordering::SeqCst), 0);

    // Whatever is asked meanwhile, nothing goes out, at no address.
    let repository = client.repository(&"other".parse().unwrap(), None);
    while begun.elapsed() < Duration::from_millis(500) {
        assert!(matches!(repository.head_blob(&digest(b"x")).await, Err(ClientError::RateLimited { .. })));
        assert!(matches!(repository.get_blob(&digest(b"x"), 0, None, &[]).await, Err(ClientError::RateLimited { .. })));
    }
    assert_eq!((limited.seen().len(), other.seen().len()), (1, 0));

    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = team(&client).get_manifest(&latest, &[]).await {
        assert!(matches!(error, ClientError::RateLimited { .. }) && Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(watch.left.load(Ordering::SeqCst), 76);
    assert_eq!(*watch.statuses.lock().unwrap(), [Some(429), Some(200)]);
}
