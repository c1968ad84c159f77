//! Whose answer a failure is, as tables.

use std::time::Duration;

use pierhead_registry::client::{Account, Client, ClientError, Credential, EndpointSettings, Observer, Settings};
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_service::shares::Full;

use super::*;

struct Unwatched;

impl Observer for Unwatched {
    fn request(&self, _: Option<u16>, _: Duration) {}
    fn received(&self, _: u64) {}
    fn rate_limit_remaining(&self, _: u64) {}
}

fn client(name: &str) -> Client {
    let endpoint = EndpointSettings {
        url: "http://127.0.0.1:9".parse().unwrap(),
        repository_prefix: None,
        account: None,
        ca: None,
        client_certificate: None,
        transport: None,
    };
    let settings = Settings {
        name: name.into(),
        endpoints: vec![endpoint],
        realms: Vec::new(),
        redirects_to: Vec::new(),
        listeners: Vec::new(),
        edge: None,
        connect_timeout: Duration::from_secs(1),
        first_byte_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        retries: 0,
        resume_for: Duration::ZERO,
        cool_down: Duration::from_secs(1),
        max_manifest_size: 1,
    };
    Client::new(settings, Arc::new(Unwatched)).unwrap()
}

fn as_user(client: &Client, repository: &str, user: &str) -> Repository {
    let account = Account { username: user.into(), password: "secret".into() };
    client.repository(&repository.parse().unwrap(), Some(&Credential::Account(account)))
}

fn failure(error: impl Into<BlobError>, party: Option<&Repository>) -> Failure {
    Failure { error: error.into(), party: party.cloned() }
}

fn word(meaning: &Meaning) -> &'static str {
    match meaning {
        Meaning::Own(_) => "own",
        Meaning::Shared(_) => "shared",
        Meaning::Strangers => "stranger's",
    }
}

#[test]
fn an_answer_is_for_the_party_that_asked() {
    let (client, elsewhere) = (client("r"), client("elsewhere"));
    let shared = |client: &Client, name: &str| client.repository(&name.parse().unwrap(), None);
    let (asks, again) = (shared(&client, "a"), shared(&client, "a"));
    let (other, foreign) = (shared(&client, "b"), shared(&elsewhere, "a"));
    let (ann, ann_again, bob) =
        (as_user(&client, "a", "ann"), as_user(&client, "a", "ann"), as_user(&client, "a", "bob"));
    let registry = || "r".to_owned();
    let digest = Digest::of(Algorithm::Sha256, b"x");
    let answers: [BlobError; 4] = [
        ClientError::NotFound { registry: registry() }.into(),
        ClientError::Forbidden { registry: registry() }.into(),
        ClientError::Unauthorized { registry: registry() }.into(),
        ClientError::Unconfirmed { registry: registry(), status: 404 }.into(),
    ];
    for error in answers {
        for (asker, party, expected) in [
            (&asks, Some(&again), "own"),
            (&asks, Some(&other), "stranger's"),
            (&asks, Some(&foreign), "stranger's"),
            (&asks, Some(&ann), "stranger's"),
            (&asks, None, "stranger's"),
            (&ann, Some(&ann_again), "own"),
            (&ann, Some(&bob), "stranger's"),
            (&ann, Some(&asks), "stranger's"),
        ] {
            assert_eq!(word(&failure(error.clone(), Some(asker)).meaning(party)), expected, "{error}");
        }
    }
    let down = ClientError::Unavailable { registry: registry(), host: String::new(), status: None, reason: "x".into() };
    let account = ClientError::AccountRefused { registry: registry(), host: String::new(), status: 401 };
    let limited =
        ClientError::RateLimited { registry: registry(), host: String::new(), retry_after: Duration::from_secs(1) };
    for (asker, party, expected) in [
        (&asks, &other, "shared"),
        (&asks, &ann, "stranger's"),
        (&ann, &ann_again, "shared"),
        (&ann, &bob, "stranger's"),
        (&ann, &asks, "stranger's"),
        (&asks, &foreign, "stranger's"),
    ] {
        let failure = failure(BlobError::from(limited.clone()), Some(asker));
        assert_eq!(word(&failure.meaning(Some(party))), expected, "a limit");
    }
    let storage = BlobError::Storage { digest, reason: "x".into() };
    let mismatch = BlobError::Mismatch { registry: "r".into(), digest };
    for (error, party, expected) in [
        (BlobError::from(down.clone()), Some(&other), "shared"),
        (down.clone().into(), Some(&asks), "shared"),
        (down.clone().into(), Some(&ann), "shared"),
        (down.clone().into(), Some(&foreign), "stranger's"),
        (down.into(), None, "stranger's"),
        (account.clone().into(), Some(&other), "shared"),
        (account.into(), Some(&ann), "stranger's"),
        (storage, Some(&other), "shared"),
        (mismatch, Some(&other), "shared"),
        (Full::Share.into(), Some(&other), "shared"),
        (BlobError::Offline { digest }, Some(&other), "stranger's"),
        (BlobError::Offline { digest }, None, "own"),
    ] {
        assert_eq!(word(&failure(error.clone(), Some(&asks)).meaning(party)), expected, "{error}");
    }
}

#[test]
fn a_party_takes_its_own_answer_and_waits_through_those_of_strangers() {
    let client = client("r");
    let [a, b, c] = ["a", "b", "c"].map(|name| client.repository(&name.parse().unwrap(), None));
    let no = || BlobError::from(ClientError::NotFound { registry: "r".into() });
    let down = || BlobError::from(Full::Share);
    // What failed in turn, what a request for `a` had seen of it before it came, and what it makes of the rest.
    for (ends, since, expected) in [
        (&[][..], 0, None),
        (&[(&b, no())], 0, Some("stranger's")),
        (&[(&a, no())], 0, Some("own")),
        // An answer to an earlier request.
        (&[(&a, no())], 1, None),
        (&[(&a, no()), (&b, no())], 1, Some("stranger's")),
        // Its own answer, although a stranger's came after it, or the registry was busy.
        (&[(&a, no()), (&b, no()), (&c, no())], 0, Some("own")),
        (&[(&a, no()), (&b, down())], 0, Some("own")),
        (&[(&b, down()), (&c, no())], 0, Some("shared")),
        (&[(&b, no()), (&c, down())], 0, Some("shared")),
        (&[(&a, no()), (&b, no()), (&a, no())], 2, Some("own")),
    ] {
        let mut known = Ends::default();
        ends.iter().for_each(|(party, error)| known.note(failure(error.clone(), Some(*party))));
        let meaning = known.since(since, Some(&a));
        assert_eq!(meaning.as_ref().map(word), expected, "{since} of {}", ends.len());
        assert_eq!(known.count(), ends.len() as u64);
    }
}

#[test]
fn few_ended_downloads_are_remembered() {
    let client = client("r");
    let mut ends = Ends::default();
    for number in 0..2 * ENDS {
        let party = as_user(&client, "a", &number.to_string());
        ends.note(failure(ClientError::NotFound { registry: "r".into() }, Some(&party)));
    }
    assert_eq!((ends.last.len(), ends.count()), (ENDS, 2 * ENDS as u64));
}

#[test]
fn who_waits_for_an_answer() {
    let client = client("r");
    let [a, b] = ["a", "b"].map(|name| client.repository(&name.parse().unwrap(), None));
    let no = || BlobError::from(ClientError::NotFound { registry: "r".into() });
    let digest = Digest::of(Algorithm::Sha256, b"x");
    let mismatch = || BlobError::Mismatch { registry: "r".into(), digest };
    let storage = || BlobError::Storage { digest, reason: "x".into() };
    let (yes, refused, again) = (Some(Ok(true)), Some(Err(())), Some(Ok(false)));
    // Whether a download runs, is answered, or was; who was refused before; what has ended the fill.
    for (whole, answered, ends, failed, expected) in [
        (true, false, &[][..], None, None),
        (true, true, &[], None, yes),
        (false, false, &[], None, yes),
        (false, false, &[&b], None, again),
        (false, true, &[&b], None, again),
        (true, false, &[&b], None, None),
        (true, true, &[&b], None, yes),
        (false, false, &[&a], None, refused),
        // Its own no, also while a stranger's download runs.
        (true, false, &[&a], None, refused),
        (true, true, &[&a, &b], None, refused),
        (false, false, &[&b], Some(mismatch()), refused),
        (false, false, &[&b], Some(storage()), yes),
    ] {
        let mut state = State { whole, answered, failed, ..State::default() };
        ends.iter().for_each(|party| state.ends.note(failure(no(), Some(*party))));
        let answer = state.answer(0, Some(&a)).map(|answer| answer.map_err(drop));
        assert_eq!(answer, expected, "{whole} {answered} {}", ends.len());
    }
}
