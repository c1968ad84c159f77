//! The suite on a real object gateway.

use std::sync::Arc;

use pierhead_registry::store::{BlobStore, S3, S3Settings};
use pierhead_tests::ceph::Ceph;

use super::conformance::{Subject, all};

struct Gateway {
    ceph: Ceph,
    prefix: &'static str,
    largest_copy: u64,
}

impl Subject for Gateway {
    const PART: usize = 5 << 20;
    const PRESIGNS: bool = true;

    async fn instance(&self) -> Arc<dyn BlobStore> {
        let (prefix, largest_copy) = (self.prefix.to_owned(), self.largest_copy);
        Arc::new(S3::open(S3Settings { prefix, largest_copy, ..self.ceph.settings() }).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_ceph_object_gateway_conforms() {
    let mut gateway = Gateway { ceph: Ceph::start().await, prefix: "datastorage/registry", largest_copy: 5 << 30 };
    all(&gateway).await;
    // The same where everything of more than one part is copied in parts.
    (gateway.prefix, gateway.largest_copy) = ("", 5 << 20);
    all(&gateway).await;
}
