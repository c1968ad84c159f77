//! Small documents that a registry publishes beside its API, such as the keys of its tokens.

use bytes::Bytes;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use url::Url;

use super::failure::Failure;
use super::pauses::Kind;
use super::reach::Aim;
use super::retry::Attempts;
use super::upstream::{Asking, Line};
use super::verdict::{self, Verdict};
use super::{Client, ClientError};

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// At the registry itself, below its base URL; with the `/` at its beginning.
    Path(String),
    /// At a URL, perhaps somebody else's.
    Url(Url),
}

impl Client {
    /// GET of a document of at most `limit` bytes. No credential goes along, and redirects are not followed: what is
    /// published says where it is.
    pub async fn get_document(&self, document: &Document, limit: u64) -> Result<Bytes, ClientError> {
        // What is elsewhere is there whether the registry is or not.
        if let Document::Url(url) = document
            && self.upstream.endpoints.iter().all(|endpoint| endpoint.is_foreign(url))
        {
            let fetched = self.document(0, document, limit).await;
            return fetched.map_err(|failure| failure.into_error(self.upstream.name()));
        }
        let mut attempts = Attempts::new(&self.upstream, &[]);
        loop {
            let turn = attempts.next().await?;
            match self.document(turn.index, document, limit).await {
                Ok(bytes) => {
                    turn.settle(None);
                    return Ok(bytes);
                }
                Err(failure) => attempts.failed(turn, failure),
            }
        }
    }

    async fn document(&self, index: usize, document: &Document, limit: u64) -> Result<Bytes, Failure> {
        let none = || Failure::invalid("no address");
        let endpoint = self.upstream.endpoints.get(index).ok_or_else(none)?;
        let url = match document {
            Document::Path(path) => endpoint.beside(path),
            Document::Url(url) => url.clone(),
        };
        let foreign = endpoint.is_foreign(&url);
        // The configuration names it, so its address is not judged.
        let line = Line::Api;
        let headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static("application/json")),
            (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        ]);
        let asking = Asking {
            line,
            method: &Method::GET,
            target: None,
            kind: Kind::Other,
            account: None,
            aim: Aim::Other,
            patient: true,
        };
        let response = self.upstream.request(endpoint, &asking, &url, &headers).await;
        let response = response.map_err(|failure| if foreign { failure.abroad() } else { failure })?;
        match (response.status(), verdict::judge(&Method::GET, response.status(), foreign)) {
            (StatusCode::OK, _) => Ok(self.upstream.read(response, limit).await?.into()),
            (_, Verdict::Absent) => Err(Failure::NotFound),
            (_, Verdict::Unauthorized) => Err(Failure::Unauthorized),
            (_, Verdict::Forbidden) => Err(Failure::Forbidden),
            (status, Verdict::Transient) => Err(Failure::broken(format!("status {}", status.as_u16()))),
            (status, _) => Err(Failure::invalid(format!("unexpected status {}", status.as_u16()))),
        }
    }
}
