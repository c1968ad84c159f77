//! The certificate that all servers of a comparison share, and the clients believe.

use std::path::{Path, PathBuf};

use rcgen::generate_simple_self_signed;

/// A self-signed certificate for the loopback (ECDSA P-256) in a scratch directory.
pub(crate) struct Certificate {
    /// PEM.
    pub(crate) pem: String,
    /// `cert.pem`
    pub(crate) cert: PathBuf,
    /// `key.pem`
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// Makes one, and writes `cert.pem`, `key.pem` and `both.pem` into `dir`.
    pub(crate) fn make(dir: &Path) -> Certificate {
        let made = generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("certificate");
        let (pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        for (path, text) in [(&cert, &pem), (&key, &key_pem), (&dir.join("both.pem"), &format!("{pem}{key_pem}"))] {
            std::fs::write(path, text).expect("scratch file");
        }
        Certificate { pem, cert, key }
    }

    /// A client that believes it, and nobody else.
    pub(crate) fn client(&self) -> reqwest::ClientBuilder {
        let certificate = reqwest::Certificate::from_pem(self.pem.as_bytes()).expect("certificate");
        reqwest::Client::builder().no_proxy().tls_certs_only([certificate])
    }
}
