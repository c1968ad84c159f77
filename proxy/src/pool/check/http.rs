//! The check that asks for a page.

use std::future::poll_fn;
use std::pin::{Pin, pin};

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use pierhead_config::HttpCheck;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::CheckError;

/// How much of a body is looked at.
const BODY: usize = 64 * 1024;

/// The largest header of an answer.
const HEADER: usize = 16 * 1024;

/// Asks over a fresh connection; `own` is the server's own name, with its port.
pub(super) async fn ask<S>(stream: S, check: &HttpCheck, own: &str) -> Result<(), CheckError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = ::http::Request::get(&check.path)
        .header("host", check.host.as_deref().unwrap_or(own))
        .header("user-agent", "pierhead-health")
        .header("accept", "*/*")
        .header("connection", "close")
        .body(String::new())?;
    let (mut sender, connection) = http1::Builder::new().max_buf_size(HEADER).handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        if !check.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
            return Err(CheckError::Status(status));
        }
        if check.body.is_none() && check.json.is_none() {
            return Ok(());
        }
        expect(check, &read(response.into_body()).await?)
    };
    // The connection moves only as it is polled. When it ends, the exchange hears of it.
    let driver = async {
        drop(connection.await);
        std::future::pending::<()>().await;
    };
    let (exchange, driver) = (pin!(exchange), pin!(driver));
    tokio::select! {
        result = exchange => result,
        () = driver => Ok(()),
    }
}

/// What a check looks at of a body.
struct Page {
    bytes: Vec<u8>,
    whole: bool,
}

async fn read(mut body: Incoming) -> Result<Page, CheckError> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            let room = BODY - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return Ok(Page { bytes, whole: false });
            }
        }
    }
    Ok(Page { bytes, whole: true })
}

fn expect(check: &HttpCheck, page: &Page) -> Result<(), CheckError> {
    if let Some(text) = &check.body
        && memmem::find(&page.bytes, text.as_bytes()).is_none()
    {
        return Err(CheckError::Text);
    }
    let Some(field) = &check.json else { return Ok(()) };
    let json: Value = serde_json::from_slice(&page.bytes).map_err(|_| CheckError::NoJson)?;
    if page.whole && json.pointer(&field.pointer) == Some(&field.equals) {
        Ok(())
    } else {
        Err(CheckError::Field(field.pointer.clone()))
    }
}
