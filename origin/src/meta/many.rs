//! Lists of accounts, teams and grants that are longer than a statement has places for values, and than a union has parts; and two who
//! leave at once.

use std::time::Duration;

use super::scratch::{Scratch, on_both};
use super::*;

on_both!(
    lists_may_be_long,
    somebody_may_have_many_grants,
    who_administrates_much_sees_all_of_it,
    of_two_admins_who_leave_at_once_one_stays
);

/// More than SQLite has places for, and more than PostgreSQL has room for in one number of 15 bits.
const MANY: i64 = 33_000;

/// `i` from 1 on.
fn numbers(count: i64) -> String {
    format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})")
}

async fn account(change: &Change, name: &str, kind: AccountKind) -> Account {
    change.create_account(NewAccount::new(name, kind), now()).await.unwrap()
}

async fn run(change: &Change, statement: String, values: &[i64]) {
    sql::execute(&change.transaction, &statement, values.iter().map(|value| (*value).into())).await.unwrap();
}

async fn lists_may_be_long(scratch: Scratch) {
    let meta = &scratch.open().await;
    let change = meta.change().await.unwrap();
    let (acme, ann) =
        (account(&change, "acme", AccountKind::Organization).await, account(&change, "ann", AccountKind::User).await);
    let crowd = change.create_team(acme.id, "crowd", TeamRole::Member, "").await.unwrap();
    let app = change.insert_repository(acme.id, "acme/app", Visibility::Private, "").await.unwrap();
    let n = numbers(MANY);
    for (statement, values) in [
        // Users, all in one team, all with a grant in one repository.
        (format!("{n} INSERT INTO account (name, kind, description, superuser, enabled, created) SELECT 'user' || i, 0, '', 0, enabled, 0 \
                  FROM n CROSS JOIN account WHERE account.id = $1"), vec![ann.id]),
        ("INSERT INTO team_member (team_id, account_id) SELECT $1, id FROM account WHERE name LIKE 'user%'".to_owned(), vec![crowd.id]),
        ("INSERT INTO repository_permission (repository_id, account_id, role) SELECT $1, id, 1 FROM account WHERE name LIKE 'user%'".to_owned(), vec![app.id]),
        // Teams, all with ann in them, all with a grant in that repository.
        (format!("{n} INSERT INTO team (organization_id, name, role, description) SELECT CAST($1 AS BIGINT), 'team' || i, 0, '' FROM n"), vec![acme.id]),
        ("INSERT INTO team_member (team_id, account_id) SELECT id, $1 FROM team WHERE name LIKE 'team%'".to_owned(), vec![ann.id]),
        ("INSERT INTO repository_permission (repository_id, team_id, role) SELECT $1, id, 2 FROM team WHERE name LIKE 'team%'".to_owned(), vec![app.id]),
    ] {
        run(&change, statement, &values).await;
    }
    change.commit().await.unwrap();
    let many = usize::try_from(MANY).unwrap();
    let accounts = meta.account_permissions(app.id).await.unwrap();
    assert_eq!((accounts.len(), accounts[0].0.name.as_str(), accounts[0].1), (many, "user1", Role::Write));
    let teams = meta.team_permissions(app.id).await.unwrap();
    assert_eq!(
        (teams.len(), teams[0].0.name.as_str(), teams[0].0.role, teams[0].1),
        (many, "team1", TeamRole::Member, Role::Admin)
    );
    let teams = meta.teams(acme.id).await.unwrap();
    assert_eq!((teams.len(), teams[0].members, teams[1].repositories), (many + 1, MANY.unsigned_abs(), 1));
    assert_eq!(meta.members(acme.id).await.unwrap().len(), many + 1);
}

async fn somebody_may_have_many_grants(scratch: Scratch) {
    let meta = &scratch.open().await;
    let change = meta.change().await.unwrap();
    let (acme, ann) =
        (account(&change, "acme", AccountKind::Organization).await, account(&change, "ann", AccountKind::User).await);
    let n = numbers(MANY);
    for (statement, values) in [
        (format!("{n} INSERT INTO repository (namespace_id, name, visibility, state, description, created) \
                  SELECT CAST($1 AS BIGINT), 'acme/many' || i, 0, 0, '', 0 FROM n"), vec![acme.id]),
        ("INSERT INTO repository_permission (repository_id, account_id, role) SELECT id, $1, 0 FROM repository WHERE name LIKE 'acme/many%'".to_owned(), vec![ann.id]),
    ] {
        run(&change, statement, &values).await;
    }
    change.commit().await.unwrap();
    let many = usize::try_from(MANY).unwrap();
    assert_eq!(meta.permissions_of(Grantee::Account(ann.id), 1_000_000).await.unwrap().len(), many);
    let first = meta.permissions_of(Grantee::Account(ann.id), 2).await.unwrap();
    let first: Vec<(&str, Role)> = first.iter().map(|(found, role)| (found.name.as_str(), *role)).collect();
    assert_eq!(first, [("acme/many1", Role::Read), ("acme/many10", Role::Read)]);
}

async fn who_administrates_much_sees_all_of_it(scratch: Scratch) {
    let meta = &scratch.open().await;
    let change = meta.change().await.unwrap();
    let ann = account(&change, "ann", AccountKind::User).await;
    let n = numbers(MANY);
    for statement in [
        format!("{n} INSERT INTO account (name, kind, description, superuser, enabled, created) SELECT 'org' || i, 1, '', 0, enabled, 0 \
                 FROM n CROSS JOIN account WHERE account.id = $1"),
        // Of the most of them she is a member only.
        "INSERT INTO team (organization_id, name, role, description) SELECT id, 'team', CASE WHEN name LIKE 'org11%' THEN 2 ELSE 0 END, '' \
         FROM account WHERE name LIKE 'org%' AND id <> $1".to_owned(),
        "INSERT INTO team_member (team_id, account_id) SELECT id, $1 FROM team".to_owned(),
        "INSERT INTO repository (namespace_id, name, visibility, state, description, created) \
         SELECT id, name || '/app', 0, 0, '', 0 FROM account WHERE id <> $1".to_owned(),
    ] {
        run(&change, statement, &[ann.id]).await;
    }
    change.commit().await.unwrap();
    let organizations = meta.organizations_of(ann.id).await.unwrap();
    assert_eq!(organizations.len(), usize::try_from(MANY).unwrap());
    let admin = organizations.iter().filter(|(_, role)| *role == TeamRole::Admin).count();
    let names = meta.catalog(Viewer::Account(ann.id), "", 10_000).await.unwrap();
    assert_eq!((names.len(), names[0].as_str()), (admin, "org11/app"));
    assert!(admin > 500 && names.is_sorted());
    assert_eq!(meta.catalog(Viewer::Account(ann.id), "org11/app", 2).await.unwrap(), ["org110/app", "org1100/app"]);
}

async fn of_two_admins_who_leave_at_once_one_stays(scratch: Scratch) {
    let meta = &scratch.open().await;
    let change = meta.change().await.unwrap();
    let acme = account(&change, "acme", AccountKind::Organization).await;
    let owners = change.create_team(acme.id, "owners", TeamRole::Admin, "").await.unwrap();
    let members = [
        account(&change, "ann", AccountKind::User).await,
        account(&change, "bob", AccountKind::User).await,
        account(&change, "off", AccountKind::User).await,
        account(&change, "acme+ci", AccountKind::Robot).await,
    ];
    for member in &members {
        change.add_member(owners.id, member.id).await.unwrap();
    }
    change.edit_account(members[2].id, AccountEdit { enabled: Some(false), ..AccountEdit::default() }).await.unwrap();
    change.commit().await.unwrap();
    let leaves = async |meta: Meta, team: i64, organization: i64, member: i64| {
        let change = meta.change().await.unwrap();
        assert!(change.hold_admins(organization).await.unwrap());
        change.remove_member(team, member).await.unwrap();
        let stays = change.hold_admins(organization).await.unwrap();
        (change, stays)
    };
    let (first, others) = leaves(meta.clone(), owners.id, acme.id, members[0].id).await;
    assert!(others, "bob is still there");
    let mut second = tokio::spawn(leaves(meta.clone(), owners.id, acme.id, members[1].id));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut second).await;
    assert!(early.is_err(), "the second did not wait for the first");
    first.commit().await.unwrap();
    let (_dropped, others) = second.await.unwrap();
    assert!(!others, "somebody who cannot log in is no admin");
}
