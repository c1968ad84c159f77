//! An object store in this process: S3 as the crate `s3s` speaks it, over a bucket that keeps what the specification says, and
//! lists in pages of three. It can be stopped and started again, on its port and with its data.

mod bucket;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use pierhead_registry::store::S3Settings;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use bucket::{Bucket, Service};

/// The bucket that is there.
pub const BUCKET: &str = "blobs";
/// Who may use it.
pub const ACCESS_KEY: &str = "AKIDPIERHEAD";
/// That account's secret.
pub const SECRET_KEY: &str = "a-secret-of-the-tests";

/// A store that runs, or was stopped.
pub struct S3Server {
    /// Where it listens; the same after a restart.
    pub address: SocketAddr,
    bucket: Arc<Bucket>,
    running: Option<JoinHandle<()>>,
}

impl S3Server {
    /// An empty one.
    pub async fn start() -> S3Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut server =
            S3Server { address: listener.local_addr().unwrap(), bucket: Arc::new(Bucket::new()), running: None };
        server.serve(listener);
        server
    }

    /// Its base URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How a driver reaches it.
    pub fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: Some(self.endpoint().parse().unwrap()),
            bucket: BUCKET.to_owned(),
            prefix: "datastorage/registry".to_owned(),
            credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
            part_size: 5 << 20,
            ..S3Settings::default()
        }
    }

    /// The same as an origin's configuration.
    pub fn storage(&self) -> Value {
        json!({ "s3": {
            "endpoint": self.endpoint(),
            "bucket": BUCKET,
            "prefix": "datastorage/registry",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "part_size": "5MiB",
        } })
    }

    /// The keys of its objects.
    pub fn keys(&self) -> Vec<String> {
        self.bucket.keys()
    }

    /// How many multipart uploads are under way.
    pub fn uploads(&self) -> usize {
        self.bucket.uploads()
    }

    /// A multipart upload that another program began long ago.
    pub fn upload_of_another(&self, key: &str) {
        self.bucket.upload_of_another(key);
    }

    /// An object that it put there.
    pub fn object_of_another(&self, key: &str) {
        self.bucket.object_of_another(key);
    }

    /// Loses an object.
    pub fn lose(&self, key: &str) {
        self.bucket.lose(key);
    }

    /// Has each deletion take so long.
    pub fn slow_deletions(&self, time: Duration) {
        self.bucket.deletion.store(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Ends it at once, connections included.
    pub async fn stop(&mut self) {
        if let Some(task) = self.running.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Starts it again on the same port and the same content.
    pub async fn start_again(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let mut builder = S3ServiceBuilder::new(Service(Arc::clone(&self.bucket)));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        self.running = Some(tokio::spawn(accept(listener, builder.build())));
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(task) = &self.running {
            task.abort();
        }
    }
}

/// Serves until it is dropped, and its connections with it.
async fn accept(listener: TcpListener, service: S3Service) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service.clone();
        connections.spawn(async move {
            let served = hyper::service::service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(hyper::service::Service::call(&service, request).await.unwrap()) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), served).await;
        });
        while connections.try_join_next().is_some() {}
    }
}
