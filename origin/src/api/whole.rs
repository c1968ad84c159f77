//! Bodies that are read whole, into memory of which every client has a fair share.
//!
//! Invariant: memory is taken as bytes arrive, and not as they are announced. A client that announces 4 MiB and sends one byte holds one
//! byte.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use pierhead_registry::oci::ErrorCode;
use pierhead_service::shares::{Full, Party, Permit, Room};
use tokio::time::timeout;

use super::admission::busy;
use super::paced::TOO_SLOW;
use super::refusal::refusal;

/// Largest form.
pub(super) const FORM_LIMIT: usize = 64 * 1024;
/// What is read of a body of the API. One that is larger is refused by who understands it.
const API_LIMIT: usize = 2 * 1024 * 1024 + 1;
/// How long such a body may take to come in: it is read before it is known who sends it.
const TIME: Duration = Duration::from_secs(10);

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotWhole {
    /// It is longer than it may be.
    #[error("longer than {0} bytes")]
    TooLarge(usize),
    /// There is no memory for it now.
    #[error(transparent)]
    Full(#[from] Full),
    /// Others need the memory.
    #[error("{TOO_SLOW}")]
    TooSlow,
    /// The client broke off, or sent what is no HTTP.
    #[error("{0}")]
    Broken(#[source] axum::Error),
}

/// Reads a body into memory, as much as `permit` grows by.
pub(super) async fn gather(mut body: Body, permit: &mut Permit, most: usize) -> Result<Vec<u8>, NotWhole> {
    let mut content = Vec::new();
    let cut = permit.pace().when_cut();
    loop {
        permit.pace().waits();
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = cut.cancelled() => return Err(NotWhole::TooSlow),
        };
        permit.pace().moved(0);
        let Some(frame) = frame else { return Ok(content) };
        let Ok(bytes) = frame.map_err(NotWhole::Broken)?.into_data() else { continue };
        if content.len() + bytes.len() > most {
            return Err(NotWhole::TooLarge(most));
        }
        permit.pace().moved(bytes.len() as u64);
        permit.grow(bytes.len() as u64).await?;
        content.extend_from_slice(&bytes);
    }
}

/// How much may be read of the body of a request before it takes a place. `None`: nothing.
pub(super) fn limit(method: &Method, path: &str) -> Option<usize> {
    let sends = matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    match path {
        "/v2/auth" if sends => Some(FORM_LIMIT),
        _ if sends && path.starts_with("/api/") => Some(API_LIMIT),
        _ => None,
    }
}

/// Reads the body of a request, and hands on the request with it, and the memory that it takes.
pub(super) async fn arrive(
    room: &Arc<Room>,
    party: Party,
    most: usize,
    request: Request,
) -> Result<(Request, Permit), Response> {
    let mut permit = room.begin(party);
    if request.body().is_end_stream() {
        return Ok((request, permit));
    }
    let (head, body) = request.into_parts();
    let content = match timeout(TIME, gather(body, &mut permit, most)).await {
        Ok(Ok(content)) => content,
        Ok(Err(NotWhole::Full(full))) => return Err(busy(room, full)),
        Ok(Err(error @ NotWhole::TooLarge(_))) => {
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid, &error.to_string()));
        }
        Ok(Err(error @ (NotWhole::TooSlow | NotWhole::Broken(_)))) => {
            return Err(refusal(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, &error.to_string()));
        }
        Err(_) => {
            let message = format!("the body did not come in within {} s", TIME.as_secs());
            return Err(refusal(StatusCode::REQUEST_TIMEOUT, ErrorCode::Unsupported, &message));
        }
    };
    Ok((Request::from_parts(head, Body::from(content)), permit))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use futures_util::stream::{iter, pending, unfold};
    use pierhead_service::shares::{Floor, Rules};

    use super::*;

    fn room(bytes: u64) -> Arc<Room> {
        let floor = Floor { rate: 1000, grace: Duration::from_secs(5) };
        let rules = Rules { kind: "test", room: bytes, queue: 100, wait: Duration::from_secs(3), floor, reserve: true };
        Room::new(rules, ())
    }

    fn party(account: &str) -> Party {
        Party::new([192, 0, 2, 1].into(), Some(account))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_a_size_and_a_time() {
        let trickle = unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>("a"), ()))
        });
        let endless = iter(std::iter::repeat_with(|| Ok::<_, std::io::Error>("scope=repository:a/b:pull&")));
        for (body, expected) in [
            (Body::from("scope=registry:catalog:*"), None),
            (Body::empty(), None),
            (Body::from_stream(trickle), Some(StatusCode::REQUEST_TIMEOUT)),
            (Body::from_stream(endless), Some(StatusCode::PAYLOAD_TOO_LARGE)),
        ] {
            let arrived = arrive(&room(1 << 20), party("ann"), FORM_LIMIT, Request::new(body)).await;
            assert_eq!(arrived.err().map(|response| response.status()), expected);
        }
    }

    /// Eight bodies of 4 MiB of which one byte comes hold eight bytes.
    #[tokio::test(start_paused = true)]
    async fn what_is_announced_holds_nothing() {
        let room = room(32 << 20);
        let begun: Vec<_> = (0..8)
            .map(|_| {
                let room = Arc::clone(&room);
                tokio::spawn(async move {
                    let body = iter([Ok::<_, std::io::Error>("a")]).chain(pending());
                    gather(Body::from_stream(body), &mut room.begin(party("mallory")), 4 << 20).await.map(drop)
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for _ in 0..20 {
            let mut permit = room.begin(party("ann"));
            let content = gather(Body::from(vec![0; 4 << 20]), &mut permit, 4 << 20).await.unwrap();
            assert_eq!(content.len(), 4 << 20);
        }
        assert!(begun.iter().all(|one| !one.is_finished()), "nobody needed their room");
        begun.iter().for_each(tokio::task::JoinHandle::abort);
    }

    /// An account that has filled its share with bodies it does not end loses them to those that wait.
    #[tokio::test(start_paused = true)]
    async fn bodies_that_stand_still_give_way() {
        let room = room(100);
        let stalled: Vec<_> = ["mallory", "eve"]
            .map(|name| {
                let room = Arc::clone(&room);
                tokio::spawn(async move {
                    let body = iter([Ok::<_, std::io::Error>(vec![0; 50])]).chain(pending());
                    gather(Body::from_stream(body), &mut room.begin(party(name)), 100).await.map(drop)
                })
            })
            .into_iter()
            .collect();
        tokio::time::sleep(Duration::from_secs(6)).await;
        let mut permit = room.begin(party("ann"));
        gather(Body::from(vec![0; 40]), &mut permit, 100).await.unwrap();
        let ended = stalled.iter().filter(|one| one.is_finished()).count();
        assert_eq!(ended, 1, "one is enough");
        stalled.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
