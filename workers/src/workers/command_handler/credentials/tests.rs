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
        session: None,
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
    let register = r#"{"email":"ada@example.org","profile_id":"p","password":"correct horse"}"#;
    let register = [command("ada", "register", register), command("ada", "logout", "{}")];
    let checked = check(&passwords, pool, &register).await?;
    let [Some(Checked::Hashed(hash)), None] = &checked[..] else { panic!("{checked:?}") };

    let mut tx = pool.begin().await?;
    users::save(&mut tx, &[&ada(hash.clone())]).await?;
    let from = FailureKey {
        tenant: Token::new("t1")?,
        kind: FailureKind::User,
        key: "mallory".to_owned(),
    };
    sqlx::query(
        "insert into brigade.login_failures
         select 't1', 'user', 'mallory', clock_timestamp() from generate_series(1, 10)",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    assert_eq!(login_failures::count(pool, &[from]).await?[0].1.failures, 10);

    let batch = [
        login("ada", "ADA@example.org", PASSWORD),
        login("ada", "ada@example.org", "wrong"),
        login("eve", "ada@example.org", PASSWORD),
        login("mallory", "ada@example.org", PASSWORD),
    ];
    let verified = |seen: Option<&Secret>, ok| {
        let email_folded = "ada@example.org".to_owned();
        Some(Checked::Verified(Verified { email_folded, password_hash_seen: seen.cloned(), ok }))
    };
    let expected =
        [verified(Some(hash), true), verified(Some(hash), false), verified(None, false), None];
    assert_eq!(check(&passwords, pool, &batch).await?, expected);
    Ok(())
}
