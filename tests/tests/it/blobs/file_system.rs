//! The suite on files.

use std::sync::Arc;

use pierhead_registry::store::{BlobStore, FileSystem};
use tempfile::TempDir;

use super::conformance::{Subject, all};

struct Files(TempDir);

impl Subject for Files {
    const PART: usize = 1 << 20;
    const PRESIGNS: bool = false;

    async fn instance(&self) -> Arc<dyn BlobStore> {
        Arc::new(FileSystem::open(self.0.path().to_owned()).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_conform() {
    all(&Files(tempfile::tempdir().unwrap())).await;
}
