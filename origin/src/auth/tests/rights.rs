//! What tokens grant, what becomes of it, and who believes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pierhead_registry::token::TokenError;

use super::super::uuid;
use super::*;
use crate::meta::scratch::on_both;
use crate::meta::{Grantee, NewAppToken, Role, TeamRole, Visibility};

on_both!(
    tokens_grant_what_was_given_and_no_more,
    a_token_says_a_thing_once_and_is_one_that_is_taken,
    every_node_verifies_the_tokens_of_every_other,
    who_leaves_an_organisation_leaves_what_was_promised_too,
    an_account_that_is_made_anew_has_nothing_of_the_old_one,
);

async fn tokens_grant_what_was_given_and_no_more(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
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

async fn a_token_says_a_thing_once_and_is_one_that_is_taken(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
    let ann = Caller::known(node.user("ann", "correct horse").await);
    let scopes = |names: &[String]| {
        let scopes: Vec<_> = names.iter().map(|name| format!("repository:ann/{name}:pull,push")).collect();
        Scope::parse_all(scopes.iter().map(String::as_str), HOST).unwrap()
    };
    let same = scopes(&vec!["app".to_owned(); 60]);
    let issued = node.auth.issue(&ann, &same).await.unwrap();
    let header = HeaderValue::from_str(&format!("Bearer {}", issued.token)).unwrap();
    assert_eq!(node.auth.verify(Some(&header)).await.unwrap().access.len(), 1);
    let long: Vec<_> = (0..60).map(|number| format!("{}{number:02}", "a".repeat(230))).collect();
    assert!(matches!(node.auth.issue(&ann, &scopes(&long)).await, Err(LoginError::TooMuch)));
    assert!(node.auth.issue(&ann, &scopes(&long[..30])).await.is_ok());
}

async fn every_node_verifies_the_tokens_of_every_other(scratch: Scratch) {
    let one = node(&scratch, &config()).await;
    let rsa = OriginAuth { key_algorithm: KeyAlgorithm::Rs256, ..config() };
    let issue = async |node: &Node| {
        let issued = node.auth.issue(&Caller::anonymous(), &[]).await.unwrap();
        HeaderValue::from_str(&format!("Bearer {}", issued.token)).unwrap()
    };
    let first = issue(&one).await;
    // Made after the first node looked, and of another kind.
    let other = node(&scratch, &rsa).await;
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

async fn who_leaves_an_organisation_leaves_what_was_promised_too(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
    let acme = node.account(NewAccount::new("acme", AccountKind::Organization)).await;
    let [ann, eve] = [node.user("ann", "correct horse").await, node.user("eve", "correct horse").await];
    let change = node.meta.change().await.unwrap();
    let readers = change.create_team(acme.id, "readers", TeamRole::Member, "").await.unwrap();
    change.add_member(readers.id, eve.id).await.unwrap();
    let old = change.insert_repository(acme.id, "acme/old", Visibility::Private, "").await.unwrap();
    change.grant(old.id, Grantee::Account(eve.id), Role::Read).await.unwrap();
    for to in [Grantee::Account(eve.id), Grantee::Team(readers.id)] {
        change.create_default_permission(uuid(), acme.id, None, to, Role::Write).await.unwrap();
    }
    assert!(change.remove_from_organization(acme.id, eve.id).await.unwrap());
    assert!(change.revoke_in_namespace(acme.id, eve.id).await.unwrap());
    let made = change.insert_repository(acme.id, "acme/made", Visibility::Private, "").await.unwrap();
    change.grant_defaults(made.id, acme.id, ann.id).await.unwrap();
    change.commit().await.unwrap();
    let eve = Caller::known(eve);
    for repository in ["acme/old", "acme/made"] {
        assert_eq!(node.actions(&eve, &format!("repository:{repository}:pull,push")).await, "", "{repository}");
    }
    // The team's is the team's.
    assert_eq!(node.meta.team_permissions(made.id).await.unwrap().len(), 1);
}

/// A private repository of the new account, by a name that the old one had.
async fn change_of_hands(node: &Node, owner: &Account) -> Repository {
    let change = node.meta.change().await.unwrap();
    let made = change.insert_repository(owner.id, "ann/app", Visibility::Private, "").await.unwrap();
    change.commit().await.unwrap();
    made
}

async fn an_account_that_is_made_anew_has_nothing_of_the_old_one(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
    let acme = node.account(NewAccount::new("acme", AccountKind::Organization)).await;
    let ann = node.user("ann", "correct horse").await;
    let [robot, application] = [super::super::token(), super::super::token()];
    let ci = NewAccount {
        owner: Some(ann.id),
        token_hash: Some(hash(&robot)),
        ..NewAccount::new("ann+ci", AccountKind::Robot)
    };
    let ci = node.account(ci).await;
    let change = node.meta.change().await.unwrap();
    let owners = change.create_team(acme.id, "owners", TeamRole::Admin, "").await.unwrap();
    change.add_member(owners.id, ann.id).await.unwrap();
    let own = change.insert_repository(ann.id, "ann/app", Visibility::Public, "").await.unwrap();
    let given = change.insert_repository(acme.id, "acme/app", Visibility::Private, "").await.unwrap();
    for account in [ann.id, ci.id] {
        change.grant(given.id, Grantee::Account(account), Role::Write).await.unwrap();
    }
    change.create_default_permission(uuid(), acme.id, None, Grantee::Account(ann.id), Role::Admin).await.unwrap();
    let new = NewAppToken {
        uuid: uuid(),
        account: ann.id,
        title: "laptop".to_owned(),
        hash: hash(&application),
        expires: None,
        scopes: None,
    };
    change.create_app_token(new, meta::now()).await.unwrap();
    change.commit().await.unwrap();
    assert!(node.login("ann", "correct horse").await.is_ok() && node.login("ann+ci", robot.reveal()).await.is_ok());
    let issued = node.auth.issue(&Caller::known(ann.clone()), &[]).await.unwrap();
    let header = HeaderValue::from_str(&format!("Bearer {}", issued.token)).unwrap();
    let claims = node.auth.verify(Some(&header)).await.unwrap();
    assert_eq!(node.auth.bearer(&claims).await.unwrap().id(), Some(ann.id));

    let change = node.meta.change().await.unwrap();
    change.delete_repository(own.id).await.unwrap();
    change.delete_account(ann.id, meta::now()).await.unwrap();
    // In the same second, which is all that a token knows of time: it is the account's number that tells them apart.
    let again = NewAccount::new("ann", AccountKind::User);
    let again = change.create_account(again, ann.created).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(node.auth.bearer(&claims).await.unwrap().id(), None);
    let renewed = change_of_hands(&node, &again).await;
    assert!(
        !node.auth.rights_in_later(&claims, &renewed).await.unwrap().unwrap().pull,
        "a new repository of that name"
    );
    // A token of an earlier version says no number: then the time decides, as it did.
    let iat = u64::try_from(ann.created / 1000).unwrap() - 2;
    let before = Claims { account: None, iat, ..Claims::clone(&claims) };
    assert_eq!(node.auth.bearer(&before).await.unwrap().id(), None);
    assert!(matches!(node.login("ann", "correct horse").await, Err(LoginError::Wrong)));
    assert!(matches!(node.login("ann+ci", robot.reveal()).await, Err(LoginError::Wrong)));
    assert!(matches!(node.login("$app", application.reveal()).await, Err(LoginError::Wrong)));
    let caller = Caller::known(again.clone());
    let made = [("acme/app", ""), ("acme/new", ""), ("ann/app", "pull,push")];
    for (repository, expected) in made {
        assert_eq!(
            node.actions(&caller, &format!("repository:{repository}:pull,push")).await,
            expected,
            "{repository}"
        );
    }
    assert!(node.meta.robots(again.id, 10).await.unwrap().is_empty());
    assert!(node.meta.app_tokens(again.id, None, 10).await.unwrap().is_empty());
    assert!(node.meta.organizations_of(again.id).await.unwrap().is_empty());
    assert!(node.meta.default_permissions(acme.id, 10).await.unwrap().is_empty());
}
