//! What an endpoint wants to see, by repository: learnt from its 401s, so that later requests bring it at once.
//!
//! Some registries have one token service a repository (Artifactory, Nexus). So what a challenge said holds for the
//! repository that it was sent for; once two repositories want the same, it is a guess for others, until two differ. Lists
//! are apart from content, because some registries (ACR) want another scope for them; until a challenge says so, what the
//! repository wants for the one is tried for the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;
use url::Url;

/// Clients name repositories at will, so the number that is remembered is bounded.
const KEPT: u64 = 4096;
/// For how long `/v2/` is not asked again what it wants to see.
const BASE_FOR: Duration = Duration::from_secs(3600);

/// What an endpoint wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// User name and password.
    Basic,
    /// A token.
    Bearer {
        /// Which service issues it.
        realm: Arc<Realm>,
        /// What it must be good for, where the challenge said something else than the usual.
        scope: Option<Arc<str>>,
    },
}

impl Scheme {
    /// The same service's token for the usual scope.
    pub(super) fn with_usual_scope(self) -> Scheme {
        match self {
            Scheme::Basic => Scheme::Basic,
            Scheme::Bearer { realm, .. } => Scheme::Bearer { realm, scope: None },
        }
    }

    /// Whether this asks the same token service for less than `shown` has. A challenge that does so to a token says that the
    /// token is no longer good, and not that less than it would do.
    pub(super) fn asks_less_than(&self, shown: &Scheme, key: &SchemeKey) -> bool {
        let (Scheme::Bearer { realm, scope }, Scheme::Bearer { realm: other, scope: wide }) = (self, shown) else {
            return false;
        };
        let usual = key.usual_scope();
        let (scope, wide) = (scope.as_deref().unwrap_or(&usual), wide.as_deref().unwrap_or(&usual));
        let has = |scopes: &str, scope| scopes.split(' ').any(|other| other == scope);
        realm == other
            && scope.split(' ').all(|scope| has(wide, scope))
            && !wide.split(' ').all(|wide| has(scope, wide))
    }
}

/// A token service that was found to be the registry's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Realm {
    /// Its URL, pinned.
    pub(super) url: Url,
    /// What it calls the registry.
    pub(super) service: Option<String>,
}

/// What a scheme is remembered for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SchemeKey {
    /// The repository, as the endpoint names it.
    pub(super) repository: String,
    /// Lists, as opposed to manifests and blobs.
    pub(super) list: bool,
}

impl SchemeKey {
    /// What a token must be good for, unless a challenge says otherwise.
    pub(super) fn usual_scope(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }

    /// The same repository's other half: lists for content, content for lists.
    fn sibling(&self) -> SchemeKey {
        SchemeKey { list: !self.list, ..self.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Guess {
    Nothing,
    /// One repository wants this. A wrong guess costs a token, and no guess costs no more than a direct client.
    Once(String, Scheme),
    Usual(Scheme),
    /// It differs from repository to repository.
    Useless,
}

/// What a challenge asked for.
#[derive(Clone)]
struct Learnt {
    scheme: Scheme,
    /// Its token service has failed.
    failed: bool,
}

/// The schemes of one endpoint.
pub(super) struct Schemes {
    known: Cache<SchemeKey, Learnt>,
    guess: Mutex<Guess>,
    /// What `/v2/` wants to see, and when it was asked.
    base: Mutex<Option<(Option<Scheme>, Instant)>>,
}

/// A scheme, and how it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// A challenge for this repository asked for it.
    Learnt(Scheme),
    /// A challenge for this repository asked for it, for lists where this is content, or for content where this is a list.
    Sibling(Scheme),
    /// Another repository's challenge did.
    Guessed(Scheme),
}

impl Expected {
    /// The scheme.
    pub(super) fn scheme(&self) -> &Scheme {
        match self {
            Expected::Learnt(scheme) | Expected::Sibling(scheme) | Expected::Guessed(scheme) => scheme,
        }
    }
}

impl Schemes {
    /// Nothing is known.
    pub(super) fn new() -> Schemes {
        Schemes {
            known: Cache::builder().max_capacity(KEPT).build(),
            guess: Mutex::new(Guess::Nothing),
            base: Mutex::default(),
        }
    }

    /// What `/v2/` wants to see, if that was found out lately. `Some(None)`: nothing.
    pub(super) fn of_base(&self, now: Instant) -> Option<Option<Scheme>> {
        let base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        base.as_ref().filter(|(_, asked)| now.duration_since(*asked) < BASE_FOR).map(|(scheme, _)| scheme.clone())
    }

    /// `/v2/` was asked, and wants to see this.
    pub(super) fn base_wants(&self, scheme: Option<Scheme>, now: Instant) {
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = Some((scheme, now));
    }

    /// What the endpoint is expected to want.
    pub(super) fn expected(&self, key: &SchemeKey) -> Option<Expected> {
        if let Some(known) = self.known.get(key) {
            return Some(Expected::Learnt(known.scheme));
        }
        if let Some(known) = self.known.get(&key.sibling()) {
            return Some(Expected::Sibling(known.scheme));
        }
        match &*self.guess() {
            Guess::Usual(scheme) => Some(Expected::Guessed(scheme.clone())),
            Guess::Nothing | Guess::Once(..) | Guess::Useless => None,
        }
    }

    /// A challenge asked for this.
    pub(super) fn learn(&self, key: SchemeKey, scheme: Scheme) {
        let mut guess = self.guess();
        *guess = match (&*guess, &scheme) {
            (_, Scheme::Bearer { scope: Some(_), .. }) => Guess::Useless,
            (Guess::Nothing, _) => Guess::Once(key.repository.clone(), scheme.clone()),
            (Guess::Once(repository, _), _) if *repository == key.repository => {
                Guess::Once(key.repository.clone(), scheme.clone())
            }
            (Guess::Once(_, usual), scheme) if usual == scheme => Guess::Usual(usual.clone()),
            (Guess::Once(..), _) => Guess::Useless,
            (Guess::Usual(usual), scheme) if usual != scheme => Guess::Useless,
            (known, _) => known.clone(),
        };
        drop(guess);
        self.known.insert(key, Learnt { scheme, failed: false });
    }

    /// The token service of what was learnt failed. Whether it has failed before, so that another may have taken its place.
    pub(super) fn failed(&self, key: &SchemeKey) -> bool {
        match self.known.get(key) {
            Some(known) if !known.failed => {
                self.known.insert(key.clone(), Learnt { failed: true, ..known });
                false
            }
            _ => true,
        }
    }

    /// What was expected was not good: the endpoint is asked anew.
    pub(super) fn forget(&self, key: &SchemeKey) {
        self.known.invalidate(key);
        let mut guess = self.guess();
        if matches!(*guess, Guess::Once(..) | Guess::Usual(_)) {
            *guess = Guess::Nothing;
        }
    }

    /// A guess was wrong: no more guesses.
    pub(super) fn distrust(&self) {
        *self.guess() = Guess::Useless;
    }

    fn guess(&self) -> MutexGuard<'_, Guess> {
        self.guess.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Expected, Realm, Scheme, SchemeKey, Schemes};

    fn key(name: &str) -> SchemeKey {
        SchemeKey { repository: name.to_owned(), list: false }
    }

    fn bearer(url: &str, scope: Option<&str>) -> Scheme {
        let realm = Arc::new(Realm { url: url.parse().unwrap(), service: None });
        Scheme::Bearer { realm, scope: scope.map(Arc::from) }
    }

    #[test]
    fn guesses_until_repositories_differ() {
        let (schemes, one, two) = (Schemes::new(), bearer("https://h/1", None), bearer("https://h/2", None));
        assert_eq!(schemes.expected(&key("a")), None);
        schemes.learn(key("a"), one.clone());
        assert_eq!(schemes.expected(&key("a")), Some(Expected::Learnt(one.clone())));
        assert_eq!(schemes.expected(&key("b")), None, "one repository says nothing of another");
        schemes.learn(SchemeKey { list: true, ..key("a") }, one.clone());
        assert_eq!(schemes.expected(&key("b")), None);
        schemes.learn(key("b"), one.clone());
        assert_eq!(schemes.expected(&key("c")), Some(Expected::Guessed(one.clone())));
        schemes.learn(key("c"), two.clone());
        assert_eq!(schemes.expected(&key("a")), Some(Expected::Learnt(one)));
        assert_eq!(schemes.expected(&key("c")), Some(Expected::Learnt(two)));
        assert_eq!(schemes.expected(&key("d")), None);
    }

    #[test]
    fn a_token_service_may_fail_once() {
        let schemes = Schemes::new();
        assert!(schemes.failed(&key("a")), "nothing was learnt");
        schemes.learn(key("a"), Scheme::Basic);
        assert_eq!((schemes.failed(&key("a")), schemes.failed(&key("a"))), (false, true));
        schemes.learn(key("a"), Scheme::Basic);
        assert!(!schemes.failed(&key("a")));
    }

    #[test]
    fn lists_and_content_of_a_repository_begin_alike() {
        let (schemes, content) = (Schemes::new(), key("a"));
        let list = SchemeKey { list: true, ..content.clone() };
        let (pull, metadata) = (bearer("https://h/1", None), bearer("https://h/1", Some("repository:a:metadata_read")));
        schemes.learn(content.clone(), pull.clone());
        assert_eq!(schemes.expected(&list), Some(Expected::Sibling(pull.clone())));
        schemes.learn(list.clone(), metadata.clone());
        assert_eq!(schemes.expected(&list), Some(Expected::Learnt(metadata)));
        assert_eq!(schemes.expected(&content), Some(Expected::Learnt(pull)));
    }

    #[test]
    fn asks_less() {
        let of = |scope| bearer("https://h/1", scope);
        for (scheme, shown, expected) in [
            (of(None), of(Some("repository:a:pull repository:a:metadata_read")), true),
            (of(Some("x")), of(Some("x y")), true),
            (of(Some("y x")), of(Some("x y")), false),
            (of(Some("x y")), of(Some("x")), false),
            (of(Some("z")), of(Some("x y")), false),
            (of(None), of(None), false),
            (bearer("https://h/2", None), of(Some("repository:a:pull x")), false),
            (Scheme::Basic, of(Some("x y")), false),
            (of(None), Scheme::Basic, false),
        ] {
            assert_eq!(scheme.asks_less_than(&shown, &key("a")), expected, "{scheme:?} {shown:?}");
        }
    }

    #[test]
    fn a_scope_of_its_own_is_no_guess() {
        let schemes = Schemes::new();
        schemes.learn(key("a"), bearer("https://h/1", Some("repository:proxy/a:pull")));
        assert_eq!(schemes.expected(&key("b")), None);
    }

    #[test]
    fn what_was_not_good_is_forgotten() {
        let schemes = Schemes::new();
        schemes.learn(key("a"), Scheme::Basic);
        schemes.forget(&key("a"));
        assert_eq!((schemes.expected(&key("a")), schemes.expected(&key("b"))), (None, None));
    }
}
