//! Upstreams that want fewer requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pierhead_registry::client::{BlobHead, Client, ClientError, ListKind};

use crate::accounts::challenge;
use crate::fake::{Fake, Seen, Step, answer, head};
use crate::{Watch, as_account, client, digest, repository, settings, team};

fn manifest(seen: &Seen) -> Vec<Step> {
    if seen.method == "HEAD" { vec![head(200, &["Content-Length: 2"])] } else { answer(200, &[], b"{}") }
}

/// Whether this shows the account that has used up its share: `greedy:s`.
fn is_greedy(seen: &Seen) -> bool {
    seen.header("authorization").is_some_and(|shown| ["Basic Z3JlZWR5OnM=", "Bearer greedy"].contains(&shown))
}

fn limited(error: &ClientError, seconds: u64) -> bool {
    matches!(error, ClientError::RateLimited { retry_after, .. } if retry_after.as_secs().abs_diff(seconds) <= 1)
}

#[tokio::test]
async fn a_long_pause_stops_one_kind_of_request_and_nothing_else() {
    let gone = AtomicBool::new(false);
    let fake = Fake::start(move |seen, _| {
        if seen.target.ends_with("/manifests/one") && seen.method == "GET" && !gone.swap(true, Ordering::SeqCst) {
            return answer(429, &["Retry-After: 3600", "ratelimit-remaining: 0;w=21600"], b"");
        }
        manifest(seen)
    })
    .await;
    let watch = Arc::new(Watch::default());
    watch.left.store(9, Ordering::SeqCst);
    let client = Client::new(settings(&[fake.url()]), watch.clone()).unwrap();
    let repository = team(&client);
    let error = repository.get_manifest(&"one".parse().unwrap(), &[]).await.unwrap_err();
    assert!(limited(&error, 3600), "{error}");
    assert_eq!(watch.left.load(Ordering::SeqCst), 0);
    let error = repository.get_manifest(&"two".parse().unwrap(), &[]).await.unwrap_err();
    assert!(limited(&error, 3600), "{error}");
    assert_eq!(fake.seen().len(), 1, "nothing of that kind goes out meanwhile");
    assert_eq!(repository.head_blob(&digest(b"x"), None).await.unwrap(), BlobHead::Size(Some(2)));
    assert!(repository.get_blob(&digest(b"{}"), 0, None, &[]).await.is_ok());
    assert!(repository.get_list(&ListKind::Tags, None).await.is_ok());
    assert!(repository.get_list(&ListKind::Referrers(digest(b"x")), None).await.is_ok());
}

#[tokio::test]
async fn a_pause_belongs_to_the_host_that_asked_for_it() {
    let elsewhere = Fake::start(|_, _| answer(429, &["Retry-After: 3600"], b"")).await;
    let target = format!("Location: {}", elsewhere.on("localhost").join("/referrers").unwrap());
    let fake =
        Fake::start(
            move |seen, _| {
                if seen.target.contains("/referrers/") { answer(303, &[&target], b"") } else { manifest(seen) }
            },
        )
        .await;
    let mut settings = settings(&[fake.url()]);
    settings.redirects_to =
        vec![pierhead_registry::client::RedirectTarget::Host { host: "localhost".into(), port: None }];
    let client = client(settings);
    let referrers = ListKind::Referrers(digest(b"x"));
    for _ in 0..2 {
        let error = team(&client).get_list(&referrers, None).await.unwrap_err();
        assert!(matches!(&error, ClientError::RateLimited { host, .. } if host.starts_with("localhost")), "{error}");
    }
    assert_eq!((fake.seen().len(), elsewhere.seen().len()), (2, 1));
    assert!(team(&client).get_manifest(&"latest".parse().unwrap(), &[]).await.is_ok());
    assert!(team(&client).get_list(&ListKind::Tags, None).await.is_ok());
    assert!(team(&client).get_blob(&digest(b"{}"), 0, None, &[]).await.is_ok());
}

/// Docker Hub counts by account: one that has used up its share stops no other, and nobody who shows none.
#[tokio::test]
async fn a_pause_belongs_to_the_account_that_was_limited() {
    for (tokens, limits_tokens) in [(false, false), (true, false), (true, true)] {
        let fake = Fake::start(move |seen, _| {
            let greedy = is_greedy(seen);
            let limited = || answer(429, &["Retry-After: 3600"], b"");
            match seen.header("authorization") {
                _ if seen.target.starts_with("/token") && greedy && limits_tokens => limited(),
                shown if seen.target.starts_with("/token") => {
                    let name = if greedy { "greedy" } else { shown.map_or("anonymous", |_| "modest") };
                    answer(200, &[], format!(r#"{{"token":"{name}"}}"#).as_bytes())
                }
                None if tokens => challenge(seen, "/token", ""),
                None => answer(401, &["WWW-Authenticate: Basic realm=\"r\""], b""),
                Some(_) if greedy => limited(),
                Some(_) => manifest(seen),
            }
        })
        .await;
        let client = client(settings(&[fake.url()]));
        let of = |name: &str| {
            let caller = as_account(crate::login(name, "s"));
            client.repository(&"team/app".parse().unwrap(), Some(&caller))
        };
        let latest = "latest".parse().unwrap();
        for round in 0..3 {
            let case = format!("{tokens} {limits_tokens} {round}");
            let error = of("greedy").get_manifest(&latest, &[]).await.unwrap_err();
            assert!(limited(&error, 3600), "{case}: {error}");
            let error = of("greedy").get_blob(&digest(b"{}"), 0, None, &[]).await.unwrap_err();
            assert!(limited(&error, 3600), "{case}: {error}");
            assert!(of("modest").get_manifest(&latest, &[]).await.is_ok(), "{case}");
            assert!(of("modest").get_blob(&digest(b"{}"), 0, None, &[]).await.is_ok(), "{case}");
            assert!(of("modest").check(0, None, &[]).is_ok(), "{case}");
            assert_eq!(of("greedy").check(0, None, &[]).is_ok(), limits_tokens, "{case}");
            assert_eq!(team(&client).get_manifest(&latest, &[]).await.is_ok(), tokens, "{case}: anonymous");
        }
        let refused = fake.seen().iter().filter(|seen| is_greedy(seen)).count();
        assert!(refused <= 4, "{tokens} {limits_tokens}: {refused} requests of the limited account");
    }
}

#[tokio::test]
async fn a_short_pause_is_waited_for() {
    for line in ["Retry-After: 1", "X-Nothing: said"] {
        let fake =
            Fake::start(move |seen, number| if number == 0 { answer(429, &[line], b"") } else { manifest(seen) });
        let fake = fake.await;
        let repository = repository(&[fake.url()]);
        assert!(repository.get_manifest(&"latest".parse().unwrap(), &[]).await.is_ok(), "{line}");
        assert_eq!(fake.seen().len(), 2, "{line}");
    }
    // A refusal that stays is passed on after one more request.
    let fake = Fake::start(|_, _| answer(429, &[], b"")).await;
    let error = repository(&[fake.url()]).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(error, ClientError::RateLimited { .. }), "{error}");
    assert_eq!(fake.seen().len(), 2);
}

/// A bucket of ten requests for manifests that is filled up with ten a second; 429 without a time when it is empty.
async fn bucket() -> Fake {
    let state = Mutex::new((10.0_f64, Instant::now()));
    Fake::start(move |seen, _| {
        let mut state = state.lock().unwrap();
        let now = Instant::now();
        state.0 = (state.0 + now.duration_since(state.1).as_secs_f64() * 10.0).min(10.0);
        state.1 = now;
        if state.0 < 1.0 {
            return answer(429, &[], b"");
        }
        state.0 -= 1.0;
        manifest(seen)
    })
    .await
}

/// Reported by navidrome#5997: of 44 clients that ask at once, each for its own manifest, at most 40 are served directly.
#[tokio::test]
async fn many_clients_get_through_a_small_bucket() {
    let fake = bucket().await;
    let client = client(settings(&[fake.url()]));
    let clients: Vec<_> = (0..44)
        .map(|number| {
            let repository = team(&client);
            tokio::spawn(async move {
                for _ in 0..3 {
                    if repository.get_manifest(&format!("v{number}").parse().unwrap(), &[]).await.is_ok() {
                        return true;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                false
            })
        })
        .collect();
    let mut served = 0;
    for client in clients {
        served += usize::from(client.await.unwrap());
    }
    assert!(served >= 40, "{served} of 44");
    assert!(fake.seen().len() <= 3 * 44, "{} requests", fake.seen().len());
}
