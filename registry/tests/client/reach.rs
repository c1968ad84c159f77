//! Where redirects do not lead.

use std::net::IpAddr;

use pierhead_registry::client::{ClientError, ListKind, RedirectTarget};
use pierhead_registry::oci::Reference;

use crate::fake::{Fake, answer};
use crate::{client, content, digest, drain, login, settings, silent_about, team};

/// An upstream that redirects all to one place.
async fn leading_to(target: String) -> Fake {
    Fake::start(move |_, _| answer(307, &[&format!("Location: {target}")], b"")).await
}

/// Every spelling of the port on this machine, and of a query: one as any client sends it, and one that is sent as written.
fn spellings(port: u16) -> Vec<String> {
    let hosts =
        ["127.0.0.1", "2130706433", "127.1", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0", "localhost", "a.localhost"];
    let queries = ["secret=1", "secret='1'"];
    let all = hosts.iter().flat_map(|host| queries.iter().map(move |query| (host, query)));
    all.map(|(host, query)| format!("http://{host}:{port}/metrics?{query}")).collect()
}

#[tokio::test]
async fn mutable_things_do_not_come_from_another_port_of_this_machine() {
    let inside = Fake::start(|_, _| answer(200, &[], b"{\"secret\":1}")).await;
    for target in spellings(inside.url().port().unwrap()) {
        let fake = leading_to(target.clone()).await;
        let client = client(settings(&[fake.url()]));
        let mut errors = vec![
            team(&client).get_manifest(&"latest".parse().unwrap(), &[]).await.map(drop).unwrap_err(),
            team(&client).head_manifest(&"latest".parse().unwrap(), &[], None).await.map(drop).unwrap_err(),
        ];
        for kind in [ListKind::Tags, ListKind::Referrers(digest(b"x"))] {
            errors.push(team(&client).get_list(&kind, None).await.map(drop).unwrap_err());
        }
        for error in errors {
            assert!(
                matches!(&error, ClientError::Invalid { reason, .. } if reason.contains("may not lead")),
                "{target}: {error}"
            );
            silent_about(&error, &["secret", "metrics"]);
        }
    }
    assert!(inside.seen().is_empty());
}

#[tokio::test]
async fn nothing_leads_to_a_listener_of_this_edge() {
    let bytes = content(1000);
    let body = bytes.clone();
    let admin = Fake::start(move |_, _| answer(200, &[], &body)).await;
    for target in spellings(admin.url().port().unwrap()) {
        let fake = leading_to(target.clone()).await;
        let mut careful = settings(&[fake.url()]);
        careful.listeners = admin.url().socket_addrs(|| None).unwrap();
        careful.redirects_to = vec![RedirectTarget::Network("127.0.0.0/8".parse().unwrap())];
        let client = client(careful);
        let manifest = team(&client).get_manifest(&Reference::Digest(digest(&bytes)), &[]).await;
        assert!(matches!(manifest, Err(ClientError::Invalid { .. })), "{target}: {manifest:?}");
        let blob = team(&client).get_blob(&digest(&bytes), 0, None, &[]).await;
        assert!(matches!(blob, Err(ClientError::Invalid { .. })), "{target}: {blob:?}");
    }
    assert!(admin.seen().is_empty(), "{:?}", admin.seen());
}

/// A name of this machine that is no `localhost`, and an address that it resolves to.
async fn own_name() -> Option<(String, IpAddr)> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned();
    let found = tokio::net::lookup_host((name.as_str(), 0)).await.ok()?.next()?.ip();
    // Not where it resolves to something else: this machine can then not be led to by it.
    std::net::UdpSocket::bind((found, 0)).ok()?;
    (name != "localhost").then_some((name, found))
}

#[tokio::test]
async fn no_name_leads_to_a_listener_of_this_edge() {
    let Some((name, address)) = own_name().await else {
        return eprintln!("skipped: this machine's name is not its own");
    };
    let bytes = content(1000);
    let body = bytes.clone();
    let own = Fake::start_at((address, 0).into(), move |_, _| answer(200, &[], &body)).await;
    let port = own.url().port().unwrap();
    for query in ["secret=1", "secret='1'"] {
        let fake = leading_to(format!("http://{name}:{port}/v2/x?{query}")).await;
        let mut careful = settings(&[fake.url()]);
        careful.listeners = vec![(address, port).into()];
        careful.redirects_to = vec![RedirectTarget::Host { host: name.clone(), port: None }];
        let client = client(careful);
        let manifest = team(&client).get_manifest(&Reference::Digest(digest(&bytes)), &[]).await;
        assert!(matches!(manifest, Err(ClientError::Invalid { .. })), "{manifest:?}");
        let blob = team(&client).get_blob(&digest(&bytes), 0, None, &[]).await;
        assert!(matches!(blob, Err(ClientError::Invalid { .. })), "{blob:?}");
    }
    assert!(own.seen().is_empty(), "{:?}", own.seen());
}

#[tokio::test]
async fn what_a_digest_names_may_come_from_a_store_on_this_machine() {
    let bytes = content(1000);
    let body = bytes.clone();
    let store = Fake::start(move |_, _| answer(200, &[], &body)).await;
    let fake = leading_to(store.url().to_string()).await;
    let client = client(settings(&[fake.url()]));
    let mut blob = team(&client).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    assert!(drain(&mut blob).await.unwrap() == bytes);
    let manifest = team(&client).get_manifest(&Reference::Digest(digest(&bytes)), &[]).await.unwrap();
    assert!(manifest.bytes == bytes);
}

#[tokio::test]
async fn a_realm_on_another_port_is_not_asked() {
    let thief = Fake::start(|_, _| answer(200, &[], br#"{"token":"t"}"#)).await;
    for host in ["127.0.0.1", "127.1", "2130706433", "localhost"] {
        let realm = format!("http://{host}:{}/token", thief.url().port().unwrap());
        let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\"");
        let fake = Fake::start(move |_, _| answer(401, &[&challenge], b"")).await;
        let mut own = settings(&[fake.url()]);
        own.endpoints[0].account = Some(crate::configured(login("alice", "s3cret")));
        let error = team(&client(own)).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
        assert!(matches!(error, ClientError::Invalid { .. }), "{host}: {error}");
    }
    assert!(thief.seen().is_empty());
}
