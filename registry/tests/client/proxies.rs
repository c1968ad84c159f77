//! Proxies that the environment names. The environment is a process's own, so a second process looks at it.

use std::process::Stdio;

use pierhead_registry::client::{BlobHead, ClientError};
use url::Url;

use crate::fake::{Fake, answer};
use crate::{digest, repository};

const UPSTREAM: &str = "PIERHEAD_TEST_UPSTREAM";

#[tokio::test]
async fn the_environments_proxy_is_used_except_where_it_says_not_and_on_this_machine() {
    let proxy = Fake::start(|seen, _| match seen.target.ends_with("/moved") {
        true => answer(307, &["Location: http://store.invalid/b?q='a'"], b""),
        false => answer(200, &[], b"1234567"),
    })
    .await;
    let here = Fake::start(|_, _| answer(404, &[], b"")).await;
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "proxies::in_such_an_environment"])
        .env(UPSTREAM, here.url().as_str())
        .env("HTTP_PROXY", proxy.url().as_str())
        .env("NO_PROXY", "direct.invalid")
        .stdout(Stdio::piped())
        .output();
    let output = child.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(here.seen().len(), 1);
    let targets: Vec<_> = proxy.seen().into_iter().map(|seen| seen.target).collect();
    let asked = format!("http://registry.invalid/v2/team/app/blobs/{}", digest(b"x"));
    let moved = "http://registry.invalid/v2/team/app/manifests/moved".to_owned();
    assert_eq!(targets, [asked, moved, "http://store.invalid/b?q='a'".to_owned()]);
}

#[tokio::test]
#[ignore = "needs the environment that the test above prepares"]
async fn in_such_an_environment() {
    let Ok(here) = std::env::var(UPSTREAM) else { return };
    let ask = async |url: &str| repository(&[Url::parse(url).unwrap()]).head_blob(&digest(b"x"), None).await;
    assert_eq!(ask("http://registry.invalid").await.unwrap(), BlobHead::Size(Some(7)));
    let at = repository(&[Url::parse("http://registry.invalid").unwrap()]);
    assert_eq!(at.get_manifest(&"moved".parse().unwrap(), &[]).await.unwrap().bytes, b"1234567"[..]);
    assert!(matches!(ask("http://direct.invalid").await, Err(ClientError::Unavailable { .. })));
    assert!(matches!(ask(&here).await, Err(ClientError::Unconfirmed { .. })));
}
