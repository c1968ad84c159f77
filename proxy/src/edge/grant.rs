//! Learning, while the origin is there, whom its token service would let pull what.
//!
//! Clients of a registry with tokens show their account to its token service only, and the service is usually away
//! together with the origin. Then they can but show the account to this edge, which has never seen the origin's yes to
//! it. So where `offline_policy` lets known callers in, an account that gets a token for a repository is asked about:
//! may it read there? The origin says so itself; a token is never taken apart. The account is in the header of a GET, or in the
//! form of a POST ([`super::form`]).
//!
//! A token without an account proves nothing: token services issue tokens that grant nothing to everybody. So the origin is asked about
//! the repository as well, with nothing but such a token. Its yes means that the repository is public, its no that it is not. A yes to
//! callers without an account counts for everybody, so it is asked for again after `authorization_ttl`, whoever gets a token.
//!
//! A client that pushes to a new repository gets a token before it is there, and the first token that means it makes the edge forget what
//! was known under its name ([`super::identity`]). So for a while after a token was issued the question is asked again when its
//! answer was forgotten, or came too late to be kept.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use pierhead_config::OfflinePolicy;
use pierhead_registry::client::{Account, ClientError, Credential, ListKind};
use pierhead_registry::oci::RepositoryName;
use pingora_http::RequestHeader;
use tokio::time::{Instant, timeout_at};
use url::form_urlencoded;

use super::Edge;
use super::credential::{Caller, basic, is_nothing};
use super::form::TokenForm;
use super::scope::{Scope, Upstream, Wanted};
use crate::cache::RepositoryId;

/// Most repositories of one token that are asked about.
const REPOSITORIES: usize = 8;
/// How long the origin's yes is not asked for again.
const ENOUGH: Duration = Duration::from_secs(3600);
/// How long after a token was issued its first use may make the edge forget the answer.
const WATCHED: Duration = Duration::from_secs(10);
/// Answers that are watched for so long at a time. Beyond it an answer is asked for once, and left to the next token.
pub(super) const WATCHES: usize = 1000;
/// Repositories of which it is watched at a time whether they are public. Beyond it nothing is asked: strangers can ask for any
/// number of tokens.
pub(super) const PUBLIC_WATCHES: usize = 200;
/// How often the origin is asked for one token.
const QUESTIONS: usize = 4;
/// The smallest question that takes the right to pull from a registry with tokens, whose service we are asked through.
const QUESTION: &str = "n=1";

/// A token that was asked for.
pub(crate) struct Grant {
    edge: Arc<Edge>,
    upstream: Arc<Upstream>,
    question: Question,
}

/// How a token was asked for.
enum Question {
    /// By a GET: the account is in the header, if there is one; the scopes are in the query.
    Query { account: Option<Account>, repositories: Vec<RepositoryName> },
    /// By a POST, whose body is still to come.
    Form(TokenForm),
}

impl Grant {
    /// If a request asks for a token that is worth learning from.
    pub(crate) fn of(edge: &Arc<Edge>, upstream: &Arc<Upstream>, request: &RequestHeader) -> Option<Grant> {
        if upstream.config.offline_policy != OfflinePolicy::AllowKnown || !upstream.is_passthrough() {
            return None;
        }
        let question = match request.method {
            Method::GET => {
                let header = request.headers.get(http::header::AUTHORIZATION);
                let account = basic(header);
                if account.is_none() && !is_nothing(header) {
                    return None;
                }
                let scopes = form_urlencoded::parse(request.uri.query()?.as_bytes());
                let scopes = scopes.filter(|(name, _)| name == "scope").map(|(_, scopes)| scopes);
                let repositories = pulled(scopes, |name| upstream.config.allows(name));
                Question::Query { account, repositories }
            }
            _ => Question::Form(TokenForm::of(request)?),
        };
        Some(Grant { edge: Arc::clone(edge), upstream: Arc::clone(upstream), question })
    }

    /// The form that is to be copied on its way to the origin.
    pub(crate) fn form(&self) -> Option<&TokenForm> {
        match &self.question {
            Question::Form(form) => Some(form),
            Question::Query { .. } => None,
        }
    }

    /// The token was issued, for whatever of it the account may have.
    pub(crate) fn issued(&self) {
        match &self.question {
            Question::Query { account, repositories } => self.learn(account.clone(), repositories),
            Question::Form(form) => {
                let Some(asked) = form.read() else { return };
                self.learn(asked.account, &pulled(asked.scopes.iter(), |name| self.upstream.config.allows(name)));
            }
        }
    }

    fn learn(&self, account: Option<Account>, repositories: &[RepositoryName]) {
        let key = &self.edge.caller_key;
        let public = Arc::new(Caller::public(key));
        let caller = account.map(|account| Arc::new(Caller::new(key, Some(Credential::Account(account)))));
        for name in repositories {
            let repository = RepositoryId { registry: Arc::clone(&self.upstream.name), name: name.clone() };
            let (edge, upstream) = (Arc::clone(&self.edge), Arc::clone(&self.upstream));
            let (caller, public) = (caller.clone(), Arc::clone(&public));
            tokio::spawn(async move {
                match caller {
                    Some(caller) => {
                        let reviewed = review(&edge, &upstream, &repository, public);
                        let learnt = learn(Arc::clone(&edge), Arc::clone(&upstream), repository.clone(), caller);
                        tokio::join!(reviewed, learnt);
                    }
                    None => learn(edge, upstream, repository, public).await,
                }
            });
        }
    }
}

impl Edge {
    /// Whether a caller without an account gets what the origin gives everybody: while the origin is away, for its token service issues
    /// no token then. Where the origin lets such callers in without any token, they are known as they are.
    pub(super) async fn counts_as_public(
        &self,
        upstream: &Upstream,
        repository: &RepositoryId,
        caller: &Caller,
    ) -> bool {
        upstream.config.offline_policy == OfflinePolicy::AllowKnown
            && (self.offline || !upstream.is_reachable())
            && self.cache.authorised(repository, &caller.id).await.is_none()
    }

    /// The origin refused a caller that showed nothing. That may be no more than its challenge, so where the repository was public, the
    /// origin is asked whether it still is.
    pub(super) fn review(self: &Arc<Self>, scope: &Scope) {
        let nothing = scope.caller.as_ref().is_some_and(|caller| caller.shows_nothing() && !caller.is_public());
        if nothing && scope.upstream.config.offline_policy == OfflinePolicy::AllowKnown {
            let (edge, scope) = (Arc::clone(self), scope.clone());
            let public = Arc::new(Caller::public(&self.caller_key));
            tokio::spawn(async move { review(&edge, &scope.upstream, &scope.repository, public).await });
        }
    }
}

/// Asks, unless it was answered not long ago, until the answer stays.
async fn learn(edge: Arc<Edge>, upstream: Arc<Upstream>, repository: RepositoryId, caller: Arc<Caller>) {
    let public = caller.is_public();
    let watch = if public { upstream.public_watches.try_acquire() } else { upstream.watches.try_acquire() };
    if public && watch.is_err() {
        return;
    }
    let end = Instant::now() + if watch.is_ok() { WATCHED } else { Duration::ZERO };
    for _ in 0..QUESTIONS {
        let mut forgotten = pin!(upstream.writes.forgotten());
        forgotten.as_mut().enable();
        let scope = Scope::new(&upstream, repository.clone(), Some(Arc::clone(&caller)), edge.offline);
        if !is_known(&edge, &scope, &caller).await {
            ask(&edge, &scope).await;
            // Something was written meanwhile, so the answer was not kept.
            if scope.epoch != upstream.writes.epoch(&repository.name) {
                continue;
            }
        }
        while is_known(&edge, &scope, &caller).await || scope.epoch == upstream.writes.epoch(&repository.name) {
            // Of other parts it tells as well.
            if timeout_at(end, forgotten.as_mut()).await.is_err() {
                return;
            }
            forgotten.set(upstream.writes.forgotten());
            forgotten.as_mut().enable();
        }
    }
}

/// Asks again whether a repository is public that was it before, unless that was not long ago.
async fn review(edge: &Arc<Edge>, upstream: &Arc<Upstream>, repository: &RepositoryId, public: Arc<Caller>) {
    let scope = Scope::new(upstream, repository.clone(), Some(Arc::clone(&public)), edge.offline);
    if edge.cache.authorised(repository, &public.id).await.is_some() && !is_known(edge, &scope, &public).await {
        ask(edge, &scope).await;
    }
}

/// Whether the origin's yes is known, and not long ago.
async fn is_known(edge: &Edge, scope: &Scope, caller: &Caller) -> bool {
    let enough = match caller.is_public() {
        true => ENOUGH.min(scope.upstream.config.authorization_ttl),
        false => ENOUGH,
    };
    let yes = edge.cache.authorised(&scope.repository, &caller.id).await;
    yes.and_then(|yes| SystemTime::now().duration_since(yes).ok()).is_some_and(|age| age < enough)
}

async fn ask(edge: &Arc<Edge>, scope: &Scope) {
    let public = scope.caller.as_ref().is_some_and(|caller| caller.is_public());
    if public {
        // A token from before the repository became private may still be good.
        scope.upstream.forget_anonymous_tokens(&scope.repository.name).await;
    }
    let name = format!("tags/list?{QUESTION}");
    let key = scope.key(Wanted::List(name.clone()));
    let question = {
        let (edge, scope) = (Arc::clone(edge), scope.clone());
        move || async move { edge.list_upstream(&scope, &ListKind::Tags, Some(QUESTION), &name).await }
    };
    // That there are too many questions already is no harm.
    match edge.lists.join(&scope.party, key, question).await {
        Ok(Ok(_)) => scope.allowed(&edge.cache).await,
        // Some registries refuse lists to accounts that may pull. What is refused to everybody is taken to be private.
        Ok(Err(ClientError::Unauthorized { .. } | ClientError::Forbidden { .. } | ClientError::NotFound { .. })) => {
            scope.no_longer_public(&edge.cache, &edge.caller_key).await;
        }
        Ok(Err(_)) | Err(_) => {}
    }
}

/// The repositories that a token is to be good for pulling from: `repository:team/app:pull,push`, one in each scope, or
/// several with spaces between them.
fn pulled(
    scopes: impl Iterator<Item = impl AsRef<str>>,
    allows: impl Fn(&RepositoryName) -> bool,
) -> Vec<RepositoryName> {
    let mut repositories = Vec::new();
    for scopes in scopes.take(REPOSITORIES) {
        for scope in scopes.as_ref().split(' ') {
            let Some((name, actions)) = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':')) else {
                continue;
            };
            if let Ok(name) = name.parse()
                && actions.split(',').any(|action| action == "pull")
                && repositories.len() < REPOSITORIES
            {
                repositories.push(name);
            }
        }
    }
    repositories.retain(allows);
    repositories
}

#[cfg(test)]
mod tests {
    use super::{REPOSITORIES, pulled};

    #[test]
    fn reads_scopes() {
        let many = ["repository:a:pull"; 2 * REPOSITORIES];
        for (scopes, expected) in [
            (&["repository:team/app:pull,push"][..], &["team/app"][..]),
            (&["repository:a:pull", "repository:b:push", "repository:c:push,pull"], &["a", "c"]),
            (&["repository:a:pull repository:b:pull"], &["a", "b"]),
            (&["repository:secret/a:pull repository:b:pull"], &["b"]),
            (&["registry:catalog:*", "repository:A:pull", "repository:a"], &[]),
            (&[], &[]),
            (&many, &["a"; REPOSITORIES]),
        ] {
            let read = pulled(scopes.iter(), |name| name.namespace() != "secret");
            assert_eq!(read.iter().map(|name| name.as_str()).collect::<Vec<_>>(), expected, "{scopes:?}");
        }
    }
}
