//! What a registry publishes beside its API.

use pierhead_registry::client::{ClientError, Document};

use crate::fake::{Fake, answer};
use crate::{client, configured, login, settings};

#[tokio::test]
async fn a_document_is_asked_for_without_a_credential_wherever_it_is() {
    let fake = Fake::start(|seen, _| match seen.target.as_str() {
        "/keys" => answer(200, &[], b"{}"),
        "/large" => answer(200, &[], &[b' '; 2000]),
        "/moved" => answer(302, &["Location: /keys"], b""),
        _ => answer(404, &[], b""),
    })
    .await;
    let elsewhere = Fake::start(|_, _| answer(200, &[], b"[]")).await;
    let mut settings = settings(&[fake.url()]);
    settings.endpoints[0].account = Some(configured(login("ann", "secret")));
    let client = client(settings);
    let at = |path: &str| Document::Path(path.to_owned());
    assert_eq!(&client.get_document(&at("/keys"), 1000).await.unwrap()[..], b"{}");
    let url = Document::Url(elsewhere.url());
    assert_eq!(&client.get_document(&url, 1000).await.unwrap()[..], b"[]");
    assert!(matches!(client.get_document(&at("/large"), 1000).await, Err(ClientError::Invalid { .. })));
    assert!(matches!(client.get_document(&at("/moved"), 1000).await, Err(ClientError::Invalid { .. })));
    assert!(matches!(client.get_document(&at("/none"), 1000).await, Err(ClientError::NotFound { .. })));
    for request in fake.seen().iter().chain(&elsewhere.seen()) {
        assert_eq!(request.header("authorization"), None);
    }
}
