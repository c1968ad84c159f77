//! Challenges, tokens, and who gets to see a password.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pierhead_registry::client::{BlobHead, ClientError, ListKind};

use crate::accounts::challenge;
use crate::fake::{Fake, Seen, Step, answer, head};
use crate::{as_account, client, configured, digest, login, settings, silent_about, team};

/// An answer to a HEAD of a blob of seven bytes.
fn seven() -> Vec<Step> {
    vec![head(200, &["Content-Length: 7"])]
}

/// A registry that wants a token from `realm` (`@SELF@` is its own address), and accepts what `accepts` accepts.
async fn bearer_registry(
    realm: &'static str,
    token: impl Fn(&Seen, usize) -> Vec<Step> + Send + Sync + 'static,
    accepts: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> Fake {
    let issued = AtomicUsize::new(0);
    Fake::start(move |seen, _| {
        if seen.target.starts_with("/token") {
            return token(seen, issued.fetch_add(1, Ordering::SeqCst));
        }
        match seen.header("authorization") {
            Some(shown) if accepts(shown) => seven(),
            _ => {
                let realm = realm.replace("@SELF@", &format!("http://{}", seen.header("host").unwrap()));
                let challenge = format!(r#"WWW-Authenticate: Bearer realm="{realm}",service="some service",scope="x""#);
                answer(401, &["WWW-Authenticate: Negotiate", &challenge], b"")
            }
        }
    })
    .await
}

fn token_requests(fake: &Fake) -> Vec<Seen> {
    fake.seen().into_iter().filter(|seen| seen.target.starts_with("/token")).collect()
}

fn issues(seen: &Seen, number: usize) -> Vec<Step> {
    let _ = seen;
    answer(200, &[], format!(r#"{{"access_token":"t{number}","expires_in":300}}"#).as_bytes())
}

#[tokio::test]
async fn a_token_is_asked_for_and_kept() {
    let fake = bearer_registry("@SELF@/token?account=x", issues, |shown| shown == "Bearer t0").await;
    let client = client(settings(&[fake.url()]));
    for _ in 0..3 {
        assert_eq!(team(&client).head_blob(&digest(b"x"), None).await.unwrap(), BlobHead::Size(Some(7)));
    }
    let asked = token_requests(&fake);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].method, "GET");
    let query = "/token?account=x&service=some+service&scope=repository%3Ateam%2Fapp%3Apull";
    assert_eq!(asked[0].target, query);
    assert_eq!(asked[0].header("authorization"), None, "anonymous");
    // One challenge, one token, and from then on one request each.
    assert_eq!(fake.seen().len(), 5);

    // Another repository needs a token of its own, and asks where to get it. Once two agree the next one knows that already: a
    // token, the HEAD, and the GET that decides.
    for (number, (name, requests)) in [("other", 4), ("third", 3)].into_iter().enumerate() {
        let before = fake.seen().len();
        let repository = client.repository(&name.parse().unwrap(), None);
        assert!(matches!(repository.head_blob(&digest(b"x"), None).await, Err(ClientError::Unauthorized { .. })));
        assert!(token_requests(&fake)[number + 1].target.ends_with(&format!("scope=repository%3A{name}%3Apull")));
        assert_eq!(fake.seen().len() - before, requests, "{name}");
    }
}

#[tokio::test]
async fn a_token_is_issued_to_its_caller() {
    let secret = STANDARD.encode("alice:s3cret");
    let expected = format!("Basic {secret}");
    let token = move |seen: &Seen, _| {
        if seen.header("authorization") == Some(&expected) {
            answer(200, &[], br#"{"token":"hers"}"#)
        } else if seen.header("authorization").is_some() {
            answer(401, &[], b"")
        } else {
            answer(200, &[], br#"{"token":"anybodys"}"#)
        }
    };
    let fake = bearer_registry("@SELF@/token", token, |shown| shown == "Bearer hers").await;
    let client = client(settings(&[fake.url()]));
    let name = "team/app".parse().unwrap();
    let alice = client.repository(&name, Some(&as_account(login("alice", "s3cret"))));
    assert_eq!(alice.head_blob(&digest(b"x"), None).await.unwrap(), BlobHead::Size(Some(7)));
    assert!(matches!(team(&client).head_blob(&digest(b"x"), None).await, Err(ClientError::Unauthorized { .. })));
    let mallory = client.repository(&name, Some(&as_account(login("alice", "guess"))));
    assert!(matches!(mallory.head_blob(&digest(b"x"), None).await, Err(ClientError::Unauthorized { .. })));
    let toward_registry = fake.seen().into_iter().filter(|seen| !seen.target.starts_with("/token"));
    for seen in toward_registry {
        assert!(!seen.header("authorization").unwrap_or_default().starts_with("Basic"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_refused_token_is_refreshed_once() {
    let good = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&good);
    let fake = bearer_registry("@SELF@/token", issues, move |shown| {
        shown == format!("Bearer t{}", accepted.load(Ordering::SeqCst))
    })
    .await;
    let client = client(settings(&[fake.url()]));
    assert!(team(&client).head_blob(&digest(b"x"), None).await.is_ok());
    good.store(1, Ordering::SeqCst);
    assert!(team(&client).head_blob(&digest(b"x"), None).await.is_ok());
    assert_eq!(token_requests(&fake).len(), 2);
    good.store(usize::MAX, Ordering::SeqCst);
    assert!(matches!(team(&client).head_blob(&digest(b"x"), None).await, Err(ClientError::Unauthorized { .. })));
    assert_eq!(token_requests(&fake).len(), 3);
}

/// A token that ended before it said is refused, and some registries challenge only whoever shows nothing.
#[tokio::test]
async fn a_token_that_is_refused_without_a_challenge_is_renewed() {
    let good = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&good);
    let issued = AtomicUsize::new(0);
    let fake = Fake::start(move |seen, _| {
        let realm = format!(r#"WWW-Authenticate: Bearer realm="http://{}/token""#, seen.header("host").unwrap());
        match (seen.target.starts_with("/token"), seen.header("authorization")) {
            (true, _) => issues(seen, issued.fetch_add(1, Ordering::SeqCst)),
            (_, None) => answer(401, &[&realm], b""),
            (_, Some(shown)) if shown == format!("Bearer t{}", accepted.load(Ordering::SeqCst)) => seven(),
            _ => answer(401, &[], b""),
        }
    })
    .await;
    let client = client(settings(&[fake.url()]));
    for number in 0..3 {
        good.store(number, Ordering::SeqCst);
        assert!(team(&client).head_blob(&digest(b"x"), None).await.is_ok(), "{number}");
        assert_eq!(token_requests(&fake).len(), number + 1);
    }
    good.store(usize::MAX, Ordering::SeqCst);
    let before = fake.seen().len();
    assert!(matches!(team(&client).head_blob(&digest(b"x"), None).await, Err(ClientError::Unauthorized { .. })));
    assert!(fake.seen().len() - before <= 5, "{:?}", fake.seen());
}

/// containerd#3291: some registries challenge at `/v2/` alone, and refuse or deny everything else to whoever shows nothing.
#[tokio::test]
async fn a_challenge_of_the_base_counts_where_nothing_else_challenges() {
    for account in [None, Some(login("edge", "secret"))] {
        for status in [401, 403, 404] {
            for challenges in [true, false] {
                let wants = account.as_ref().map(|_| format!("Basic {}", STANDARD.encode("edge:secret")));
                let fake = Fake::start(move |seen, _| {
                    // The scope is ghcr.io's for all.
                    let realm = format!(
                        r#"WWW-Authenticate: Bearer realm="http://{}/token",scope="repository:user/image:pull""#,
                        seen.header("host").unwrap()
                    );
                    match (seen.target.as_str(), seen.header("authorization")) {
                        (target, shown) if target.starts_with("/token") => {
                            match shown == wants.as_deref() && target.contains("team") {
                                true => answer(200, &[], br#"{"token":"t"}"#),
                                false => answer(401, &[], b""),
                            }
                        }
                        ("/v2/", _) if challenges => answer(401, &[&realm], b""),
                        ("/v2/", _) => answer(200, &[], b"{}"),
                        (_, Some("Bearer t")) => answer(200, &[], b"{}"),
                        _ => answer(status, &[], b"{}"),
                    }
                })
                .await;
                let mut settings = settings(&[fake.url()]);
                settings.endpoints[0].account = account.clone().map(configured);
                let client = client(settings);
                let case = format!("{status}, {} account, {challenges}", if account.is_some() { "an" } else { "no" });
                let asked = |path: &str| fake.seen().iter().filter(|seen| seen.target == path).count();
                // Where there is no account, only a 401 means that something must be shown.
                let asks = account.is_some() || status == 401;
                for name in ["team/app", "team/other", "team/app"] {
                    let repository = client.repository(&name.parse().unwrap(), None);
                    let found = repository.get_manifest(&"latest".parse().unwrap(), &[]).await;
                    assert_eq!(found.is_ok(), challenges && asks, "{case} {name}");
                }
                assert_eq!(asked("/v2/"), usize::from(asks), "{case}: once for all");
            }
        }
    }
}

/// That `/v2/` fails says nothing of what it wants, and nothing of what was asked for: it is a failure, and it is asked again.
#[tokio::test]
async fn a_failure_of_the_base_is_no_answer() {
    for status in [401, 403, 404] {
        for passthrough in [false, true] {
            let fails = Arc::new(std::sync::atomic::AtomicBool::new(true));
            let failing = Arc::clone(&fails);
            let fake = Fake::start(move |seen, _| {
                let realm =
                    format!(r#"WWW-Authenticate: Bearer realm="http://{}/token""#, seen.header("host").unwrap());
                match (seen.target.as_str(), seen.header("authorization")) {
                    (target, _) if target.starts_with("/token") => answer(200, &[], br#"{"token":"t"}"#),
                    ("/v2/", _) if failing.load(Ordering::SeqCst) => answer(503, &[], b""),
                    ("/v2/", _) => answer(401, &[&realm], b""),
                    (_, Some("Bearer t")) => answer(200, &[], b"{}"),
                    _ => answer(status, &[], b"{}"),
                }
            })
            .await;
            let mut settings = settings(&[fake.url()]);
            settings.retries = 0;
            let edge = login("edge", "secret");
            settings.endpoints[0].account = (!passthrough).then(|| configured(edge.clone()));
            let client = client(settings);
            let caller = passthrough.then(|| as_account(edge));
            let repository = client.repository(&"team/app".parse().unwrap(), caller.as_ref());
            let ask = async || repository.get_manifest(&"latest".parse().unwrap(), &[]).await;
            let error = ask().await.unwrap_err();
            assert!(matches!(error, ClientError::Unavailable { .. }), "{status}: {error}");
            fails.store(false, Ordering::SeqCst);
            assert!(ask().await.is_ok(), "{status}");
        }
    }
}

/// A token may be good for a few requests only; its registry says so (RFC 6750). Then it is renewed for the scope that is
/// known to be wanted, also between a HEAD and the GET that decides.
#[tokio::test]
async fn a_token_that_is_used_up_is_renewed() {
    let blob_of = digest(b"x");
    for (uses, wider) in [(1, false), (1, true), (2, false), (2, true), (3, true)] {
        let used = std::sync::Mutex::new(std::collections::HashMap::<String, usize>::new());
        let fake = Fake::start(move |seen, number| {
            if let Some(query) = seen.target.strip_prefix("/token?") {
                let wide = query.contains("metadata_read");
                return answer(200, &[], format!(r#"{{"token":"{number}-{wide}"}}"#).as_bytes());
            }
            let challenge = |scope: &str, error: &str| {
                let realm = format!("http://{}/token", seen.header("host").unwrap());
                let scope = format!("repository:team/app:pull{scope}");
                answer(401, &[&format!(r#"WWW-Authenticate: Bearer realm="{realm}",scope="{scope}"{error}"#)], b"")
            };
            let Some(shown) = seen.header("authorization") else { return challenge("", "") };
            let mut used = used.lock().unwrap();
            let used = used.entry(shown.to_owned()).or_default();
            *used += 1;
            if *used > uses {
                return challenge("", r#",error="invalid_token""#);
            }
            if wider && !shown.ends_with("true") {
                return challenge(" repository:team/app:metadata_read", r#",error="insufficient_scope""#);
            }
            match seen.method.as_str() {
                "HEAD" => answer(405, &[], b""),
                _ => answer(206, &["Content-Range: bytes 0-0/1"], b"x"),
            }
        })
        .await;
        let client = client(settings(&[fake.url()]));
        for round in 0..4 {
            let before = fake.seen().len();
            assert_eq!(
                team(&client).find_blob(&blob_of, None).await.unwrap(),
                BlobHead::Size(Some(1)),
                "{uses} {wider} {round}"
            );
            let cost = fake.seen().len() - before;
            assert!(cost <= if round == 0 { 8 } else { 3 }, "{uses} {wider} {round}: {cost}");
        }
        // Requests at the same time use up each other's tokens. In the end each gets one of its own.
        let at_once = (0..12).map(|_| {
            let repository = team(&client);
            async move { repository.find_blob(&blob_of, None).await }
        });
        for found in futures_util::future::join_all(at_once).await {
            assert_eq!(found.unwrap(), BlobHead::Size(Some(1)), "{uses} {wider}");
        }
    }
}

/// A 401 to a HEAD that asks for nothing does not say that a token which worked has ended. The GET's does.
#[tokio::test]
async fn a_heads_401_without_a_challenge_costs_no_token() {
    for (get_status, expected) in [(206, 2), (401, 4)] {
        let fake = Fake::start(move |seen, number| {
            let shown = seen.header("authorization");
            match (seen.method.as_str(), shown) {
                _ if seen.target.starts_with("/token") => {
                    answer(200, &[], format!(r#"{{"token":"{number}"}}"#).as_bytes())
                }
                (_, None) => challenge(seen, "/token", ""),
                _ if seen.target.contains("/tags/") => answer(200, &[], b"{}"),
                ("HEAD", _) => answer(401, &[], b""),
                // The first token, which the list was asked for with.
                (_, Some("Bearer 1")) if get_status == 401 => answer(401, &[], b""),
                _ => answer(206, &["Content-Range: bytes 0-0/1"], b"x"),
            }
        })
        .await;
        let client = client(settings(&[fake.url()]));
        team(&client).get_list(&ListKind::Tags, None).await.unwrap();
        let before = fake.seen().len();
        let found = team(&client).find_blob(&digest(b"x"), None).await;
        assert_eq!(found.unwrap(), BlobHead::Size(Some(1)), "{get_status}");
        assert_eq!(fake.seen().len() - before, expected, "{get_status}: {:?}", fake.seen());
    }
}

/// A 429 uses a token up as any other answer.
#[tokio::test]
async fn a_token_that_a_limit_has_used_up_is_renewed() {
    let used = std::sync::Mutex::new(Vec::<String>::new());
    let fake = Fake::start(move |seen, number| {
        let mut used = used.lock().unwrap();
        match seen.header("authorization") {
            _ if seen.target.starts_with("/token") => answer(200, &[], format!(r#"{{"token":"{number}"}}"#).as_bytes()),
            Some(shown) if !used.contains(&shown.to_owned()) => {
                used.push(shown.to_owned());
                if used.len() == 1 { answer(429, &["Retry-After: 1"], b"") } else { answer(200, &[], b"{}") }
            }
            _ => challenge(seen, "/token", ""),
        }
    })
    .await;
    let client = client(settings(&[fake.url()]));
    assert!(team(&client).get_manifest(&"latest".parse().unwrap(), &[]).await.is_ok());
    assert!(team(&client).get_list(&ListKind::Tags, None).await.is_ok());
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let short = |_: &Seen, number| answer(200, &[], format!(r#"{{"token":"t{number}","expires_in":1}}"#).as_bytes());
    let fake = bearer_registry("@SELF@/token", short, |_| true).await;
    let client = client(settings(&[fake.url()]));
    let deadline = Instant::now() + Duration::from_secs(20);
    while token_requests(&fake).len() < 2 {
        assert!(Instant::now() < deadline, "the token was never renewed");
        assert!(team(&client).head_blob(&digest(b"x"), None).await.is_ok());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = fake.seen().iter().filter(|seen| seen.header("authorization").is_none()).count();
    assert_eq!(refused, 3, "one challenge and two token requests");
}

#[tokio::test]
async fn many_callers_share_one_token_request() {
    let fake = bearer_registry("@SELF@/token", issues, |shown| shown == "Bearer t0").await;
    let client = client(settings(&[fake.url()]));
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let repository = team(&client);
            tokio::spawn(async move { repository.head_blob(&digest(b"x"), None).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), BlobHead::Size(Some(7)));
    }
    assert_eq!(token_requests(&fake).len(), 1);
}

#[tokio::test]
async fn a_hostile_realm_is_never_contacted() {
    let thief = Fake::start(|_, _| answer(200, &[], br#"{"token":"t0"}"#)).await;
    // The same machine by another name: for the client, another host.
    let realm = thief.on("localhost").join("/token").unwrap().to_string();
    let challenge = format!(r#"WWW-Authenticate: Bearer realm="{realm}",service="s""#);
    let fake = Fake::start(move |_, _| answer(401, &[&challenge, "WWW-Authenticate: Basic realm=\"x\""], b"")).await;
    let mut with_password = settings(&[fake.url()]);
    with_password.endpoints[0].account = Some(configured(login("alice", "s3cret")));
    let error = team(&client(with_password.clone())).head_blob(&digest(b"x"), None).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid { .. }), "{error}");
    silent_about(&error, &["alice", "s3cret"]);
    assert!(thief.seen().is_empty());
    assert!(fake.seen().iter().all(|seen| seen.header("authorization").is_none()));

    // Unless the configuration knows it.
    with_password.realms = vec!["localhost".to_owned()];
    assert!(team(&client(with_password)).head_blob(&digest(b"x"), None).await.is_err());
    assert_eq!(thief.seen().len(), 1);
}

#[tokio::test]
async fn token_services_that_fail() {
    type Script = fn(&Seen, usize) -> Vec<Step>;
    let denied: Script = |_, _| answer(403, &[], b"");
    let redirects: Script = |_, _| answer(302, &["Location: http://localhost:9/token?secret=1"], b"");
    let endless: Script = |_, _| vec![head(200, &[]), Step::Endless(vec![b'x'; 4096])];
    let gibberish: Script = |_, _| answer(200, &[], b"secret");
    for (script, what) in [(denied, "denied"), (redirects, "redirects"), (endless, "endless"), (gibberish, "gibberish")]
    {
        let fake = bearer_registry("@SELF@/token", script, |_| true).await;
        let error = team(&client(settings(&[fake.url()]))).head_blob(&digest(b"x"), None).await.unwrap_err();
        let expected = match error {
            ClientError::Forbidden { .. } => what == "denied",
            ClientError::Invalid { .. } => what != "denied",
            _ => false,
        };
        assert!(expected, "{what}: {error}");
        silent_about(&error, &["secret"]);
        assert_eq!(token_requests(&fake).len(), 1, "{what}");
    }
    let twice_broken: Script = |seen, number| if number < 2 { answer(503, &[], b"") } else { issues(seen, 0) };
    let fake = bearer_registry("@SELF@/token", twice_broken, |shown| shown == "Bearer t0").await;
    assert_eq!(
        team(&client(settings(&[fake.url()]))).head_blob(&digest(b"x"), None).await.unwrap(),
        BlobHead::Size(Some(7))
    );
}

#[tokio::test]
async fn a_registry_may_change_its_mind() {
    // Tokens at first, then the token service is gone and everything is public.
    let public = Arc::new(AtomicUsize::new(0));
    let state = Arc::clone(&public);
    let fake = Fake::start(move |seen, _| match (seen.target.starts_with("/token"), state.load(Ordering::SeqCst)) {
        (true, 0) => answer(200, &[], br#"{"token":"t","expires_in":1}"#),
        (true, _) => answer(404, &[], b""),
        (false, 0) if seen.header("authorization").is_none() => {
            let host = seen.header("host").unwrap();
            answer(401, &[&format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"")], b"")
        }
        (false, _) => seven(),
    })
    .await;
    let client = client(settings(&[fake.url()]));
    assert!(team(&client).head_blob(&digest(b"x"), None).await.is_ok());
    public.store(1, Ordering::SeqCst);
    let other = client.repository(&"other".parse().unwrap(), None);
    assert!(other.head_blob(&digest(b"x"), None).await.is_ok());
}

#[tokio::test]
async fn a_dead_token_service_is_waited_for_once() {
    let silent = Fake::start(|_, _| vec![Step::Hang]).await;
    let challenge = format!("WWW-Authenticate: Bearer realm=\"{}token\"", silent.url());
    let fake = Fake::start(move |_, _| answer(401, &[&challenge], b"")).await;
    let mut impatient = settings(&[fake.url()]);
    impatient.realms = vec!["127.0.0.1".to_owned()];
    (impatient.connect_timeout, impatient.first_byte_timeout) =
        (Duration::from_millis(200), Duration::from_millis(800));
    let client = client(impatient);
    for scope in ["one", "two", "three"] {
        let repository = client.repository(&scope.parse().unwrap(), None);
        assert!(matches!(repository.head_blob(&digest(b"x"), None).await, Err(ClientError::Unavailable { .. })));
        assert!(!client.available(), "without tokens the endpoint is of no use");
    }
    let asked = silent.seen().iter().filter(|request| request.target.contains("scope=")).count();
    assert_eq!(asked, 1, "only the lookout asks again");
}
