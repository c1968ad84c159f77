//! One request to the API at a time, over one connection each: there is never more than a handful.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::Target;
use crate::admin::shape::{ErrorBody, Failure};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole answer; a reload may take a while.
const TIMEOUT: Duration = Duration::from_secs(90);
/// Largest answer.
const ANSWER_LIMIT: usize = 64 << 20;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    /// The configuration that was to name the edge cannot be used.
    #[error("{0}")]
    Config(String),
    /// The address cannot be used.
    #[error("address {address:?}: {reason}")]
    Address {
        /// As given.
        address: String,
        /// Why not.
        reason: &'static str,
    },
    /// The file of the token cannot be used.
    #[error("{path}: {reason}", path = path.display())]
    TokenFile {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// No runtime.
    #[error("runtime: {0}")]
    Runtime(#[source] io::Error),
    /// Nothing listens there.
    #[error("no edge answers at {authority}: {reason}; give --address, or --config with the edge's configuration")]
    Unreachable {
        /// Where.
        authority: String,
        /// Why not.
        reason: String,
    },
    /// It wants a token.
    #[error("the edge wants another token: give --token-file, or --config with the edge's configuration")]
    Unauthorized,
    /// A part of the cache that is not there, or is no image.
    #[error("{0}")]
    Image(String),
    /// It did not do it.
    #[error("{message}{}", problems.iter().map(|problem| format!("\n{problem}")).collect::<String>())]
    Refused {
        /// What programs know it by.
        code: String,
        /// Why not.
        message: String,
        /// Of a configuration.
        problems: Vec<String>,
    },
    /// The answer is none that an edge of this version gives.
    #[error(
        "what answers at {authority} is not an edge's admin listener, or an edge of another version: give the address of \
         `admin.bind` in the edge's configuration by --address, or the configuration by --config"
    )]
    NoEdge {
        /// Where.
        authority: String,
    },
    /// What is to be sent or shown cannot be written as JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[source] serde_json::Error),
}

impl CtlError {
    /// 3 when there is no edge, so that scripts can tell that from an edge that says no.
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, CtlError::Unreachable { .. }) { 3 } else { 1 }
    }
}

/// A client of one edge.
pub(super) struct Client {
    target: Target,
}

impl Client {
    /// Of the first edge that can be connected to, or else of the last.
    pub(super) async fn new(targets: Vec<Target>) -> Result<Client, CtlError> {
        let mut unreachable = CtlError::Config("there is no address to connect to".to_owned());
        for target in targets {
            match connect(&target.authority).await {
                Ok(_) => return Ok(Client { target }),
                Err(error) => unreachable = error,
            }
        }
        Err(unreachable)
    }

    /// Asks, and reads the answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, CtlError> {
        let answer = self.sent(method, path, body).await?;
        self.read(&answer)
    }

    /// Asks for something that has no answer but that it was done.
    pub(super) async fn tell(&self, method: Method, path: &str) -> Result<(), CtlError> {
        self.sent(method, path, None).await.map(drop)
    }

    /// What the end-to-end report says, well or not.
    pub(super) async fn health(&self) -> Result<Value, CtlError> {
        let (_, body) = self.exchange(Method::GET, "/health/endtoend", None).await?;
        self.read(&body)
    }

    /// Reads what an edge says. The parser's own words say nothing to who gave a wrong address.
    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, CtlError> {
        serde_json::from_slice(body).map_err(|_| self.no_edge())
    }

    fn no_edge(&self) -> CtlError {
        CtlError::NoEdge { authority: self.target.authority.clone() }
    }

    async fn sent(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Bytes, CtlError> {
        let (status, body) = self.exchange(method, path, body).await?;
        if status.is_success() {
            return Ok(body);
        }
        let said: ErrorBody = self.read(&body)?;
        if status == StatusCode::UNAUTHORIZED {
            return Err(CtlError::Unauthorized);
        }
        let Failure { code, message, problems } = said.error;
        Err(CtlError::Refused { code, message, problems })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), CtlError> {
        let authority = &self.target.authority;
        let failed = |reason: String| CtlError::Unreachable { authority: authority.clone(), reason };
        let slow = |_| failed("timed out".to_owned());
        let tcp = connect(authority).await?;
        let answered = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
            // Ends with the sender.
            tokio::spawn(connection);
            let mut request = Request::builder()
                .method(method)
                .uri(path)
                .header(HOST, authority)
                .header(CONTENT_TYPE, "application/json");
            if let Some(token) = &self.target.token {
                request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
            }
            let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await?.to_bytes();
            Ok((status, body))
        };
        let answered: Result<_, Box<dyn std::error::Error + Send + Sync>> =
            timeout(TIMEOUT, answered).await.map_err(slow)?;
        answered.map_err(|error| failed(error.to_string()))
    }
}

async fn connect(authority: &str) -> Result<TcpStream, CtlError> {
    let failed = |reason: String| CtlError::Unreachable { authority: authority.to_owned(), reason };
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(authority)).await;
    connected.map_err(|_| failed("timed out".to_owned()))?.map_err(|error| failed(error.to_string()))
}

/// A name as one segment of a path.
pub(super) fn segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte) {
            segment.push(byte.into());
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_segment() {
        for (name, expected) in [
            ("quay01.example.com:443", "quay01.example.com:443"),
            ("[::1]:80", "%5B::1%5D:80"),
            ("a/b ?", "a%2Fb%20%3F"),
        ] {
            assert_eq!(segment(name), expected);
        }
    }
}
