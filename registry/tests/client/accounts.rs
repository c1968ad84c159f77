//! The account of the configuration: when it is refused, and when only a repository is. And whose challenge counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pierhead_registry::client::{AccountSettings, Client, ClientError, ListKind, Settings};

use crate::fake::{Fake, Seen, Step, answer, head};
use crate::{client, configured, login, settings, team};

pub(crate) fn with_account(fake: &Fake) -> Client {
    let mut own = settings(&[fake.url()]);
    own.endpoints[0].account = Some(configured(login("alice", "s3cret")));
    client(own)
}

pub(crate) fn challenge(seen: &Seen, path: &str, rest: &str) -> Vec<Step> {
    let host = seen.header("host").unwrap();
    answer(401, &[&format!("WWW-Authenticate: Bearer realm=\"http://{host}{path}\",service=\"s\"{rest}")], b"")
}

pub(crate) fn asked(fake: &Fake, start: &str) -> usize {
    fake.seen().iter().filter(|seen| seen.target.starts_with(start)).count()
}

#[tokio::test]
async fn a_refusal_of_the_account_is_told_from_that_of_a_repository() {
    // The token service's answer to a login with a scope, and to one without; what it means.
    for (scoped, bare, refused) in [
        (401, 401, true),
        (401, 403, true),
        (401, 200, false),
        // Some services want a scope.
        (401, 400, true),
        (401, 404, true),
        (403, 401, true),
        (403, 403, true),
        (403, 200, false),
        (404, 200, false),
        (400, 200, false),
        (400, 401, true),
    ] {
        let fake = Fake::start(move |seen, _| {
            if !seen.target.starts_with("/token") {
                return challenge(seen, "/token", "");
            }
            answer(if seen.target.contains("scope=") { scoped } else { bare }, &[], br#"{"token":"t"}"#)
        })
        .await;
        let client = with_account(&fake);
        let error = team(&client).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
        match &error {
            ClientError::AccountRefused { host, .. } => {
                assert!(refused && host.starts_with("127.0.0.1:"), "{scoped} {bare}: {error}");
            }
            ClientError::Forbidden { .. } => assert!(!refused && scoped == 403, "{scoped} {bare}: {error}"),
            ClientError::Unauthorized { .. } => assert!(!refused && scoped != 403, "{scoped} {bare}: {error}"),
            error => panic!("{scoped} {bare}: {error}"),
        }
        assert_eq!(client.account_refused().is_some(), refused, "{scoped} {bare}");
        assert_eq!(error.is_answer(), !refused, "{scoped} {bare}");
    }
}

#[tokio::test]
async fn basic_is_tried_at_the_api_itself() {
    for (api, refused) in [(401, true), (200, false), (404, false)] {
        let fake = Fake::start(move |seen, _| match (seen.target.as_str(), seen.header("authorization")) {
            ("/v2/", Some(_)) => answer(api, &[], b""),
            _ => answer(401, &["WWW-Authenticate: Basic realm=\"r\""], b""),
        })
        .await;
        let client = with_account(&fake);
        let error = team(&client).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
        assert_eq!(matches!(error, ClientError::AccountRefused { .. }), refused, "{api}: {error}");
        assert_eq!(matches!(error, ClientError::Unauthorized { .. }), !refused, "{api}: {error}");
    }
}

/// harbor#14822: an account that was locked is not tried with every request, and works again by itself.
#[tokio::test]
async fn logins_of_a_refused_account_are_spaced_out() {
    let works = Arc::new(AtomicUsize::new(0));
    let state = Arc::clone(&works);
    let fake = Fake::start(move |seen, _| match seen.header("authorization") {
        _ if seen.target.starts_with("/token") && state.load(Ordering::SeqCst) == 0 => answer(401, &[], b""),
        _ if seen.target.starts_with("/token") => answer(200, &[], br#"{"token":"t"}"#),
        Some("Bearer t") => answer(200, &[], b"{}"),
        _ => challenge(seen, "/token", ""),
    })
    .await;
    let client = with_account(&fake);
    let latest = "latest".parse().unwrap();
    let asking: Vec<_> = (0..30)
        .map(|number| {
            let repository = client.repository(&format!("team/{number}").parse().unwrap(), None);
            let latest = "latest".parse().unwrap();
            tokio::spawn(async move { repository.get_manifest(&latest, &[]).await })
        })
        .collect();
    for task in asking {
        let error = task.await.unwrap().unwrap_err();
        assert!(matches!(error, ClientError::AccountRefused { status: 401, .. }), "{error}");
    }
    assert!(asked(&fake, "/token") <= 5, "{} logins", asked(&fake, "/token"));
    works.store(1, Ordering::SeqCst);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while team(&client).get_manifest(&latest, &[]).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the account was never tried again");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(client.account_refused(), None);
}

#[tokio::test]
async fn a_renewed_password_file_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "old\n").unwrap();
    let fake = Fake::start(|seen, _| match seen.header("authorization") {
        Some("Basic YWxpY2U6bmV3") => answer(200, &[], b"{}"),
        _ => answer(401, &["WWW-Authenticate: Basic realm=\"r\""], b""),
    })
    .await;
    let mut own = settings(&[fake.url()]);
    own.endpoints[0].account =
        Some(AccountSettings { account: login("alice", "old"), password_file: Some(file.clone()) });
    let client = client(own);
    let latest = "latest".parse().unwrap();
    let refused = team(&client).get_manifest(&latest, &[]).await.unwrap_err();
    assert!(matches!(refused, ClientError::AccountRefused { .. }), "{refused}");
    std::fs::write(&file, "new\n").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while team(&client).get_manifest(&latest, &[]).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the new password was never used");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// nexus-public#873: each repository has a token service of its own.
#[tokio::test]
async fn the_challenge_of_this_answer_counts() {
    let fake = Fake::start(|seen, _| {
        let part = |prefix: &str| seen.target.strip_prefix(prefix).and_then(|rest| rest.split('/').next());
        if let Some(repository) = part("/api/docker/") {
            let fits = seen.target.contains(&format!("scope=repository%3A{repository}%3Apull"));
            let token = format!(r#"{{"token":"{repository}"}}"#);
            return answer(if fits { 200 } else { 404 }, &[], token.as_bytes());
        }
        let repository = part("/v2/").unwrap();
        match seen.header("authorization") {
            Some(shown) if shown == format!("Bearer {repository}") => answer(200, &[], b"{}"),
            _ => challenge(seen, &format!("/api/docker/{repository}/v2/token"), ""),
        }
    })
    .await;
    let client = client(settings(&[fake.url()]));
    for name in ["a", "b", "c", "b", "a"] {
        let repository = client.repository(&name.parse().unwrap(), None);
        let result = repository.get_manifest(&"latest".parse().unwrap(), &[]).await;
        assert!(result.is_ok(), "{name}: {:?}", result.err());
    }
}

/// containerd#13412: the name that the registry uses for tokens is another.
#[tokio::test]
async fn the_scope_of_the_challenge_is_asked_for() {
    let fake = Fake::start(|seen, _| match seen.header("authorization") {
        _ if seen.target.starts_with("/token") => {
            let fits = seen.target.contains("scope=repository%3Aproxy%2Fteam%2Fapp%3Apull");
            answer(if fits { 200 } else { 403 }, &[], br#"{"token":"t"}"#)
        }
        Some("Bearer t") => answer(200, &[], b"{}"),
        _ => challenge(seen, "/token", ",scope=\"repository:proxy/team/app:pull\""),
    })
    .await;
    let client = client(settings(&[fake.url()]));
    for _ in 0..3 {
        assert!(team(&client).get_manifest(&"latest".parse().unwrap(), &[]).await.is_ok());
    }
    assert_eq!((asked(&fake, "/token"), fake.seen().len()), (1, 5));
}

/// Azure's registry wants another scope for lists than for content.
#[tokio::test]
async fn lists_may_want_another_scope() {
    let fake = Fake::start(|seen, _| {
        let wanted = if seen.target.contains("/tags/") { "metadata_read" } else { "pull" };
        match seen.header("authorization") {
            _ if seen.target.starts_with("/token") => {
                let token = if seen.target.contains("metadata_read") { "metadata_read" } else { "pull" };
                answer(200, &[], format!(r#"{{"token":"{token}"}}"#).as_bytes())
            }
            Some(shown) if shown == format!("Bearer {wanted}") => answer(200, &[], b"{}"),
            _ => challenge(seen, "/token", &format!(",scope=\"repository:team/app:{wanted}\"")),
        }
    })
    .await;
    let client = client(settings(&[fake.url()]));
    for _ in 0..3 {
        assert!(team(&client).get_manifest(&"latest".parse().unwrap(), &[]).await.is_ok());
        assert!(team(&client).get_list(&ListKind::Tags, None).await.is_ok());
    }
    assert_eq!(asked(&fake, "/token"), 2);
}

/// What a repository wants for its content is tried for its lists, and only a challenge says otherwise.
#[tokio::test]
async fn a_list_costs_no_request_to_learn_what_is_known() {
    let fake = Fake::start(|seen, _| match seen.header("authorization") {
        _ if seen.target.starts_with("/token") => answer(200, &[], br#"{"token":"t"}"#),
        Some("Bearer t") => answer(200, &[], b"{}"),
        _ => challenge(seen, "/token", ",scope=\"repository:proxy/team/app:pull\""),
    })
    .await;
    let client = client(settings(&[fake.url()]));
    assert!(team(&client).get_manifest(&"latest".parse().unwrap(), &[]).await.is_ok());
    let before = fake.seen().len();
    for kind in [ListKind::Tags, ListKind::Referrers(crate::digest(b"{}"))] {
        assert!(team(&client).get_list(&kind, None).await.is_ok());
    }
    assert_eq!(fake.seen().len(), before + 2);
}

/// Tokens that are good for one request, under a scope that a second challenge widens. A request never fails for a token that was
/// used up, and a challenge that asks for less than was shown does not take the way by the narrow scope again.
#[tokio::test]
async fn tokens_that_are_used_up() {
    for (head_status, widened) in [(200, false), (429, false), (404, false), (200, true), (404, true)] {
        let issued = AtomicUsize::new(0);
        let used = std::sync::Mutex::new(std::collections::HashSet::new());
        let fake = Fake::start(move |seen, _| {
            if seen.target.starts_with("/token") {
                let wide = seen.target.contains("metadata_read") || !widened;
                let number = issued.fetch_add(1, Ordering::SeqCst);
                return answer(200, &[], format!(r#"{{"token":"{number}-{wide}"}}"#).as_bytes());
            }
            let pull = "repository:team/app:pull";
            let Some(shown) = seen.header("authorization").map(str::to_owned) else {
                return challenge(seen, "/token", &format!(",scope=\"{pull}\""));
            };
            let is_wide = shown.ends_with("true");
            if !used.lock().unwrap().insert(shown) {
                return challenge(seen, "/token", &format!(",scope=\"{pull}\",error=\"invalid_token\""));
            }
            match seen.method.as_str() {
                _ if !is_wide => {
                    let scope = format!(",scope=\"{pull} repository:team/app:metadata_read\"");
                    challenge(seen, "/token", &format!("{scope},error=\"insufficient_scope\""))
                }
                "HEAD" => vec![head(head_status, &[])],
                _ => answer(200, &["Content-Type: a/b"], b"{}"),
            }
        })
        .await;
        let (client, latest) = (client(settings(&[fake.url()])), "latest".parse().unwrap());
        for _ in 0..3 {
            let found = team(&client).head_manifest(&latest, &[], None).await;
            assert!(found.is_ok(), "{head_status} {widened}: {found:?}");
            let before = fake.seen().len();
            assert!(team(&client).get_manifest(&latest, &[]).await.is_ok(), "{head_status} {widened}");
            // The token that was used up, another one, and what was asked for.
            assert_eq!(fake.seen().len() - before, 3, "{head_status} {widened}");
        }
    }
}

/// moby#38662: the token service answers at another path of its own origin, with the account.
#[tokio::test]
async fn a_token_services_redirects_are_followed_on_its_own_origin() {
    let thief = Fake::start(|_, _| answer(200, &[], br#"{"token":"t"}"#)).await;
    let away = format!("Location: {}", thief.url().join("/token").unwrap());
    for (location, expected) in
        [("Location: /moved?x=1".to_owned(), true), ("Location: /token".to_owned(), false), (away, false)]
    {
        let fake = Fake::start(move |seen, _| match (seen.target.as_str(), seen.header("authorization")) {
            ("/moved?x=1", Some("Basic YWxpY2U6czNjcmV0")) => answer(200, &[], br#"{"token":"t"}"#),
            (target, _) if target.starts_with("/token") => answer(301, &[&location], b""),
            (_, Some("Bearer t")) => answer(200, &[], b"{}"),
            _ => challenge(seen, "/token", ""),
        })
        .await;
        let client = with_account(&fake);
        let result = team(&client).get_manifest(&"latest".parse().unwrap(), &[]).await;
        assert_eq!(result.is_ok(), expected, "{result:?}");
        assert!(asked(&fake, "/token") <= 3);
    }
    assert!(thief.seen().is_empty());
}

/// A token service may move to where a challenge could have named it: to a host in `realms`, with the account, and nowhere else.
#[tokio::test]
async fn a_token_service_may_move_to_a_host_in_realms() {
    for (listed, expected) in [(true, true), (false, false)] {
        let moved = Fake::start(|seen, _| match seen.header("authorization") {
            Some("Basic YWxpY2U6czNjcmV0") => answer(200, &[], br#"{"token":"t"}"#),
            _ => answer(401, &[], b""),
        })
        .await;
        let location = format!("Location: {}", moved.url().join("/token").unwrap());
        let fake = Fake::start(move |seen, _| match seen.header("authorization") {
            _ if seen.target.starts_with("/token") => answer(307, &[&location], b""),
            Some("Bearer t") => answer(200, &[], b"{}"),
            _ => challenge(seen, "/token", ""),
        })
        .await;
        let mut own = settings(&[fake.url()]);
        own.endpoints[0].account = Some(configured(login("alice", "s3cret")));
        if listed {
            own.realms = vec![format!("127.0.0.1:{}", moved.url().port().unwrap())];
        }
        let result = team(&client(own)).get_manifest(&"latest".parse().unwrap(), &[]).await;
        assert_eq!((result.is_ok(), moved.seen().len()), (expected, usize::from(expected)), "{result:?}");
        assert!(result.is_ok() || format!("{result:?}").contains("name it in realms"), "{result:?}");
    }
}

/// Where the GET that should decide cannot, a HEAD's 404 is what a client would have learnt without this one. Where something is
/// known it is no reason to doubt that.
#[tokio::test]
async fn a_heads_404_stands_where_the_get_says_nothing_of_the_manifest() {
    for (head_status, get_status, known, unconfirmed) in [
        (404, 405, false, true),
        (404, 416, false, true),
        (404, 429, false, true),
        (404, 501, false, true),
        (410, 503, false, true),
        (404, 503, true, false),
        (404, 404, false, false),
        (404, 403, false, false),
        (405, 503, false, false),
        (503, 503, false, false),
    ] {
        let fake = Fake::start(move |seen, _| match seen.method.as_str() {
            "HEAD" => vec![head(head_status, &[])],
            _ => answer(get_status, &["Retry-After: 3600"], b"no"),
        })
        .await;
        let client = client(Settings { retries: 0, ..settings(&[fake.url()]) });
        let known = known.then(|| crate::digest(b"{}"));
        let error = team(&client).head_manifest(&"latest".parse().unwrap(), &[], known.as_ref()).await.unwrap_err();
        let found = matches!(error, ClientError::Unconfirmed { .. });
        assert_eq!(found, unconfirmed, "{head_status} {get_status}: {error}");
    }
}

/// diun#1614, containerd#6684: a HEAD's no is no answer, whatever its status.
#[tokio::test]
async fn a_get_decides_where_a_head_does_not() {
    let content = format!("Docker-Content-Digest: {}", crate::digest(b"{}"));
    let bad_heads: Vec<Vec<String>> = [400, 401, 403, 404, 405, 410, 429, 500, 501, 503]
        .iter()
        .map(|status| vec![format!("{status}")])
        .chain([
            vec!["200".to_owned(), "Content-Length: 2".to_owned(), content.clone()],
            vec!["200".to_owned(), "Content-Type: a/b".to_owned(), "Content-Length: 0".to_owned(), content.clone()],
            vec!["200".to_owned(), "Content-Type: a/b".to_owned(), "Content-Length: 2".to_owned()],
        ])
        .collect();
    for lines in bad_heads {
        let told = lines.clone();
        let fake = Fake::start(move |seen, _| {
            if seen.method == "GET" {
                return answer(200, &["Content-Type: a/b"], b"{}");
            }
            let rest: Vec<&str> = told[1..].iter().map(String::as_str).collect();
            vec![head(told[0].parse().unwrap(), &rest)]
        })
        .await;
        let client = client(settings(&[fake.url()]));
        let found = team(&client).head_manifest(&"latest".parse().unwrap(), &[], None).await.unwrap();
        let told = (found.digest(), found.media_type(), found.size());
        assert_eq!(told, (crate::digest(b"{}"), "a/b", 2), "{lines:?}");
        assert_eq!(fake.seen().len(), 2, "one request more: {lines:?}");
    }
}
