use std::time::Duration;

use anyhow::Result;
use brigade_contracts::{Address, Aggregate, Command, Email, Secret, Token, event, user::Status};
use brigade_domain::{
    BatchState, Head, LockPolicy, LockSet, State,
    user::{AuthInputs, Checked, FailureKind, Verified, keys_of},
};
use sqlx::{Connection, PgConnection};

use super::{
    super::{credentials::check, passwords::Passwords},
    *,
};
use crate::{
    infra::postgres::{Failure, failure},
    store::users::{failures, from_row, owners, password_hashes, read},
    testing::TestDatabase,
};

const PASSWORD: &str = "correct horse";

fn hash() -> Secret {
    Secret::new("$argon2id$of-ada".to_owned()).unwrap()
}

fn now() -> Timestamp {
    Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap()
}

fn address(id: &str) -> Address {
    Address::new("t1", Aggregate::User, id).unwrap()
}

fn user(id: &str, email: &str) -> User {
    let mut head = Head::unborn(address(id), now());
    head.touch(&event::USER_REGISTERED, now());
    User {
        head,
        email: Email::new(email.to_owned()).unwrap(),
        profile_id: Token::new("p1").unwrap(),
        password_hash: hash(),
        status: Status::Active,
        roles: vec![Token::new("customer").unwrap()],
        session: None,
        last_login_at: None,
        subscription: None,
    }
}

fn login(ok: bool) -> (Command, Checked) {
    let payload = format!(r#"{{"email":"ada@example.org","password":"{PASSWORD}"}}"#);
    let headers = [("Command-Id", "k1"), ("Source", "192.0.2.1")];
    let command = Command::decode("req.t1.user.ada.login", headers.into_iter(), payload.as_bytes());
    let (email_folded, password_hash_seen) = ("ada@example.org".to_owned(), Some(hash()));
    let verified = Verified { email_folded, password_hash_seen, ok };
    (command.unwrap(), Checked::Verified(verified))
}

/// Decides one login as a batch does, and writes what it comes to.
async fn log_in(sql: &mut PgConnection, ok: bool) -> Result<(u16, User)> {
    let (command, checked) = login(ok);
    let asked = [address("ada")];
    let users = read(&mut *sql, asked.iter()).await?;
    let throttle = Throttle::new(failures(&mut *sql, &keys_of(&command)).await?);
    let reach = LockSet { addresses: asked.into_iter().collect(), ..LockSet::default() };
    let supplies = AuthInputs { randoms: vec![[1; 32], [2; 32]], throttle };
    let users = users.into_iter().map(State::User);
    let mut world = BatchState::new(users, reach, LockPolicy::default(), []).with_users(supplies);
    let at: OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *sql).await?;
    let decided = world.decide_checked(&command, at.into(), Some(&checked));
    let (outcome, _) = decided.ok_or_else(|| anyhow::anyhow!("{:?}", world.missing()))?;
    let mut tx = sql.begin().await?;
    let changed: Vec<_> = world.changed().filter_map(State::user).collect();
    save(&mut tx, &changed).await?;
    save_failures(&mut tx, world.throttle()).await?;
    tx.commit().await?;
    let changed = changed.into_iter().next().cloned();
    Ok((outcome.status, changed.unwrap_or_else(|| user("ada", "Ada@Example.org"))))
}

#[tokio::test]
async fn what_is_written_is_read_again() -> Result<()> {
    let database = TestDatabase::start().await?;
    let mut sql = database.sql.acquire().await?;
    let sql = &mut *sql;

    let (ada, bob) = (user("ada", "Ada@Example.org"), user("bob", "bob@example.org"));
    let mut tx = sql.begin().await?;
    save(&mut tx, &[&ada, &bob]).await?;
    tx.commit().await?;
    let asked = [address("ada"), address("bob"), address("eve")];
    assert_eq!(read(&mut *sql, asked.iter()).await?, [ada.clone(), bob]);

    // Who has which email, and which password belongs to user and email.
    let email = |text: &str| (Token::new("t1").unwrap(), text.to_owned());
    let found = owners(&mut *sql, &[email("ada@example.org"), email("eve@example.org")]).await?;
    assert_eq!(found[&email("ada@example.org")], Some(address("ada")));
    assert_eq!(found[&email("eve@example.org")], None);
    let [a, b, e] = &asked;
    let of = |text: &str| text.to_owned();
    let asked =
        [(e, of("ada@example.org")), (b, of("ada@example.org")), (a, of("ada@example.org"))];
    assert_eq!(password_hashes(&mut *sql, &asked).await?, [None, None, Some(hash())]);

    // The same email in other letters.
    let mut tx = sql.begin().await?;
    let taken = save(&mut tx, &[&user("eve", "ADA@example.org")]).await.unwrap_err();
    assert_eq!(failure(&taken), Failure::Conflict, "{taken}");
    tx.rollback().await?;

    for _ in 0..2 {
        assert_eq!(log_in(sql, false).await?.0, 401);
    }
    let (keys, count) = (keys_of(&login(true).0), async |sql: &mut PgConnection, keys: &[_]| {
        let counts = failures(sql, keys).await?;
        anyhow::Ok(counts.iter().map(|(_, count)| count.failures).collect::<Vec<_>>())
    });
    assert_eq!(count(sql, &keys).await?, [2, 2, 2]);
    let (status, logged_in) = log_in(sql, true).await?;
    assert_eq!(status, 200);
    let read_again = read(&mut *sql, [address("ada")].iter()).await?;
    assert_eq!(read_again, [logged_in]);
    assert!(read_again[0].session.is_some());
    assert_eq!(count(sql, &keys).await?, [0, 0, 2], "of the source they stay");
    let sixteen = Duration::from_secs(16 * 60).as_secs_f64();
    sqlx::query("update brigade.login_failures set at = at - make_interval(secs => $1)")
        .bind(sixteen)
        .execute(&mut *sql)
        .await?;
    assert_eq!(count(sql, &keys).await?, [0, 0, 0]);

    let everything: String = sqlx::query_scalar(
        "select string_agg(t::text, '') from (select to_jsonb(u) from brigade.users u
         union all select to_jsonb(f) from brigade.login_failures f) as rows (t)",
    )
    .fetch_one(&mut *sql)
    .await?;
    assert!(everything.contains("$argon2id$of-ada") && !everything.contains(PASSWORD));
    assert!(from_row("{\"tenant\":\"t1\"}").is_err());
    Ok(())
}

#[tokio::test]
async fn the_passwords_of_a_batch_are_checked_before_it() -> Result<()> {
    let TestDatabase { sql: pool, .. } = TestDatabase::start().await?;
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
    let checked = check(&passwords, &pool, &register).await?;
    let [Some(Checked::Hashed(hash)), None] = &checked[..] else { panic!("{checked:?}") };

    let mut tx = pool.begin().await?;
    save(&mut tx, &[&User { password_hash: hash.clone(), ..user("ada", "Ada@Example.org") }])
        .await?;
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
    assert_eq!(failures(&mut *pool.acquire().await?, &[from]).await?[0].1.failures, 10);

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
    assert_eq!(check(&passwords, &pool, &batch).await?, expected);
    Ok(())
}
