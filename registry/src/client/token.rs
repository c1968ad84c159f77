//! Bearer tokens: kept until shortly before they expire, and fetched once however many ask.
//!
//! A token is known by the service that issues it, the scope, and the credential it was issued to. Fetching runs in
//! a task of its own, so that the caller who happened to be first may go away without the others starting over.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::ops::compute::Op;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::Account;
use super::failure::Failure;
use super::schemes::Realm;
use crate::oci::RepositoryName;

/// Most tokens kept: callers bring credentials of their own, so their number is not ours.
const KEPT: u64 = 4096;
/// Longest answer of a token service.
pub(super) const ANSWER_LIMIT: u64 = 256 * 1024;
/// When the service does not say, by the specification.
const UNSAID: Duration = Duration::from_secs(60);
/// However long a service says.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What a token is good for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    /// Who issues it.
    pub(super) realm: Arc<Realm>,
    /// For what.
    pub(super) scope: Arc<str>,
    /// To whom; `None` for anybody.
    pub(super) account: Option<Arc<Account>>,
    /// Whether that is the endpoint's own account.
    pub(super) own: bool,
}

/// A token, as a header.
#[derive(Clone)]
pub(super) struct Token {
    /// `Bearer …`, marked sensitive.
    pub(super) header: HeaderValue,
    /// When it came.
    pub(super) received: Instant,
    usable: Duration,
    accepted: Arc<AtomicBool>,
    /// How many requests have shown it.
    shown: Arc<AtomicUsize>,
}

/// The answer of a token service. Go's clients read its names in any case.
#[derive(Deserialize)]
struct Answer {
    #[serde(alias = "Token", alias = "TOKEN")]
    token: Option<String>,
    #[serde(alias = "Access_token", alias = "Access_Token", alias = "ACCESS_TOKEN")]
    access_token: Option<String>,
    #[serde(alias = "Expires_In", alias = "EXPIRES_IN")]
    expires_in: Option<serde_json::Value>,
}

impl Token {
    /// A request shows it.
    pub(super) fn show(&self) {
        self.shown.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether more than one request has shown it.
    pub(super) fn is_shared(&self) -> bool {
        self.shown.load(Ordering::Relaxed) > 1
    }

    /// An answer other than 401 to a request that showed it.
    pub(super) fn accept(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// Whether the registry has accepted it. Some tokens are good for a few requests only, so a 401 may come at once after that.
    pub(super) fn was_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Reads the answer of a token service.
    pub(super) fn parse(body: &[u8], received: Instant) -> Result<Token, Failure> {
        // The error of the parser would quote the body.
        let unreadable = || Failure::invalid("the token service's answer is unreadable");
        let answer: Answer = serde_json::from_slice(body).map_err(|_| unreadable())?;
        let text = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
        let text = text.ok_or_else(unreadable)?;
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| unreadable())?;
        header.set_sensitive(true);
        let seconds = answer.expires_in.as_ref().and_then(serde_json::Value::as_f64);
        let lifetime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(Token {
            header,
            received,
            usable: usable(lifetime.filter(|time| !time.is_zero())),
            accepted: Arc::default(),
            shown: Arc::default(),
        })
    }
}

/// How long a token is used: a tenth less than it lives, at most half a minute less, for clocks and journeys.
fn usable(lifetime: Option<Duration>) -> Duration {
    let lifetime = lifetime.unwrap_or(UNSAID).min(LONGEST);
    lifetime - (lifetime / 10).min(Duration::from_secs(30))
}

/// Whether a scope is about a repository: `repository:team/app:pull`, one or several with spaces between them.
fn names(scope: &str, repository: &RepositoryName) -> bool {
    scope.split(' ').any(|scope| {
        let rest = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
        rest.is_some_and(|(name, _)| name == repository.as_str())
    })
}

struct AsUsable;

impl Expiry<TokenKey, Token> for AsUsable {
    fn expire_after_create(&self, _key: &TokenKey, token: &Token, _now: Instant) -> Option<Duration> {
        Some(token.usable)
    }
}

type Kept = moka::future::Cache<TokenKey, Token>;

fn none() -> Kept {
    moka::future::Cache::builder().max_capacity(KEPT).expire_after(AsUsable).build()
}

/// The tokens of one registry.
#[derive(Clone)]
pub(super) struct Tokens {
    /// Replaced when all are forgotten: what is being fetched then comes into the one that nobody looks at any more.
    kept: Arc<RwLock<Kept>>,
}

impl Tokens {
    /// None.
    pub(super) fn new() -> Tokens {
        Tokens { kept: Arc::new(RwLock::new(none())) }
    }

    /// Forgets all of them.
    pub(super) fn clear(&self) {
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = none();
    }

    /// Forgets the tokens for a repository that were issued without an account.
    pub(super) async fn forget_anonymous(&self, repository: &RepositoryName) {
        let kept = self.kept();
        for (key, _) in &kept {
            if key.account.is_none() && !key.own && names(&key.scope, repository) {
                kept.invalidate(&*key).await;
            }
        }
    }

    fn kept(&self) -> Kept {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The token, from here or by `fetch`, which runs once for all who wait.
    pub(super) async fn get(
        &self,
        key: TokenKey,
        fetch: impl Future<Output = Result<Token, Failure>> + Send + 'static,
    ) -> Result<Token, Failure> {
        let kept = self.kept();
        if let Some(token) = kept.get(&key).await {
            return Ok(token);
        }
        // Detached: each caller's task waits for the one fetch, none of them dies with its caller.
        let task = tokio::spawn(async move { kept.try_get_with(key, fetch).await });
        match task.await {
            Ok(result) => result.map_err(|failure| Failure::clone(&failure)),
            Err(_) => Err(Failure::broken("fetching a token was interrupted")),
        }
    }

    /// Forgets a token that was refused, unless another has taken its place already.
    pub(super) async fn forget(&self, key: &TokenKey, refused: &HeaderValue) {
        let same = |token: &Token| token.header == *refused;
        let kept = self.kept();
        let entry = kept.entry_by_ref(key);
        entry
            .and_compute_with(|entry| {
                let refused = entry.is_some_and(|entry| same(entry.value()));
                std::future::ready(if refused { Op::Remove } else { Op::Nop })
            })
            .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use tokio::sync::Notify;

    use super::{Account, Failure, Realm, Token, TokenKey, Tokens, usable};

    fn key(scope: &str) -> TokenKey {
        let realm = Realm { url: "https://auth.example.com/token".parse().unwrap(), service: None };
        TokenKey { realm: Arc::new(realm), scope: scope.into(), account: None, own: false }
    }

    fn token(text: &str) -> Result<Token, Failure> {
        Token::parse(format!(r#"{{"token":"{text}"}}"#).as_bytes(), Instant::now())
    }

    #[test]
    fn reads_answers() {
        for (body, expected) in [
            (r#"{"token":"a"}"#, Some(("Bearer a", 54))),
            (r#"{"access_token":"b","expires_in":300}"#, Some(("Bearer b", 270))),
            (r#"{"token":"","access_token":"b","expires_in":3600.0}"#, Some(("Bearer b", 3570))),
            (r#"{"Token":"a","Expires_In":300}"#, Some(("Bearer a", 270))),
            (r#"{"token":"a","expires_in":null}"#, Some(("Bearer a", 54))),
            (r#"{"token":"a","expires_in":-5}"#, Some(("Bearer a", 54))),
            (r#"{"token":"a","expires_in":1e300}"#, Some(("Bearer a", 54))),
            (r#"{"token":"a","expires_in":99999999}"#, Some(("Bearer a", 86370))),
            (r#"{"token":""}"#, None),
            (r#"{"token":"a\nb"}"#, None),
            ("{}", None),
            ("<html>", None),
        ] {
            let read = Token::parse(body.as_bytes(), Instant::now()).ok();
            let read = read.map(|token| (token.header.to_str().unwrap().to_owned(), token.usable.as_secs()));
            assert_eq!(read, expected.map(|(header, seconds)| (header.to_owned(), seconds)), "{body}");
        }
        assert_eq!(usable(Some(Duration::from_secs(10))), Duration::from_secs(9));
    }

    #[tokio::test]
    async fn fetches_once_even_when_the_first_caller_goes_away() {
        let (tokens, fetched, go) = (Tokens::new(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let get = || {
            let (tokens, fetched, go) = (tokens.clone(), Arc::clone(&fetched), Arc::clone(&go));
            tokio::spawn(async move {
                let fetch = async move {
                    fetched.fetch_add(1, Ordering::SeqCst);
                    go.notified().await;
                    token("x")
                };
                tokens.get(key("a"), fetch).await.map(|token| token.header)
            })
        };
        let first = get();
        while fetched.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..50).map(|_| get()).collect();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        go.notify_one();
        for other in others {
            assert_eq!(other.await.unwrap().unwrap(), "Bearer x");
        }
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn forgets_what_was_refused_and_no_more() {
        let tokens = Tokens::new();
        let first = tokens.get(key("a"), async { token("1") }).await.unwrap().header;
        tokens.forget(&key("a"), &first).await;
        let second = tokens.get(key("a"), async { token("2") }).await.unwrap().header;
        assert_eq!(second, "Bearer 2");
        tokens.forget(&key("a"), &first).await;
        assert_eq!(tokens.get(key("a"), async { token("3") }).await.unwrap().header, "Bearer 2");
        assert_eq!(tokens.get(key("b"), async { token("4") }).await.unwrap().header, "Bearer 4");
    }

    #[tokio::test]
    async fn forgets_tokens_for_anybody_by_repository() {
        let tokens = Tokens::new();
        let account = Arc::new(Account { username: "ann".to_owned(), password: "x".to_owned() });
        let anns = TokenKey { account: Some(account), ..key("repository:a:pull") };
        let own = TokenKey { own: true, ..key("repository:a:pull") };
        let keys = [
            (key("repository:a:pull"), "2"),
            (key("repository:b:pull repository:a:pull,push"), "2"),
            (key("repository:a/a:pull"), "1"),
            (key("repository:b:pull"), "1"),
            (key("a"), "1"),
            (anns, "1"),
            (own, "1"),
        ];
        for (key, _) in &keys {
            tokens.get(key.clone(), async { token("1") }).await.unwrap();
        }
        tokens.forget_anonymous(&"a".parse().unwrap()).await;
        for (key, expected) in keys {
            let scope = Arc::clone(&key.scope);
            let token = tokens.get(key, async { token("2") }).await.unwrap();
            assert_eq!(token.header, format!("Bearer {expected}"), "{scope}");
        }
    }

    #[tokio::test]
    async fn what_is_being_fetched_when_all_are_forgotten_is_not_kept() {
        let (tokens, go) = (Tokens::new(), Arc::new(Notify::new()));
        tokens.get(key("a"), async { token("1") }).await.unwrap();
        let (waiting, gone) = (tokens.clone(), Arc::clone(&go));
        let slow = tokio::spawn(async move {
            let fetch = async move {
                gone.notified().await;
                token("1")
            };
            waiting.get(key("b"), fetch).await.map(|token| token.header)
        });
        // On this one thread, yielding lets it reach its wait.
        tokio::task::yield_now().await;
        tokens.clear();
        go.notify_one();
        assert_eq!(slow.await.unwrap().unwrap(), "Bearer 1");
        for scope in ["a", "b"] {
            assert_eq!(tokens.get(key(scope), async { token("2") }).await.unwrap().header, "Bearer 2");
        }
    }

    #[tokio::test]
    async fn failures_are_not_kept() {
        let tokens = Tokens::new();
        let failed = tokens.get(key("a"), async { Err(Failure::Forbidden) }).await;
        assert_eq!(failed.map(|token| token.header), Err(Failure::Forbidden));
        assert!(tokens.get(key("a"), async { token("1") }).await.is_ok());
    }
}
