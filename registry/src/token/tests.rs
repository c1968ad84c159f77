//! Tokens and key sets, with all that may be wrong about them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Access, Algorithm, Claims, KeySet, KeySetError, SigningError, SigningKey, TokenError};

const ISSUER: &str = "pierhead";
const AUDIENCE: &str = "registry.example.com";
const EXP: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(EXP - 1800)
}

fn claims() -> Claims {
    let access = |kind: &str, name: &str, actions: &[&str]| Access {
        kind: kind.to_owned(),
        name: name.to_owned(),
        actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        created: (name == "team/app").then_some(1_700_000_000_000),
    };
    Claims {
        iss: ISSUER.to_owned(),
        sub: "alice".to_owned(),
        aud: AUDIENCE.to_owned(),
        exp: EXP,
        nbf: EXP - 3600,
        iat: EXP - 3600,
        jti: "one".to_owned(),
        account: Some(7),
        access: vec![
            access("repository", "team/app", &["pull", "push"]),
            access("repository", "team/all", &["*"]),
            access("registry", "catalog", &["*"]),
        ],
        refused: vec!["team/secret".to_owned()],
    }
}

fn set(keys: &[&SigningKey]) -> KeySet {
    KeySet::of(keys.iter().map(|key| key.public().clone())).unwrap()
}

fn verify(set: &KeySet, token: &str) -> Result<Claims, TokenError> {
    set.verify(token, AUDIENCE, ISSUER, now())
}

/// A token with a header of one's own, and a signature over whatever results.
fn forge(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(sign(text.as_bytes())))
}

#[test]
fn a_token_says_what_was_signed() {
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let token = key.sign(&claims()).unwrap();
        let published = KeySet::from_json(&set(&[&key]).to_json()).unwrap();
        assert_eq!(verify(&published, &token), Ok(claims()), "{algorithm:?}");
        // What was kept is the same key: of the same name, and its signatures are good.
        let kept = SigningKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
        assert_eq!((kept.kid(), kept.algorithm()), (key.kid(), algorithm));
        assert_eq!(verify(&published, &kept.sign(&claims()).unwrap()), Ok(claims()), "{algorithm:?}");
        assert!(!format!("{key:?}").contains("d\""), "no private part is shown");
    }
    assert!(matches!(SigningKey::from_pkcs8(b"nothing"), Err(SigningError::Malformed)));
}

#[test]
fn a_token_grants_what_it_names() {
    for (repository, action, expected) in [
        ("team/app", "pull", true),
        ("team/app", "push", true),
        ("team/app", "delete", false),
        ("team/all", "delete", true),
        ("team", "pull", false),
        ("team/app/x", "pull", false),
        ("catalog", "pull", false),
    ] {
        assert_eq!(claims().allows(repository, action), expected, "{repository} {action}");
    }
    for (name, created) in [("team/app", Some(1_700_000_000_000)), ("team/all", None), ("catalog", None)] {
        assert_eq!(claims().created(name), created, "{name}");
    }
}

#[test]
fn a_token_is_refused_for_what_is_wrong_with_it() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let (other, rsa) =
        (SigningKey::generate(Algorithm::Es256).unwrap(), SigningKey::generate(Algorithm::Rs256).unwrap());
    let keys = set(&[&key, &rsa]);
    let good = key.sign(&claims()).unwrap();
    let with = |change: &dyn Fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        key.sign(&claims).unwrap()
    };
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    // The signature of the one over the claims of the other.
    let others = other.sign(&claims()).unwrap();
    let stolen = format!("{signed}.{}", others.rsplit_once('.').unwrap().1);
    let more = with(&|claims| claims.access[0].name = "team/other".to_owned());
    let swapped = format!("{header}.{}.{signature}", more.split('.').nth(1).unwrap());
    let written = serde_json::to_value(claims()).unwrap();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &set(&[&key]).to_json());
    let hmac = |text: &[u8]| hmac::sign(&secret, text).as_ref().to_vec();
    let own = |header: Value| forge(&header, &written, hmac);
    let (long, kid) = ("a".repeat(20_000), key.kid());
    for (what, token, expected) in [
        ("empty", String::new(), TokenError::Malformed),
        ("two parts", signed.to_owned(), TokenError::Malformed),
        ("four parts", format!("{good}.x"), TokenError::Malformed),
        ("cut", good[..good.len() - 6].to_owned(), TokenError::Signature),
        ("no signature", format!("{signed}."), TokenError::Signature),
        ("no base64", format!("{signed}.*"), TokenError::Malformed),
        ("no header", format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode("[]")), TokenError::Malformed),
        ("huge", format!("{good}{long}"), TokenError::TooLong),
        ("unknown key", others, TokenError::UnknownKey),
        ("no key", own(json!({ "alg": "ES256" })), TokenError::UnknownKey),
        ("none", own(json!({ "alg": "none", "kid": kid })), TokenError::Algorithm),
        ("the public key as a secret", own(json!({ "alg": "HS256", "kid": kid })), TokenError::Algorithm),
        ("another key's algorithm", own(json!({ "alg": "RS256", "kid": kid })), TokenError::Algorithm),
        ("an extension", own(json!({ "alg": "ES256", "kid": kid, "crit": ["exp"] })), TokenError::Malformed),
        ("no signature of that key", own(json!({ "alg": "ES256", "kid": kid })), TokenError::Signature),
        ("another key's signature", stolen, TokenError::Signature),
        ("other claims", swapped, TokenError::Signature),
        ("another audience", with(&|claims| claims.aud = "elsewhere".to_owned()), TokenError::Audience),
        ("another issuer", with(&|claims| claims.iss = "somebody".to_owned()), TokenError::Issuer),
        ("expired", with(&|claims| claims.exp = EXP - 1831), TokenError::Expired),
        ("not yet", with(&|claims| claims.nbf = EXP - 1739), TokenError::NotYet),
        ("never", with(&|claims| claims.nbf = u64::MAX), TokenError::NotYet),
    ] {
        assert_eq!(verify(&keys, &token), Err(expected), "{what}");
    }
    // Clocks may be a little apart, and whoever writes no end of time means it.
    for (what, token) in [
        ("just expired", with(&|claims| claims.exp = EXP - 1829)),
        ("just not yet", with(&|claims| claims.nbf = EXP - 1741)),
        ("for ever", with(&|claims| claims.exp = u64::MAX)),
    ] {
        assert!(verify(&keys, &token).is_ok(), "{what}");
    }
}

#[test]
fn several_audiences_and_few_claims() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let header = json!({ "alg": "ES256", "kid": key.kid() });
    let sign = |message: &[u8]| key.pair.sign(message).unwrap();
    for (claims, expected) in [
        (json!({ "iss": ISSUER, "aud": ["a", AUDIENCE], "exp": EXP }), Ok(AUDIENCE.to_owned())),
        (json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": EXP, "context": {} }), Ok(AUDIENCE.to_owned())),
        (json!({ "iss": ISSUER, "aud": ["a"], "exp": EXP }), Err(TokenError::Audience)),
        (json!({ "iss": ISSUER, "aud": AUDIENCE }), Err(TokenError::Malformed)),
        (json!({ "iss": ISSUER, "exp": EXP }), Err(TokenError::Malformed)),
        (json!({ "aud": AUDIENCE, "exp": EXP }), Err(TokenError::Issuer)),
    ] {
        let read = verify(&set(&[&key]), &forge(&header, &claims, sign));
        assert_eq!(read.map(|claims| claims.aud), expected, "{claims}");
    }
}

#[test]
fn a_set_takes_what_it_knows() {
    let (key, rsa) = (SigningKey::generate(Algorithm::Es256).unwrap(), SigningKey::generate(Algorithm::Rs256).unwrap());
    let (ec, rsa) = (serde_json::to_value(key.public()).unwrap(), serde_json::to_value(rsa.public()).unwrap());
    let changed = |key: &Value, name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        key
    };
    // As Quay publishes them: no algorithm, no use.
    let bare = json!({ "kty": "RSA", "kid": "quay", "n": rsa["n"], "e": "AQAB" });
    let weak = URL_SAFE_NO_PAD.encode([0xff; 128]);
    let padded = URL_SAFE_NO_PAD.encode([vec![0; 200], vec![0xff; 128]].concat());
    let many: Vec<Value> = (0..65).map(|kid| changed(&ec, "kid", json!(kid.to_string()))).collect();
    for (what, keys, expected) in [
        ("nothing", json!([]), Ok(0)),
        ("both kinds", json!([ec, rsa]), Ok(2)),
        ("one twice", json!([ec, ec]), Ok(1)),
        ("Quay's", json!([bare]), Ok(1)),
        (
            "two of one name",
            json!([ec, changed(&rsa, "kid", json!(key.kid()))]),
            Err(KeySetError::Ambiguous(key.kid().to_owned())),
        ),
        ("a shared secret", json!([{ "kty": "oct", "kid": "a", "k": "AAAA" }, ec]), Ok(1)),
        ("another curve", json!([changed(&ec, "crv", json!("P-384"))]), Ok(0)),
        ("half a point", json!([changed(&ec, "x", json!("AAAA"))]), Ok(0)),
        ("1024 bits", json!([changed(&rsa, "n", json!(weak))]), Ok(0)),
        ("1024 bits and zeros", json!([changed(&rsa, "n", json!(padded))]), Ok(0)),
        ("an exponent of one", json!([changed(&rsa, "e", json!("AQ"))]), Ok(0)),
        ("for encryption", json!([changed(&ec, "use", json!("enc"))]), Ok(0)),
        ("for another algorithm", json!([changed(&rsa, "alg", json!("PS256"))]), Ok(0)),
        ("without a name", json!([changed(&ec, "kid", Value::Null)]), Ok(0)),
        ("no key at all", json!([1, { "kty": 1 }, ec]), Ok(1)),
        ("too many", json!(many), Err(KeySetError::TooLarge)),
        ("no list", json!("x"), Err(KeySetError::Malformed)),
    ] {
        let read = KeySet::from_json(json!({ "keys": keys }).to_string().as_bytes());
        assert_eq!(read.map(|set| set.len()), expected, "{what}");
    }
    assert_eq!(KeySet::from_json(b"<html>").err(), Some(KeySetError::Malformed));
    assert_eq!(KeySet::from_json(&[b' '; 200_000]).err(), Some(KeySetError::TooLarge));
}

/// RFC 7638, section 3.1.
#[test]
fn a_key_is_called_after_itself() {
    let modulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3\
                   oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgd\
                   AZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCu\
                   r-kEgU8awapJzKnqDKgw";
    let jwk = super::Jwk::of_rsa(&URL_SAFE_NO_PAD.decode(modulus).unwrap(), &[1, 0, 1]);
    assert_eq!(jwk.kid(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
}

#[test]
fn a_token_says_which_repositories_were_asked_for() {
    let claims = claims();
    for (name, said) in [("team/app", true), ("team/secret", true), ("team/other", false), ("catalog", false)] {
        assert_eq!(claims.names(name), said, "{name}");
    }
    assert!(!claims.allows("team/secret", "pull"));
}
