//! The certificates that listeners show.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;

use super::Seen;
use super::shape::{Certificate, CertificateList, ErrorBody, RefusedFiles, time};

/// The certificates that listeners show.
#[utoipa::path(get, path = "/api/v1/certificates", operation_id = "list_certificates", security(("token" = [])),
    responses((status = 200, body = CertificateList), (status = 401, body = ErrorBody)))]
pub(super) async fn list(State(shared): Seen) -> Json<CertificateList> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (mut certificates, mut refused) = (Vec::new(), Vec::new());
    for shown in (shared.operated.certificates)() {
        let listener = shown.listener;
        refused.extend(shown.refused.map(|problem| RefusedFiles { listener: listener.clone(), problem }));
        certificates.extend(shown.certificates.iter().map(|shown| Certificate {
            listener: listener.clone(),
            file: shown.file.display().to_string(),
            names: shown.names.clone(),
            subject: shown.subject.clone(),
            issuer: shown.issuer.clone(),
            serial: shown.serial.clone(),
            fingerprint: shown.fingerprint.clone(),
            not_before: seconds(shown.not_before),
            not_after: seconds(shown.not_after),
            seconds_left: shown.not_after.saturating_sub(now),
        }));
    }
    Json(CertificateList { certificates, refused })
}

/// A time that a certificate names; what is before 1970 or after the year 9999 is shown as that.
fn seconds(at: i64) -> String {
    const LAST: u64 = 253_402_300_799;
    time(UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or_default().min(LAST)))
}
