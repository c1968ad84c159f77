//! Who gets in, and who must wait.

use super::super::guesses::{FAILURES, PLACES};
use super::super::{Name, hash, token, uuid};
use super::*;
use crate::meta::scratch::on_both;
use crate::meta::{NewAppToken, now};

on_both!(
    users_log_in_until_their_password_changes_or_they_are_disabled,
    guessing_at_one_node_makes_an_account_wait_at_all_and_lets_remembered_logins_in,
    an_address_that_guesses_is_not_heard,
    a_burst_of_guesses_is_as_long_as_a_row_of_them,
    many_log_in_from_one_address_at_once,
    robots_and_applications_log_in_with_tokens,
    a_guesser_does_not_learn_which_names_there_are,
    nobody_is_locked_out_by_guesses_from_elsewhere,
    one_network_alone_counts_for_little_elsewhere,
    what_was_counted_is_forgotten,
);

async fn users_log_in_until_their_password_changes_or_they_are_disabled(scratch: Scratch) {
    let [one, other] = [node(&scratch, &config()).await, node(&scratch, &config()).await];
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

async fn guessing_at_one_node_makes_an_account_wait_at_all_and_lets_remembered_logins_in(scratch: Scratch) {
    let [one, other] = [node(&scratch, &config()).await, node(&scratch, &config()).await];
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

async fn an_address_that_guesses_is_not_heard(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
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

async fn a_burst_of_guesses_is_as_long_as_a_row_of_them(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
    node.user("ann", "correct horse").await;
    let guesses = (0..60).map(|guess| (IpAddr::from([192, 0, 2, 1]), "ann".to_owned(), guess));
    let names = (0..60).map(|guess| (IpAddr::from([192, 0, 2, 2]), format!("nobody{guess}"), guess));
    let burst = async |guesses: Vec<(IpAddr, String, usize)>| {
        let tried = guesses.iter().map(async |(peer, name, guess)| {
            match node.login_from(*peer, name, &format!("guess {guess}")).await {
                Err(LoginError::Wrong) => 1,
                Err(LoginError::Limited(_)) => 0,
                other => panic!("{other:?}"),
            }
        });
        futures_util::future::join_all(tried).await.into_iter().sum::<u32>()
    };
    assert_eq!(burst(guesses.collect()).await, config().failed_logins);
    assert_eq!(burst(names.collect()).await, 20);
}

async fn many_log_in_from_one_address_at_once(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
    let hash = node.auth.hash_password(Secret::new("correct horse")).await.unwrap();
    for number in 0..70 {
        let name = format!("user{number}");
        let password = Some(hash.clone());
        node.account(NewAccount { password, ..NewAccount::new(&name, AccountKind::User) }).await;
    }
    let logins = (0..70).map(async |number| node.login(&format!("user{number}"), "correct horse").await);
    for login in futures_util::future::join_all(logins).await {
        assert!(login.is_ok(), "{login:?}");
    }
}

async fn robots_and_applications_log_in_with_tokens(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
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
        scopes: None,
    };
    let [good, old] = [super::super::token(), super::super::token()];
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

async fn a_guesser_does_not_learn_which_names_there_are(scratch: Scratch) {
    let [one, other] = [node(&scratch, &config()).await, node(&scratch, &config()).await];
    one.user("ann", "correct horse").await;
    let off = one.user("off", "correct horse").await;
    one.edit(&off, AccountEdit { enabled: Some(false), ..AccountEdit::default() }).await;
    let acme = one.account(NewAccount::new("acme", AccountKind::Organization)).await;
    let robot = NewAccount {
        owner: Some(acme.id),
        token_hash: Some(hash(&token())),
        ..NewAccount::new("acme+ci", AccountKind::Robot)
    };
    one.account(robot).await;
    let heard = async |last: u8, name: &str| {
        let mut heard = Vec::new();
        for guess in 0..8 {
            let node = if guess % 2 == 0 { &one } else { &other };
            let peer = IpAddr::from([192, 0, 2, last]);
            heard.push(match node.login_from(peer, name, &format!("guess {guess}")).await {
                Err(LoginError::Limited(wait)) => format!("wait {}", wait.as_millis().div_ceil(1000)),
                Err(error) => error.to_string(),
                Ok(caller) => panic!("{caller:?}"),
            });
        }
        heard
    };
    let nobody = heard(1, "nobody").await;
    assert_eq!(nobody.iter().filter(|text| text.starts_with("wait")).count(), 5, "{nobody:?}");
    for (last, name) in [(2, "ann"), (3, "off"), (4, "acme")] {
        assert_eq!(heard(last, name).await, nobody, "{name}");
    }
    assert_eq!(heard(5, "acme+ci").await, heard(6, "acme+nobody").await);
}

async fn nobody_is_locked_out_by_guesses_from_elsewhere(scratch: Scratch) {
    let [one, other] = [node(&scratch, &config()).await, node(&scratch, &config()).await];
    one.user("ann", "correct horse").await;
    let ann: Name = "ann".parse().unwrap();
    let [home, away, far] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
    // One who guesses from one network keeps nobody waiting elsewhere.
    for _ in 0..config().failed_logins {
        assert!(matches!(one.login_from(away, "ann", "guess").await, Err(LoginError::Wrong)));
    }
    assert!(matches!(one.login_from(away, "ann", "correct horse").await, Err(LoginError::Limited(_))));
    assert!(one.login_from(home, "ann", "correct horse").await.is_ok());
    // Many networks together do, but not where she was before.
    let change = one.meta.change().await.unwrap();
    for last in 0..200 {
        let cells = one.auth.logins.cells(&ann, IpAddr::from([198, 51, 100, last]));
        change.login_failed(&cells, 0, now()).await.unwrap();
    }
    change.commit().await.unwrap();
    assert!(matches!(other.login_from(far, "ann", "correct horse").await, Err(LoginError::Limited(_))));
    assert!(other.login_from(home, "ann", "correct horse").await.is_ok());
    // Who is given another password begins anew everywhere.
    let hash = one.auth.hash_password(Secret::new("battery staple")).await.unwrap();
    let account = one.meta.account("ann").await.unwrap().unwrap();
    one.edit(&account, AccountEdit { password: Some(hash), ..AccountEdit::default() }).await;
    for peer in [away, far] {
        assert!(other.login_from(peer, "ann", "battery staple").await.is_ok());
    }
}

async fn one_network_alone_counts_for_little_elsewhere(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
    node.user("ann", "correct horse").await;
    let ann: Name = "ann".parse().unwrap();
    let cells = node.auth.logins.cells(&ann, HERE);
    let guess = Shown::User(ann, Secret::new("a guess"));
    // Each after the longest that a guesser must wait.
    for round in 0..15 {
        let outcome = node.auth.logins.login(&guess, HERE, now() + round * 16 * 60_000).await;
        assert!(matches!(outcome, Err(LoginError::Wrong)), "{round}");
    }
    assert_eq!(node.meta.login_cells(cells).await.unwrap().map(|cell| cell.failures), [15, 10]);
}

async fn what_was_counted_is_forgotten(scratch: Scratch) {
    let node = node(&scratch, &config()).await;
    let cells = node.auth.logins.cells(&"ann".parse().unwrap(), HERE);
    let known = async || node.meta.login_cells(cells).await.unwrap().map(|cell| cell.failures);
    let fail = async |at| {
        let change = node.meta.change().await.unwrap();
        change.login_failed(&cells, at - FAILURES, at).await.unwrap();
        change.commit().await.unwrap();
    };
    let collect = async |at| {
        let change = node.meta.change().await.unwrap();
        let mut last = Some(-1);
        while let Some(after) = last {
            last = change.take_login_cells(at - FAILURES, at - PLACES, after, 1).await.unwrap();
        }
        change.commit().await.unwrap();
    };
    let succeeded = async || node.meta.login_cells(cells).await.unwrap()[0].succeeded;
    let begun = 2 * PLACES;
    for at in [begun, begun + 1] {
        fail(at).await;
    }
    assert_eq!(known().await, [2, 2]);
    fail(begun + 1 + FAILURES).await;
    assert_eq!(known().await, [1, 1]);
    let change = node.meta.change().await.unwrap();
    change.login_succeeded(cells[0], begun).await.unwrap();
    change.commit().await.unwrap();
    let failed = begun + 1 + FAILURES;
    collect(failed).await;
    assert_eq!(known().await, [1, 1]);
    collect(failed + FAILURES).await;
    assert_eq!((known().await, succeeded().await), ([1, 0], Some(begun)));
    collect(begun + PLACES).await;
    assert_eq!((known().await, succeeded().await), ([0, 0], None));
}
