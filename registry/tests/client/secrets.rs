//! What the logs tell: everything but secrets. What other tests log at the same time is looked at too.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::fake::{Fake, answer};
use crate::{client, configured, digest, login, settings, silent_about, team};

/// Where the log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

#[tokio::test]
async fn no_log_and_no_error_tells_a_secret() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    // For the whole process: which events are of interest is decided once for all threads.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    // A token is issued, the blob is redirected to a presigned URL, and that ends in failure.
    let store = Fake::start(|_, _| answer(403, &[], b"<Code>pr3signed</Code>")).await;
    let location = format!("Location: {}?X-Amz-Signature=pr3signed", store.on("localhost"));
    let fake = Fake::start(move |seen, _| match seen.header("authorization") {
        _ if seen.target.starts_with("/token") => answer(200, &[], br#"{"token":"t0ken"}"#),
        Some("Bearer t0ken") => answer(307, &[&location], b""),
        _ => {
            let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
            answer(401, &[&challenge], b"")
        }
    })
    .await;
    let mut own = settings(&[fake.url()]);
    own.endpoints[0].account = Some(configured(login("alice", "s3cret")));
    let error = team(&client(own)).get_blob(&digest(b"x"), 0, None, &[]).await.unwrap_err();

    let secrets = ["s3cret", "YWxpY2U6czNjcmV0", "t0ken", "pr3signed"];
    silent_about(&error, &secrets);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("registry.test") && log.contains("status=307") && log.contains("status=403"), "{log}");
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
