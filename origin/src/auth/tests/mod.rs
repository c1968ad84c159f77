//! Logins, rights and tokens on each kind of database, with two nodes on it.

mod logins;
mod rights;

use std::net::Ipv4Addr;
use std::time::Duration;

use pierhead_config::KeyAlgorithm;

use super::*;
use crate::meta::scratch::Scratch;
use crate::meta::{AccountEdit, NewAccount};

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
        show_robot_tokens: true,
    }
}

async fn node(scratch: &Scratch, config: &OriginAuth) -> Node {
    let meta = scratch.open().await;
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
        self.login_from(HERE, name, password).await
    }

    async fn login_from(&self, peer: IpAddr, name: &str, password: &str) -> Result<Caller, LoginError> {
        self.auth.login(&Shown::account(name, password), peer).await
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

/// A user's caller that shows an application token with these scopes.
pub(crate) fn caller_by_token(scopes: Option<super::TokenScopes>) -> super::Caller {
    let account = crate::meta::Account {
        id: 1,
        name: "ann".to_owned(),
        kind: crate::meta::AccountKind::User,
        email: None,
        password: None,
        owner_id: None,
        token_hash: None,
        token_sealed: None,
        description: String::new(),
        superuser: crate::meta::Superuser::Full,
        enabled: true,
        password_set: None,
        last_login: None,
        created: 0,
    };
    super::Caller::application(account, scopes)
}
