//! What goes by an endpoint's transport, with which credential, and what its failures mean.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use pierhead_registry::client::{
    BlobHead, Client, ClientError, Credential, EndpointSettings, SharedTransport, Transport, TransportBody,
    TransportError,
};
use url::Url;

use crate::{as_account, client, content, digest, drain, login, settings};

type Answer = Box<dyn Fn(&Request<()>) -> Result<Response<Vec<u8>>, TransportError> + Send + Sync>;

/// A transport that does what it is told, for the host `own.test` on any port.
struct ObedientTransport {
    answer: Answer,
    available: AtomicBool,
    /// Method, URL, and `Authorization`.
    seen: Mutex<Vec<String>>,
}

impl Transport for ObedientTransport {
    fn carries(&self, url: &Url) -> bool {
        url.host_str() == Some("own.test")
    }

    fn available(&self) -> bool {
        self.available.load(Ordering::SeqCst)
    }

    fn send(&self, request: Request<()>) -> BoxFuture<'_, Result<Response<TransportBody>, TransportError>> {
        let shown = request.headers().get(AUTHORIZATION).map_or("-", |value| value.to_str().unwrap());
        self.seen.lock().unwrap().push(format!("{} {} {shown}", request.method(), request.uri()));
        let answer = (self.answer)(&request);
        async move {
            let pieces = |body: Vec<u8>| body.chunks(7).map(|piece| Ok(piece.to_vec().into())).collect::<Vec<_>>();
            Ok(answer?.map(|body| stream::iter(pieces(body)).boxed()))
        }
        .boxed()
    }
}

fn start(
    answer: impl Fn(&Request<()>) -> Result<Response<Vec<u8>>, TransportError> + Send + Sync + 'static,
) -> (Client, Arc<ObedientTransport>) {
    let transport =
        ObedientTransport { answer: Box::new(answer), available: AtomicBool::new(true), seen: Mutex::default() };
    let transport = Arc::new(transport);
    let mut settings = settings(&[]);
    settings.endpoints.push(EndpointSettings {
        url: "http://own.test".parse().unwrap(),
        repository_prefix: None,
        account: None,
        ca: None,
        client_certificate: None,
        transport: Some(SharedTransport(Arc::clone(&transport) as Arc<dyn Transport>)),
    });
    (client(settings), transport)
}

impl ObedientTransport {
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn challenge(text: &str) -> Response<Vec<u8>> {
    let challenge = Response::builder().status(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, text);
    challenge.body(Vec::new()).unwrap()
}

fn verbatim(text: &'static str) -> Credential {
    let mut header = HeaderValue::from_static(text);
    header.set_sensitive(true);
    Credential::Verbatim(Some(header))
}

#[tokio::test]
async fn a_body_comes_by_the_transport_and_so_does_where_the_own_name_leads() {
    let (bytes, here) = (content(100), digest(&content(100)));
    let sent = bytes.clone();
    let (client, transport) = start(move |request| {
        let response = Response::builder();
        Ok(match request.uri().path() {
            "/elsewhere" => response.header(CONTENT_LENGTH, sent.len()).body(sent.clone()).unwrap(),
            _ => response.status(302).header(LOCATION, "https://own.test:8443/elsewhere").body(Vec::new()).unwrap(),
        })
    });
    let repository = client.repository(&"team/app".parse().unwrap(), Some(&verbatim("Bearer abc")));
    let mut body = repository.get_blob(&here, 0, None, &[]).await.unwrap();
    assert_eq!(drain(&mut body).await.unwrap(), bytes);
    // The name is the origin's own, and so the credential goes along.
    let path = format!("GET http://own.test/v2/team/app/blobs/{here} Bearer abc");
    assert_eq!(transport.seen(), [path, "GET https://own.test:8443/elsewhere Bearer abc".to_owned()]);
}

#[tokio::test]
async fn what_a_caller_brings_is_shown_as_it_is() {
    let (client, transport) = start(|_| Ok(challenge("Bearer realm=\"https://own.test/token\",service=\"own\"")));
    let (name, here) = ("team/app".parse().unwrap(), digest(b"x"));
    for (credential, shown) in [(verbatim("Bearer abc"), "Bearer abc"), (Credential::Verbatim(None), "-")] {
        let refused = client.repository(&name, Some(&credential)).head_blob(&here, None).await;
        assert!(matches!(refused, Err(ClientError::Unauthorized { .. })));
        // A HEAD's no proves nothing, so a GET decides.
        let asked = ["HEAD", "GET"].map(|method| format!("{method} http://own.test/v2/team/app/blobs/{here} {shown}"));
        assert_eq!(transport.seen(), asked);
    }
}

/// The origin slows down whoever guesses passwords. So its token service hears which client shows an account, and nobody else's does.
#[tokio::test]
async fn the_origins_token_service_hears_which_client_asks() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let (client, _transport) = start(move |request| {
        let client = request.headers().get("x-forwarded-for").map(|client| client.to_str().unwrap().to_owned());
        hears.lock().unwrap().push((request.uri().path() == "/token", client));
        Ok(match request.uri().path() {
            "/token" => Response::builder().status(401).body(Vec::new()).unwrap(),
            _ => challenge("Bearer realm=\"https://own.test/token\",service=\"own\""),
        })
    });
    let (name, here) = ("team/app".parse().unwrap(), digest(b"x"));
    let alice = as_account(login("alice", "guess"));
    for address in ["192.0.2.1", "2001:db8::"] {
        let repository = client.repository(&name, Some(&alice)).on_behalf_of(Some(address.parse().unwrap()));
        assert!(repository.head_blob(&here, None).await.is_err());
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        assert!(heard.iter().any(|(token, _)| *token));
        for (token, client) in heard {
            assert_eq!(client.as_deref(), token.then_some(address));
        }
    }
}

#[tokio::test]
async fn an_account_is_shown_at_once_and_turned_into_a_token_where_that_is_wanted() {
    let (client, transport) = start(|request| {
        let shown = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap());
        let response = Response::builder();
        Ok(match (request.uri().path(), shown) {
            ("/token", Some("Basic YWxpY2U6czNjcmV0")) => response.body(b"{\"token\":\"t1\"}".to_vec()).unwrap(),
            ("/token", _) => response.status(401).body(Vec::new()).unwrap(),
            (_, Some("Bearer t1")) => response.header(CONTENT_LENGTH, 5).body(Vec::new()).unwrap(),
            _ => challenge("Bearer realm=\"https://own.test/token\",service=\"own\""),
        })
    });
    let (name, here) = ("team/app".parse().unwrap(), digest(b"x"));
    let alice = as_account(login("alice", "s3cret"));
    for first in [true, false] {
        assert_eq!(
            client.repository(&name, Some(&alice)).head_blob(&here, None).await.unwrap(),
            BlobHead::Size(Some(5))
        );
        let path = format!("HEAD http://own.test/v2/team/app/blobs/{here}");
        let token = "GET https://own.test/token?service=own&scope=repository%3Ateam%2Fapp%3Apull";
        let basic = "Basic YWxpY2U6czNjcmV0";
        let bearer = format!("{path} Bearer t1");
        let all = [format!("{path} {basic}"), format!("{token} {basic}"), bearer.clone()];
        assert_eq!(transport.seen(), if first { all.to_vec() } else { vec![bearer] });
    }
    let mallory = as_account(login("alice", "guess"));
    let refused = client.repository(&name, Some(&mallory)).head_blob(&here, None).await;
    assert!(matches!(refused, Err(ClientError::Unauthorized { .. })));
}

#[tokio::test(start_paused = true)]
async fn whether_anybody_is_there_is_for_the_transport_to_say() {
    let (client, transport) = start(|_| Err(TransportError::Dead("no server is up".to_owned())));
    let (name, here) = ("team/app".parse().unwrap(), digest(b"x"));
    let failed = client.repository(&name, None).head_blob(&here, None).await;
    assert!(matches!(failed, Err(ClientError::Unavailable { reason, .. }) if reason == "no server is up"));
    assert_eq!(transport.seen().len(), 3, "as often as the settings say");
    // No breaker keeps the next one from asking.
    assert!(client.available());
    transport.available.store(false, Ordering::SeqCst);
    assert!(!client.available());
    assert!(client.repository(&name, None).head_blob(&here, None).await.is_err());
    assert_eq!(transport.seen().len(), 0);
}

#[tokio::test]
async fn one_user_who_asks_too_often_silences_nobody_else() {
    let (client, _) = start(|request| {
        let often = request.headers().get(AUTHORIZATION).is_some();
        let response = Response::builder().status(if often { 429 } else { 200 }).header(CONTENT_LENGTH, 5);
        Ok(response.body(Vec::new()).unwrap())
    });
    let (name, here) = ("team/app".parse().unwrap(), digest(b"x"));
    let limited = client.repository(&name, Some(&verbatim("Bearer abc"))).head_blob(&here, None).await;
    assert!(matches!(limited, Err(ClientError::RateLimited { .. })));
    assert_eq!(
        client.repository(&name, Some(&Credential::Verbatim(None))).head_blob(&here, None).await.unwrap(),
        BlobHead::Size(Some(5))
    );
}
