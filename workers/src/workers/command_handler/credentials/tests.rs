use anyhow::Result;
use brigade_contracts::{Aggregate, Email, Timestamp, Token, event, user::Status};
use brigade_domain::{
    Head, User,
    user::{FailureKey, FailureKind},
};

use super::*;
use crate::{store::users, testing::TestDatabase};

const PASSWORD: &str = "correct horse";

fn now() -> Timestamp {
    Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap()
}

fn ada(password_hash: Secret) -> User {
    let address = Address::new("t1", Aggregate::User, "ada").unwrap();
    let mut head = Head::unborn(address, now());
    head.touch(&event::USER_REGISTERED, now());
    User {
        head,
        email: Email::new("Ada@Example.org".to_owned()).unwrap(),
        profile_id: Token::new("p1").unwrap(),
        password_hash,
        status: Status::Active,
        roles: vec![Token::new("customer").unwrap()],
        sessions: Vec::new(),
        known_sources: Vec::new(),
        reset: None,
        last_login_at: None,
        subscription: None,
    }
}

#[tokio::test]
async fn the_passwords_of_a_batch_are_checked_before_it() -> Result<()> {
    let database = TestDatabase::start().await?;
    let pool = &database.sql;
    let passwords = Passwords::new(None)?;
    let command = |id: &str, verb: &str, payload: &str| {
        let subject = format!("req.t1.user.{id}.{verb}");
        Command::decode(&subject, [("Command-Id", "k")].into_iter(), payload.as_bytes()).unwrap()
    };
    let login = |id: &str, email: &str, password: &str| {
        command(id, "login", &format!(r#"{{"email":"{email}","password":"{password}"}}"#))
    };
    let change = r#"{"password":"wrong","new_password":"not to be hashed"}"#;
    let register = r#"{"email":"ada@example.org","profile_id":"p","password":"correct horse"}"#;
    let register = [command("ada", "register", register), command("ada", "logout", "{}")];
    let checked = check(&passwords, pool, &register).await?;
    let [Check { checked: Some(Checked { hashed: Some(hash), verified: None }), user: None }, rest] =
        &checked[..]
    else {
        panic!("{checked:?}")
    };
    assert_eq!(*rest, Check::default());

    let mut tx = pool.begin().await?;
    users::save(&mut tx, &[&ada(hash.clone())]).await?;
    sqlx::query(
        "insert into brigade.command_inbox
             (tenant, command_id, subject, payload_hash, outcome, decided_at)
         values ('t1', 'done', 'req.t1.user.x.register', '', '{}', clock_timestamp())",
    )
    .execute(&mut *tx)
    .await?;
    let from = FailureKey {
        tenant: Token::new("t1")?,
        kind: FailureKind::Account,
        key: "mallory@example.org".to_owned(),
    };
    sqlx::query(
        "insert into brigade.login_failures
         select 't1', 'email', 'mallory@example.org', clock_timestamp()
         from generate_series(1, 25)",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    assert_eq!(login_failures::count(pool, &[from]).await?.1[0].1.failures, 25);

    // What is answered without the password costs no hash.
    let new = |key: &str, id: &str, email: &str| {
        let payload = format!(r#"{{"email":"{email}","profile_id":"p","password":"pass-word"}}"#);
        let subject = format!("req.t1.user.{id}.register");
        let headers = [("Command-Id", key)];
        Command::decode(&subject, headers.into_iter(), payload.as_bytes()).unwrap()
    };
    let registrations = [
        new("k1", "ada", "new@example.org"),
        new("k2", "bob", "ADA@example.org"),
        new("done", "cyd", "cyd@example.org"),
        new("k4", "dan", "dan@example.org"),
    ];
    let checked = check(&passwords, pool, &registrations).await?;
    let is_hashed = |check: &Check| check.checked.as_ref().is_some_and(|c| c.hashed.is_some());
    assert_eq!(checked.iter().map(is_hashed).collect::<Vec<_>>(), [false, false, false, true]);

    let batch = [
        login("ada", "ADA@example.org", PASSWORD),
        login("ada", "ada@example.org", "wrong"),
        login("eve", "ada@example.org", PASSWORD),
        login("-", "ADA@example.org", PASSWORD),
        login("-", "eve@example.org", PASSWORD),
        login("mallory", "mallory@example.org", PASSWORD),
        command("ada", "change_password", change),
    ];
    let verified = |seen: Option<&Secret>, ok| {
        let verified = Some(Verified { password_hash_seen: seen.cloned(), ok });
        Check { checked: Some(Checked { verified, hashed: None }), user: None }
    };
    let found = Check { user: Some(Token::new("ada")?), ..verified(Some(hash), true) };
    let expected = [
        verified(Some(hash), true),
        verified(Some(hash), false),
        verified(None, false),
        found.clone(),
        verified(None, false),
        Check::default(),
        verified(Some(hash), false),
    ];
    assert_eq!(check(&passwords, pool, &batch).await?, expected);
    Ok(())
}
