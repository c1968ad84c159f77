//! Logins, rights and tokens on a real database, with two nodes on it.

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pierhead_config::{Database, DatabaseKind, KeyAlgorithm};
use pierhead_registry::token::TokenError;

use super::*;
use crate::meta::{AccountEdit, Grantee, NewAccount, NewAppToken, Role, TeamRole, Visibility};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HOST: &str = "registry.example.com";

struct Node {
    auth: Auth,
    meta: Meta,
}

fn config() -> OriginAuth {
    OriginAuth {
        token_lifetime: Duration::from_secs(3600),
        key_algorithm: KeyAlgorithm::Es256,
        key_rotation: Duration::from_secs(30 * 24 * 3600),
        anonymous_pulls: true,
        failed_logins: 3,
    }
}

async fn node(directory: &tempfile::TempDir, config: &OriginAuth) -> Node {
    let database = Database {
        kind: DatabaseKind::Sqlite(directory.path().join("origin.db")),
        max_connections: 4,
        min_connections: 0,
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(10),
    };
    let meta = Meta::open(&database).await.unwrap();
    Node { auth: Auth::open(meta.clone(), HOST, config).await.unwrap(), meta }
}

impl Node {
    async fn user(&self, name: &str, password: &str) -> Account {
        let hash = self.auth.hash_password(Secret::new(password)).await.unwrap();
        let new = NewAccount { password: Some(hash), ..NewAccount::new(name, AccountKind::User) };
        self.account(new).await
    }

    async fn account(&self, new: NewAccount) -> Account {
        let change = self.meta.change().await.unwrap();
        let account = change.create_account(new, meta::now()).await.unwrap();
        change.commit().await.unwrap();
        account
    }

    async fn edit(&self, account: &Account, edit: AccountEdit) {
        let change = self.meta.change().await.unwrap();
        change.edit_account(account.id, edit).await.unwrap();
        change.commit().await.unwrap();
    }

    async fn login(&self, name: &str, password: &str) -> Result<Caller, LoginError> {
        self.auth.login(&Shown::account(name, password), HERE).await
    }

    async fn actions(&self, caller: &Caller, scope: &str) -> String {
        let scopes = Scope::parse_all([scope], HOST).unwrap();
        let issued = self.auth.issue(caller, &scopes).await.unwrap();
        let header = HeaderValue::from_str(&format!("Bearer {}", issued.token)).unwrap();
        let claims = self.auth.verify(Some(&header)).await.unwrap();
        assert_eq!(claims.sub, caller.name().unwrap_or_default());
        claims.access.iter().map(|access| access.actions.join(",")).collect::<Vec<_>>().join(" ")
    }
}

#[tokio::test]
async fn users_log_in_until_their_password_changes_or_they_are_disabled() {
    let directory = tempfile::tempdir().unwrap();
    let [one, other] = [node(&directory, &config()).await, node(&directory, &config()).await];
    let ann = one.user("ann", "correct horse").await;
    for _ in 0..2 {
        assert_eq!(one.login("ann", "correct horse").await.unwrap().name(), Some("ann"));
        assert!(matches!(one.login("bob", "correct horse").await, Err(LoginError::Wrong)));
    }
    let hash = other.auth.hash_password(Secret::new("battery staple")).await.unwrap();
    other.edit(&ann, AccountEdit { password: Some(hash), ..AccountEdit::default() }).await;
    assert!(matches!(one.login("ann", "correct horse").await, Err(LoginError::Wrong)));
    assert!(one.login("ann", "battery staple").await.is_ok());
    other.edit(&ann, AccountEdit { enabled: Some(false), ..AccountEdit::default() }).await;
    assert!(matches!(one.login("ann", "battery staple").await, Err(LoginError::Disabled)));
    assert!(matches!(one.login("ann", "wrong").await, Err(LoginError::Wrong)));
    assert!(one.login("", "").await.unwrap().account().is_none());
}

#[tokio::test]
async fn guessing_at_one_node_makes_an_account_wait_at_all_and_lets_remembered_logins_in() {
    let directory = tempfile::tempdir().unwrap();
    let [one, other] = [node(&directory, &config()).await, node(&directory, &config()).await];
    one.user("ann", "correct horse").await;
    assert!(other.login("ann", "correct horse").await.is_ok());
    for guess in 0..config().failed_logins {
        assert!(matches!(one.login("ann", &format!("guess {guess}")).await, Err(LoginError::Wrong)), "{guess}");
    }
    for node in [&one, &other] {
        assert!(matches!(node.login("ann", "another guess").await, Err(LoginError::Limited(_))));
    }
    assert!(matches!(one.login("ann", "correct horse").await, Err(LoginError::Limited(_))));
    assert!(other.login("ann", "correct horse").await.is_ok());
}

#[tokio::test]
async fn an_address_that_guesses_is_not_heard() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(&directory, &config()).await;
    let mut limited = 0;
    for guess in 0..40 {
        match node.login(&format!("acme+robot{guess}"), "guess").await {
            Err(LoginError::Wrong) => {}
            Err(LoginError::Limited(_)) => limited += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(limited, 20);
    let elsewhere = IpAddr::from([192, 0, 2, 1]);
    let robot = Shown::account("acme+robot", "guess");
    assert!(matches!(node.auth.login(&robot, elsewhere).await, Err(LoginError::Wrong)));
}

#[tokio::test]
async fn robots_and_applications_log_in_with_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(&directory, &config()).await;
    let acme = node.account(NewAccount::new("acme", AccountKind::Organization)).await;
    let ann = node.user("ann", "correct horse").await;
    let token = token();
    let robot = NewAccount {
        owner: Some(acme.id),
        token_hash: Some(hash(&token)),
        superuser: Superuser::Full,
        ..NewAccount::new("acme+ci", AccountKind::Robot)
    };
    node.account(robot).await;
    let caller = node.login("acme+ci", token.reveal()).await.unwrap();
    assert_eq!((caller.name(), caller.superuser()), (Some("acme+ci"), Superuser::No));
    assert!(node.meta.account("acme+ci").await.unwrap().unwrap().last_login.is_some());
    // Many at once are no guesses.
    let many = (0..100).map(|_| node.login("acme+ci", token.reveal()));
    assert!(futures_util::future::join_all(many).await.iter().all(Result::is_ok));
    assert!(matches!(node.login("acme+ci", "X").await, Err(LoginError::Wrong)));
    assert!(matches!(node.login("acme", token.reveal()).await, Err(LoginError::Wrong)));
    node.edit(&acme, AccountEdit { enabled: Some(false), ..AccountEdit::default() }).await;
    assert!(matches!(node.login("acme+ci", token.reveal()).await, Err(LoginError::Disabled)));

    let change = node.meta.change().await.unwrap();
    let new = |title: &str, token: &Secret, expires| NewAppToken {
        uuid: uuid(),
        account: ann.id,
        title: title.to_owned(),
        hash: hash(token),
        expires,
    };
    let [good, old] = [super::token(), super::token()];
    let now = meta::now();
    change.create_app_token(new("laptop", &good, None), now).await.unwrap();
    change.create_app_token(new("lost", &old, Some(now - 1)), now).await.unwrap();
    change.commit().await.unwrap();
    for name in ["$app", "$oauthtoken"] {
        assert_eq!(node.login(name, good.reveal()).await.unwrap().name(), Some("ann"));
    }
    let bearer = HeaderValue::from_str(&format!("Bearer {}", good.reveal())).unwrap();
    assert_eq!(node.auth.login(&Shown::read(Some(&bearer)), HERE).await.unwrap().name(), Some("ann"));
    assert!(matches!(node.login("$app", old.reveal()).await, Err(LoginError::Wrong)));
    let used = node.meta.app_token_by_hash(&hash(&good)).await.unwrap().unwrap();
    assert!(used.last_accessed.is_some_and(|at| at >= now));
}

#[tokio::test]
async fn tokens_grant_what_was_given_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(&directory, &config()).await;
    let acme = node.account(NewAccount::new("acme", AccountKind::Organization)).await;
    let [ann, bob, eve] = [
        node.user("ann", "correct horse").await,
        node.user("bob", "correct horse").await,
        node.user("eve", "correct horse").await,
    ];
    let change = node.meta.change().await.unwrap();
    let owners = change.create_team(acme.id, "owners", TeamRole::Admin, "").await.unwrap();
    let makers = change.create_team(acme.id, "makers", TeamRole::Creator, "").await.unwrap();
    change.add_member(owners.id, ann.id).await.unwrap();
    change.add_member(makers.id, bob.id).await.unwrap();
    change.add_member(makers.id, bob.id).await.unwrap();
    let app = change.insert_repository(acme.id, "acme/app", Visibility::Private, "").await.unwrap();
    change.grant(app.id, Grantee::Team(makers.id), Role::Read).await.unwrap();
    change.grant(app.id, Grantee::Team(makers.id), Role::Write).await.unwrap();
    let open = change.insert_repository(acme.id, "acme/open", Visibility::Public, "").await.unwrap();
    change.create_default_permission(uuid(), acme.id, None, Grantee::Account(eve.id), Role::Read).await.unwrap();
    change
        .create_default_permission(uuid(), acme.id, Some(ann.id), Grantee::Team(makers.id), Role::Admin)
        .await
        .unwrap();
    let made = change.insert_repository(acme.id, "acme/made", Visibility::Private, "").await.unwrap();
    change.grant_defaults(made.id, acme.id, bob.id).await.unwrap();
    change.commit().await.unwrap();
    let callers =
        [Caller::anonymous(), Caller::known(ann.clone()), Caller::known(bob.clone()), Caller::known(eve.clone())];
    for (scope, expected) in [
        ("repository:acme/app:pull,push", ["", "pull,push", "pull,push", ""]),
        ("repository:acme/open:pull,push", ["pull", "pull,push", "pull", "pull"]),
        ("repository:acme/made:*", ["", "pull,push,delete,*", "pull,push,delete,*", "pull"]),
        ("repository:acme/new:pull,push", ["", "pull,push", "push", ""]),
        ("repository:ann/own:push", ["", "push", "", ""]),
        ("repository:nobody/x:pull", ["", "", "", ""]),
        ("repository:single:pull", ["", "", "", ""]),
        ("registry:catalog:*", ["*", "*", "*", "*"]),
        ("repository:acme/app:pull repository:acme/open:pull", ["pull", "pull pull", "pull pull", "pull"]),
    ] {
        for (caller, expected) in callers.iter().zip(expected) {
            assert_eq!(node.actions(caller, scope).await, expected, "{scope} {:?}", caller.name());
        }
    }
    // Deleting an organisation takes along what hangs on it, once its repositories are marked.
    let change = node.meta.change().await.unwrap();
    for repository in [&app, &open, &made] {
        change.delete_repository(repository.id).await.unwrap();
    }
    change.delete_account(acme.id, meta::now()).await.unwrap();
    change.commit().await.unwrap();
    assert!(node.meta.account("acme").await.unwrap().is_none());
    assert_eq!(node.actions(&Caller::known(ann), "repository:acme/app:pull").await, "");
}

#[tokio::test]
async fn every_node_verifies_the_tokens_of_every_other() {
    let directory = tempfile::tempdir().unwrap();
    let one = node(&directory, &config()).await;
    let rsa = OriginAuth { key_algorithm: KeyAlgorithm::Rs256, ..config() };
    let issue = async |node: &Node| {
        let issued = node.auth.issue(&Caller::anonymous(), &[]).await.unwrap();
        HeaderValue::from_str(&format!("Bearer {}", issued.token)).unwrap()
    };
    let first = issue(&one).await;
    // Made after the first node looked, and of another kind.
    let other = node(&directory, &rsa).await;
    let second = issue(&other).await;
    for node in [&one, &other] {
        for header in [&first, &second] {
            assert!(node.auth.verify(Some(header)).await.is_ok());
        }
        let keys = String::from_utf8(node.auth.keys().to_json()).unwrap();
        assert!(keys.contains("\"EC\"") && keys.contains("\"RSA\"") && !keys.contains("\"d\""), "{keys}");
    }
    assert!(matches!(one.auth.verify(None).await, Err(Unverified::Missing)));
    let cut = HeaderValue::from_str(&first.to_str().unwrap()[..first.len() - 2]).unwrap();
    assert!(matches!(one.auth.verify(Some(&cut)).await, Err(Unverified::Invalid(_))));
    let elsewhere = Auth::open(one.meta.clone(), "other.example.com", &config()).await.unwrap();
    assert!(matches!(elsewhere.verify(Some(&first)).await, Err(Unverified::Invalid(TokenError::Audience))));
    let basic = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode("a:b"))).unwrap();
    assert!(matches!(one.auth.verify(Some(&basic)).await, Err(Unverified::Missing)));
    assert_eq!(
        one.auth.challenge("https://registry.example.com", Some("repository:a/b:pull"), Some("insufficient_scope")),
        "Bearer realm=\"https://registry.example.com/v2/auth\",service=\"registry.example.com\",\
         scope=\"repository:a/b:pull\",error=\"insufficient_scope\""
    );
}
