//! How to reach a bucket, and the client that does.
//!
//! Everything that could make a request hang or fail by surprise is set here: timeouts, retries, no trailing checksums, which
//! many stores do not know, and no search for credentials where there are some.

use std::fmt;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use url::Url;

use crate::store::StoreError;

/// The smallest part that S3 takes, but for the last.
pub(super) const SMALLEST_PART: u64 = 5 << 20;
/// The largest part that anybody would want to hold in memory.
const LARGEST_PART: u64 = 1 << 30;
/// How often a request is made before it has failed, and how long to wait between two, at first and at most.
const ATTEMPTS: u32 = 3;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long an idle connection is kept: less than what servers keep them.
const IDLE: Duration = Duration::from_secs(30);

/// A bucket, and how to reach it.
#[derive(Clone)]
pub struct S3Settings {
    /// `None`: AWS's own for the region.
    pub endpoint: Option<Url>,
    /// For the signature; many stores take any.
    pub region: String,
    /// The bucket, which exists.
    pub bucket: String,
    /// Before every key, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Key and secret; `None`: from the environment or the machine's role, as AWS's own tools find them.
    pub credentials: Option<(String, String)>,
    /// `https://host/bucket/key` instead of `https://bucket.host/key`.
    pub path_style: bool,
    /// Further certificate authorities, as PEM.
    pub ca: Option<Vec<u8>>,
    /// Size of the parts of an upload, two of which it may hold in memory.
    pub part_size: u64,
    /// Up to which size the store copies an object in one go: 5 GiB with AWS and most others.
    pub largest_copy: u64,
    /// For a connection.
    pub connect_timeout: Duration,
    /// For the answer to one request, bodies apart.
    pub timeout: Duration,
}

impl Default for S3Settings {
    fn default() -> S3Settings {
        S3Settings {
            endpoint: None,
            region: "us-east-1".to_owned(),
            bucket: String::new(),
            prefix: String::new(),
            credentials: None,
            path_style: true,
            ca: None,
            part_size: 16 << 20,
            largest_copy: 5 << 30,
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(30),
        }
    }
}

/// Without the secret.
impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.as_ref().map(Url::as_str);
        f.debug_struct("S3Settings").field("endpoint", &endpoint).field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl S3Settings {
    /// The size of a part, within what S3 takes.
    pub(super) fn part(&self) -> u64 {
        self.part_size.clamp(SMALLEST_PART, LARGEST_PART)
    }

    /// Whether bodies are hashed into the signature: TLS protects them else.
    pub(super) fn sign_bodies(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() != "https")
    }

    /// These timeouts, with so much time for one attempt.
    pub(super) fn timeouts(&self, attempt: Duration) -> TimeoutConfig {
        // A read timeout would be part of what connections are pooled by.
        TimeoutConfig::builder().connect_timeout(self.connect_timeout).operation_attempt_timeout(attempt).build()
    }

    /// A client; it connects when it is used.
    pub(super) async fn client(&self) -> Result<Client, StoreError> {
        let http = self.http()?;
        let region = Region::new(self.region.clone());
        let stalled = StalledStreamProtectionConfig::enabled().grace_period(self.timeout).build();
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(BACKOFF.0)
            .with_max_backoff(BACKOFF.1);
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(http.clone())
            .force_path_style(self.path_style)
            .timeout_config(self.timeouts(self.timeout))
            .retry_config(retries)
            .stalled_stream_protection(stalled)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .disable_s3_express_session_auth(true);
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint.as_str().trim_end_matches('/'));
        }
        let credentials = match &self.credentials {
            Some((key, secret)) => {
                Some(SharedCredentialsProvider::new(Credentials::new(key, secret, None, None, "configuration")))
            }
            None => {
                let found =
                    aws_config::defaults(BehaviorVersion::latest()).region(region).http_client(http).load().await;
                found.credentials_provider()
            }
        };
        config.set_credentials_provider(credentials);
        Ok(Client::from_conf(config.build()))
    }

    fn http(&self) -> Result<SharedHttpClient, StoreError> {
        let plain = self.sign_bodies();
        // The system's authorities are read from disk, for nothing where there is no TLS.
        let mut authorities = TrustStore::empty().with_native_roots(!plain);
        if let Some(pem) = &self.ca {
            check_authorities(pem)?;
            authorities = authorities.with_pem_certificate(pem.as_slice());
        }
        let context = TlsContext::builder().with_trust_store(authorities).build();
        let context = context.map_err(|error| StoreError::Refused(format!("TLS: {error}")))?;
        let tls = Provider::Rustls(CryptoMode::AwsLc);
        Ok(Builder::new().pool_idle_timeout(IDLE).tls_provider(tls).tls_context(context).build_https())
    }
}

/// The client would panic on certificates that are none.
fn check_authorities(pem: &[u8]) -> Result<(), StoreError> {
    let refused = |reason: &dyn fmt::Display| StoreError::Refused(format!("certificate authorities: {reason}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| refused(&error))?;
        roots.add(certificate).map_err(|error| refused(&error))?;
    }
    if roots.is_empty() { Err(refused(&"no certificate in the file")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn authorities_that_are_none_are_refused_and_do_not_panic() {
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in [&b""[..], b"no certificate", broken] {
            let settings = S3Settings { ca: Some(pem.to_vec()), ..S3Settings::default() };
            let refused = settings.http();
            assert!(matches!(refused, Err(StoreError::Refused(_))), "{}", String::from_utf8_lossy(pem));
        }
        let own = rcgen::generate_simple_self_signed(["s3.test".to_owned()]).unwrap().cert.pem();
        let settings = S3Settings { ca: Some(own.into_bytes()), ..S3Settings::default() };
        settings.http().unwrap();
    }

    #[test]
    fn settings_do_not_show_their_secret() {
        let credentials = Some(("key".to_owned(), "very secret".to_owned()));
        let shown = format!("{:?}", S3Settings { credentials, ..S3Settings::default() });
        assert!(!shown.contains("very secret"), "{shown}");
    }
}
