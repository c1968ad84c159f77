//! Signed manifests of Docker's schema 1: what of them their digest is over. Pure.
//!
//! Such a manifest carries its signatures within itself. Its digest is over its payload, which is the manifest without
//! them: the protected header of each signature says after how many bytes they were inserted (`formatLength`) and what
//! follows them (`formatTail`).
//!
//! Invariant: bytes with a payload are that payload and signatures, and nothing else. Otherwise an attacker could add to a
//! manifest what its digest does not cover, which readers of JSON might believe.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::digest::Digest;

/// Whether a digest names a manifest: its bytes hash to it, or, where it is signed, its payload does.
pub fn is_named_by(bytes: &[u8], digest: &Digest) -> bool {
    let hashes = |bytes: &[u8]| Digest::of(digest.algorithm(), bytes) == *digest;
    hashes(bytes) || signed_payload(bytes).is_some_and(|payload| hashes(&payload))
}

/// The payload of a signed manifest of schema 1; `None` for all other bytes.
pub fn signed_payload(bytes: &[u8]) -> Option<Vec<u8>> {
    // Cheaper than to parse every manifest.
    if !bytes.windows(SIGNATURES.len()).any(|window| window == SIGNATURES) {
        return None;
    }
    let whole: Signed = serde_json::from_slice(bytes).ok()?;
    let mut headers = whole.signatures.iter().map(|signature| {
        let header = URL_SAFE_NO_PAD.decode(&signature.protected).ok()?;
        serde_json::from_slice::<Protected>(&header).ok()
    });
    let first = headers.next()??;
    if headers.any(|other| other.as_ref() != Some(&first)) {
        return None;
    }
    let (before, inserted) = bytes.split_at_checked(first.format_length)?;
    let tail = URL_SAFE_NO_PAD.decode(&first.format_tail).ok()?;
    // `,"signatures":[…]}` closes the object, as the tail does.
    let inserted = std::str::from_utf8(inserted).ok()?.trim_start().strip_prefix(',')?;
    serde_json::from_str::<OnlySignatures>(&format!("{{{inserted}")).ok()?;
    let payload = [before, &tail].concat();
    let plain: Plain = serde_json::from_slice(&payload).ok()?;
    (plain.schema_version == 1).then_some(payload)
}

const SIGNATURES: &[u8] = b"\"signatures\"";

#[derive(Deserialize)]
struct Signed {
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    protected: String,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: usize,
    format_tail: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlySignatures {
    #[serde(rename = "signatures")]
    _signatures: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plain {
    schema_version: u32,
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::{is_named_by, signed_payload};
    use crate::oci::{Algorithm, Digest};

    const PAYLOAD: &str = "{\n   \"schemaVersion\": 1,\n   \"name\": \"team/app\"\n}";

    fn protected(length: usize, tail: &str) -> String {
        let header = format!(r#"{{"formatLength":{length},"formatTail":"{}"}}"#, URL_SAFE_NO_PAD.encode(tail));
        URL_SAFE_NO_PAD.encode(header)
    }

    fn signed(payload: &str, inserted: &str) -> String {
        let cut = payload.len() - 2;
        let protected = protected(cut, &payload[cut..]);
        format!(
            "{}{inserted},\n   \"signatures\": [{{\"header\":{{}},\"signature\":\"x\",\"protected\":\"{protected}\"}}]\n}}",
            &payload[..cut]
        )
    }

    #[test]
    fn the_digest_is_over_the_payload() {
        let manifest = signed(PAYLOAD, "");
        assert_eq!(signed_payload(manifest.as_bytes()).as_deref(), Some(PAYLOAD.as_bytes()));
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for (named, expected) in [(PAYLOAD, true), (manifest.as_str(), true), ("{}", false)] {
                let digest = Digest::of(algorithm, named.as_bytes());
                assert_eq!(is_named_by(manifest.as_bytes(), &digest), expected, "{named}");
            }
        }
    }

    #[test]
    fn nothing_but_signatures_is_left_out() {
        let two = PAYLOAD.replace("\"schemaVersion\": 1", "\"schemaVersion\": 2");
        for (manifest, why) in [
            (PAYLOAD.to_owned(), "not signed"),
            (signed(PAYLOAD, ",\"name\":\"evil/app\""), "more than signatures was inserted"),
            (signed(PAYLOAD, "").replace("\n}", ",\"name\":\"evil/app\"}"), "something follows the signatures"),
            (signed(&two, ""), "another schema"),
            (format!("{{\"signatures\":[{{\"protected\":\"{}\"}}]}}", protected(1 << 40, "}")), "beyond the end"),
            ("{\"signatures\":[]}".to_owned(), "no signature"),
            ("{\"signatures\":[{\"protected\":\"?\"}]}".to_owned(), "no header"),
            ("\"signatures\"".to_owned(), "no object"),
        ] {
            assert_eq!(signed_payload(manifest.as_bytes()), None, "{why}");
        }
    }
}
