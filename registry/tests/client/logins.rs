//! What proves that the account of the configuration works, and what proves that it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use pierhead_registry::client::{Client, ClientError, FetchedManifest, Settings};
use tokio::sync::Barrier;

use crate::accounts::{asked, challenge, with_account};
use crate::fake::{Fake, Seen, Step, answer};
use crate::{client, configured, login, settings};

const BASIC: &str = "WWW-Authenticate: Basic realm=\"r\"";
const TOKEN: &[u8] = br#"{"token":"t"}"#;

async fn get(client: &Client, name: &str) -> Result<FetchedManifest, ClientError> {
    client.repository(&name.parse().unwrap(), None).get_manifest(&"latest".parse().unwrap(), &[]).await
}

/// A registry that wants Basic and answers with `said(target)`.
async fn basic_registry(said: impl Fn(&str) -> u16 + Send + Sync + 'static) -> Fake {
    Fake::start(move |seen, _| match seen.header("authorization") {
        Some(_) => answer(said(&seen.target), &[BASIC], b"{}"),
        None => answer(401, &[BASIC], b""),
    })
    .await
}

/// A registry that wants tokens; `issued` answers for its token service, by the scope, which is empty for a login without one.
async fn bearer_registry(issued: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> Fake {
    Fake::start(move |seen: &Seen, _| match seen.header("authorization") {
        _ if seen.target.starts_with("/token") => issued(seen.target.split_once("scope=").unwrap_or_default().1),
        Some("Bearer t") => answer(200, &[], b"{}"),
        _ => challenge(seen, "/token", ""),
    })
    .await
}

/// A login that worked a moment ago says nothing of an account that is refused now.
#[tokio::test]
async fn an_account_that_worked_a_moment_ago_may_be_refused() {
    for (status, proven) in [(401, true), (403, true), (401, false), (403, false)] {
        let now = Arc::new(AtomicU16::new(if proven { 200 } else { status }));
        let said = Arc::clone(&now);
        let fake = basic_registry(move |_| said.load(Ordering::SeqCst)).await;
        let client = with_account(&fake);
        if proven {
            get(&client, "a").await.unwrap();
            now.store(status, Ordering::SeqCst);
        }
        let error = get(&client, "a").await.unwrap_err();
        assert!(matches!(error, ClientError::AccountRefused { .. }), "Basic {status} {proven}: {error}");
        assert_eq!(client.account_refused().unwrap().status, status);
    }
    for status in [400, 401, 403, 404] {
        let refuses = Arc::new(AtomicBool::new(false));
        let state = Arc::clone(&refuses);
        let fake = bearer_registry(move |scope| match (state.load(Ordering::SeqCst), scope) {
            (false, _) => answer(200, &[], TOKEN),
            (true, "") => answer(403, &[], b""),
            (true, _) => answer(status, &[], b""),
        })
        .await;
        let client = with_account(&fake);
        get(&client, "a").await.unwrap();
        refuses.store(true, Ordering::SeqCst);
        let error = get(&client, "b").await.unwrap_err();
        assert!(matches!(error, ClientError::AccountRefused { status: 403, .. }), "Bearer {status}: {error}");
    }
}

/// Whoever asks for one repository, and however often, the others are served.
#[tokio::test]
async fn a_repository_is_refused_to_an_account_that_works() {
    for status in [401, 403] {
        let of = move |name: &str| if name.contains("secret") { status } else { 200 };
        let basic = basic_registry(of).await;
        let bearer = bearer_registry(move |scope| answer(of(scope), &[], TOKEN)).await;
        for (fake, question) in [(&basic, "/v2/"), (&bearer, "/token?service=s")] {
            let client = with_account(fake);
            for round in 0..3 {
                let error = get(&client, "secret").await.unwrap_err();
                let hidden = matches!(error, ClientError::Unauthorized { .. } | ClientError::Forbidden { .. });
                assert!(hidden && error.is_answer(), "{question} {status} {round}: {error}");
                get(&client, &format!("app{round}")).await.unwrap();
            }
            assert_eq!(client.account_refused(), None);
            let questions = fake.seen().iter().filter(|seen| seen.target == question).count();
            assert_eq!(questions, 3, "{question} {status}: one for each refusal");
        }
    }
}

/// 5xx is no login that worked, and nothing about a scope.
#[tokio::test]
async fn an_outage_says_nothing_of_the_account() {
    let now = Arc::new(AtomicU16::new(401));
    let said = Arc::clone(&now);
    let fake = basic_registry(move |_| said.load(Ordering::SeqCst)).await;
    let mut own = Settings { retries: 0, ..settings(&[fake.url()]) };
    own.endpoints[0].account = Some(configured(login("alice", "s3cret")));
    let refused = client(own);
    let error = get(&refused, "a").await.unwrap_err();
    assert!(matches!(error, ClientError::AccountRefused { .. }), "{error}");
    now.store(503, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !matches!(get(&refused, "a").await, Err(ClientError::Unavailable { .. })) {
        assert!(Instant::now() < deadline, "the account was never tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(refused.account_refused().is_some());

    for scoped in [400, 401, 403, 404] {
        let fake = bearer_registry(move |scope| answer(if scope.is_empty() { 503 } else { scoped }, &[], b"")).await;
        let mut own = Settings { retries: 0, ..settings(&[fake.url()]) };
        own.endpoints[0].account = Some(configured(login("alice", "s3cret")));
        let client = client(own);
        let error = get(&client, "a").await.unwrap_err();
        assert!(matches!(error, ClientError::Unavailable { status: Some(503), .. }), "{scoped}: {error}");
        assert_eq!(client.account_refused(), None);
    }
}

/// A token service that answers all in the same way is out of order, and has said nothing of a repository.
#[tokio::test]
async fn a_token_service_that_finds_nothing_is_an_outage() {
    for (status, known) in [(400, true), (404, true), (400, false), (404, false)] {
        let fails = Arc::new(AtomicBool::new(!known));
        let state = Arc::clone(&fails);
        let fake = bearer_registry(move |_| match state.load(Ordering::SeqCst) {
            true => answer(status, &[], b"no such page"),
            false => answer(200, &[], TOKEN),
        })
        .await;
        let client = with_account(&fake);
        if known {
            get(&client, "a").await.unwrap();
            fails.store(true, Ordering::SeqCst);
        }
        let error = get(&client, "b").await.unwrap_err();
        assert!(!error.is_answer(), "{status} {known}: {error}");
        assert_eq!(client.account_refused(), None);
    }
}

/// Many are refused before the first of them is known to be.
#[tokio::test]
async fn refusals_at_once_share_one_question() {
    const MANY: usize = 20;
    for works in [true, false] {
        let meeting = Arc::new(Barrier::new(MANY));
        let met = Arc::clone(&meeting);
        let basic = Fake::start(move |seen, _| match (seen.header("authorization"), seen.target.as_str()) {
            (None, _) => answer(401, &[BASIC], b""),
            (Some(_), "/v2/") => answer(if works { 200 } else { 401 }, &[BASIC], b"{}"),
            (Some(_), target) if target.contains("known") => answer(200, &[], b"{}"),
            _ => [vec![Step::Meet(Arc::clone(&met))], answer(401, &[BASIC], b"")].concat(),
        })
        .await;
        let bearer = bearer_registry(move |scope| match scope {
            "" => answer(if works { 200 } else { 401 }, &[], TOKEN),
            scope if scope.contains("known") => answer(200, &[], TOKEN),
            _ => [vec![Step::Meet(Arc::clone(&meeting))], answer(403, &[], b"")].concat(),
        })
        .await;
        for (fake, question) in [(&basic, "/v2/"), (&bearer, "/token?service=s")] {
            let client = with_account(fake);
            get(&client, "known").await.unwrap();
            let asking: Vec<_> = (0..MANY)
                .map(|number| {
                    let client = client.clone();
                    tokio::spawn(async move { get(&client, &format!("secret{number}")).await })
                })
                .collect();
            for task in asking {
                let error = task.await.unwrap().unwrap_err();
                let refused = matches!(error, ClientError::AccountRefused { .. });
                assert!(refused != works && (refused || error.is_answer()), "{question} {works}: {error}");
            }
            let questions = fake.seen().iter().filter(|seen| seen.target == question).count();
            // More than one where this machine stands still.
            assert!((1..=3).contains(&questions), "{question} {works}: {questions}");
        }
    }
}

/// Names whose token never comes hold up no other one, although it is open whether the account works.
#[tokio::test]
async fn a_login_that_hangs_holds_up_no_other_for_long() {
    let fake = bearer_registry(|scope| match scope.contains("slow") {
        true => vec![Step::Hang],
        false => answer(200, &[], TOKEN),
    })
    .await;
    let mut patient = Settings { first_byte_timeout: Duration::from_secs(120), ..settings(&[fake.url()]) };
    patient.endpoints[0].account = Some(configured(login("alice", "s3cret")));
    let client = client(patient);
    let slow: Vec<_> = (0..5)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { get(&client, &format!("slow{number}")).await })
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while asked(&fake, "/token") == 0 {
        assert!(Instant::now() < deadline, "nobody asked for a token");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    get(&client, "good").await.unwrap();
    assert!(slow.iter().all(|task| !task.is_finished()), "the good one waited for the time-out of the others");
}
