use std::time::Duration;

use anyhow::Result;
use brigade_contracts::{
    Address, Aggregate, Command, Email, Secret, Token, event,
    user::{BY_EMAIL, Status},
};
use brigade_domain::{
    BatchState, Head, LockPolicy, LockSet, State, User,
    user::{AuthInputs, Checked, Verified, keys_of},
};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use super::*;
use crate::{
    infra::postgres::{Failure, failure},
    store::{people, users},
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
        sessions: Vec::new(),
        known_sources: Vec::new(),
        reset: None,
        last_login_at: None,
        subscription: None,
    }
}

fn login(ok: bool) -> (Command, Checked) {
    let payload = format!(r#"{{"email":"ada@example.org","password":"{PASSWORD}"}}"#);
    let headers = [("Command-Id", "k1"), ("Source", "192.0.2.1")];
    let command = Command::decode("req.t1.user.ada.login", headers.into_iter(), payload.as_bytes());
    let verified = Some(Verified { password_hash_seen: Some(hash()), ok });
    (command.unwrap(), Checked { verified, hashed: None })
}

/// Decides one login as a batch does, and saves what it changes.
async fn log_in(sql: &mut PgConnection, ok: bool) -> Result<(u16, User)> {
    let (command, checked) = login(ok);
    let addresses = [address("ada")];
    let users = users::load(&mut *sql, addresses.iter()).await?;
    let throttle = Throttle::new(count(&mut *sql, &keys_of(&command)).await?.1);
    let locked = LockSet { addresses: addresses.into_iter().collect(), ..LockSet::default() };
    let inputs = AuthInputs { randoms: vec![[1; 32], [2; 32]], throttle };
    let users = users.into_iter().map(State::User);
    let mut state = BatchState::new(users, locked, LockPolicy::default(), []).with_users(inputs);
    let at: OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *sql).await?;
    let decided = state.decide_checked(&command, at.into(), Some(&checked));
    let (outcome, _) = decided.ok_or_else(|| anyhow::anyhow!("{:?}", state.missing()))?;
    let mut tx = sql.begin().await?;
    let changed: Vec<_> = state.changed().filter_map(State::user).collect();
    users::save(&mut tx, &changed).await?;
    save(&mut tx, state.throttle()).await?;
    tx.commit().await?;
    let changed = changed.into_iter().next().cloned();
    Ok((outcome.status, changed.unwrap_or_else(|| user("ada", "Ada@Example.org"))))
}

#[tokio::test]
async fn users_are_found_by_email_and_failed_logins_counted() -> Result<()> {
    let database = TestDatabase::start().await?;
    let sql = &mut *database.sql.acquire().await?;

    let (ada, bob) = (user("ada", "Ada@Example.org"), user("bob", "bob@example.org"));
    let mut tx = sql.begin().await?;
    users::save(&mut tx, &[&ada, &bob]).await?;
    tx.commit().await?;
    let addresses = [address("ada"), address("bob"), address("eve")];
    assert_eq!(users::load(&mut *sql, addresses.iter()).await?, [ada.clone(), bob]);

    // Who has which email, and which password belongs to user and email.
    let email = |text: &str| (Token::new("t1").unwrap(), text.to_owned());
    let found =
        people::owners(&mut *sql, &[email("ada@example.org"), email("eve@example.org")]).await?;
    assert_eq!(found[&email("ada@example.org")], Some(address("ada")));
    assert_eq!(found[&email("eve@example.org")], None);
    let [a, b, e] = &addresses;
    let of = |text: &str| text.to_owned();
    let anybody = address(BY_EMAIL);
    let (adas, nobodys) = (Some(of("ada@example.org")), Some(of("nobody@example.org")));
    let requested = [
        (e, adas.clone()),
        (b, adas.clone()),
        (a, adas.clone()),
        (a, None),
        (&anybody, adas),
        (&anybody, nobodys),
    ];
    let found = people::passwords_of(&mut *sql, &requested).await?;
    let found: Vec<_> = found.iter().map(|of| of.as_ref().map(|of| of.user.as_str())).collect();
    assert_eq!(found, [None, None, Some("ada"), Some("ada"), Some("ada"), None]);

    // The same email in other letters.
    let mut tx = sql.begin().await?;
    let taken = users::save(&mut tx, &[&user("eve", "ADA@example.org")]).await.unwrap_err();
    assert_eq!(failure(&taken), Failure::Conflict, "{taken}");
    tx.rollback().await?;

    for _ in 0..2 {
        assert_eq!(log_in(sql, false).await?.0, 401);
    }
    let (keys, counted) = (keys_of(&login(true).0), async |sql: &mut PgConnection, keys: &[_]| {
        let counts = count(sql, keys).await?;
        anyhow::Ok(counts.1.iter().map(|(_, count)| count.failures).collect::<Vec<_>>())
    });
    assert_eq!(counted(sql, &keys).await?, [2, 2, 2]);
    let (status, logged_in) = log_in(sql, true).await?;
    assert_eq!(status, 200);
    let read_again = users::load(&mut *sql, [address("ada")].iter()).await?;
    assert_eq!(read_again, [logged_in]);
    assert!(!read_again[0].sessions.is_empty());
    assert_eq!(counted(sql, &keys).await?, [0, 0, 2], "of the source they stay");
    let sixteen = Duration::from_secs(16 * 60).as_secs_f64();
    sqlx::query("update brigade.login_failures set at = at - make_interval(secs => $1)")
        .bind(sixteen)
        .execute(&mut *sql)
        .await?;
    assert_eq!(counted(sql, &keys).await?, [0, 0, 0]);

    let everything: String = sqlx::query_scalar(
        "select string_agg(t::text, '') from (select to_jsonb(u) from brigade.users u
         union all select to_jsonb(f) from brigade.login_failures f) as rows (t)",
    )
    .fetch_one(&mut *sql)
    .await?;
    assert!(everything.contains("$argon2id$of-ada") && !everything.contains(PASSWORD));
    Ok(())
}
