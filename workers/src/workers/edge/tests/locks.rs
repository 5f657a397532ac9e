//! Locks and their history, whose rows the tests write.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    error,
    servers::{EdgeFixture, until},
};

/// Rows of locks: owner, state, seconds until the deadline.
const LOCKS: [(&str, &str, f64); 3] =
    [("ada", "held", 60.0), ("bob", "held", -0.001), ("cleo", "released", 60.0)];

async fn insert_locks(servers: &EdgeFixture) -> Result<()> {
    let insert = "insert into brigade.cart_locks
                      (tenant, owner, version, updated_at, state, cart_id, token, method,
                       acquired_at, expires_at, fingerprint, amount)
                  select 't1', $1, 1, now(), $2, 'c-' || $1, nextval('brigade.lock_token'), 'card',
                         now(), clock_timestamp() + make_interval(secs => $3), '', 0";
    for (owner, state, seconds) in LOCKS {
        let insert = sqlx::query(insert).bind(owner).bind(state).bind(seconds);
        insert.execute(&mut servers.sql().await?).await?;
    }
    Ok(())
}

async fn insert_history(
    servers: &EdgeFixture,
    owner: &str,
    tokens: std::ops::RangeInclusive<i64>,
) -> Result<()> {
    let insert = "insert into brigade.cart_lock_history
                      (tenant, owner, cart_id, token, action, method, reason, actor, at)
                  select 't1', $1, 'c1', token, 'acquired', 'wallet', null, 'till', now()
                  from generate_series($2::bigint, $3::bigint) token order by token";
    let insert = sqlx::query(insert).bind(owner).bind(*tokens.start()).bind(*tokens.end());
    insert.execute(&mut servers.sql().await?).await?;
    Ok(())
}

fn tokens(history: &Value) -> Vec<i64> {
    let entries = history["entries"].as_array().expect("entries");
    entries.iter().map(|entry| entry["token"].as_i64().expect("a token")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_told_while_it_is_live() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let edge = servers.edge().await?;
    insert_locks(&servers).await?;
    let ask = async |owner: &str| servers.request(format!("q.t1.lock.{owner}"), &[], b"").await;
    let live = ask("ada").await?;
    assert_eq!((live.status, &live.error), (200, &None));
    let live = live.json();
    assert_eq!((&live["cart"], &live["method"]), (&json!("c-ada"), &json!("card")));
    let mut fields: Vec<_> = live.as_object().expect("an object").keys().cloned().collect();
    fields.sort();
    assert_eq!(fields, ["acquired_at", "cart", "expires_at", "method"]);
    assert!(live["expires_at"].as_str().is_some_and(|at| at.ends_with('Z') && at.len() == 24));
    // Bob's deadline has passed, whether anybody ended the lock or not.
    for owner in ["bob", "cleo", "nobody"] {
        assert_eq!(error(&ask(owner).await?), (404, "not_locked"), "{owner}");
    }
    assert_eq!(error(&ask("\u{e4}").await?), (400, "bad_subject"));
    assert_eq!(edge.health.violations(), Vec::<String>::new());
    edge.stop().await;
    Ok(())
}

/// While a payment is open under it, a lock that is past its deadline is not told to be gone:
/// whoever meets it extends it, up to the cap.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_will_be_extended_is_told_as_extended() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let edge = servers.edge().await?;
    insert_locks(&servers).await?;
    let cart = "insert into brigade.carts
                    (tenant, id, version, updated_at, parts, parts_at, kind, owner, status,
                     currency, members, items)
                values ('t1', 'c-bob', 1, now(), '{}', '{}', 'menu', 'bob', 'open', 'EUR', '[]',
                        '[]')";
    sqlx::query(cart).execute(&mut servers.sql().await?).await?;
    let pay = "update brigade.carts set payments = jsonb_build_array(jsonb_build_object(
                   'id', 'p1', 'user', null, 'method', 'card', 'status', $1::text, 'amount', 1,
                   'refunded_amount', 0, 'applied', 0, 'token', l.token + $2))
               from brigade.cart_locks l where l.owner = 'bob' and carts.id = 'c-bob'";
    let ask = async || servers.request("q.t1.lock.bob".to_owned(), &[], b"").await;
    let cases = [
        ("initiated", 0_i64, true),
        ("unknown", 0, true),
        ("failed", 0, false),
        ("initiated", 1, false),
    ];
    for (status, other_token, live) in cases {
        let pay = sqlx::query(pay).bind(status).bind(other_token);
        pay.execute(&mut servers.sql().await?).await?;
        let reply = ask().await?;
        assert_eq!(reply.status == 200, live, "{status} {other_token}");
        if live {
            let overdue = "select $1::text::timestamptz <= clock_timestamp()";
            let shown = reply.json()["expires_at"].as_str().expect("a time").to_owned();
            let overdue: bool = sqlx::query_scalar(overdue)
                .bind(shown)
                .fetch_one(&mut servers.sql().await?)
                .await?;
            assert!(!overdue, "the deadline that it will have");
        }
    }
    let pay = sqlx::query(pay).bind("initiated").bind(0_i64);
    pay.execute(&mut servers.sql().await?).await?;
    let long_ago = "update brigade.cart_locks set acquired_at = now() - interval '1 day'";
    sqlx::query(long_ago).execute(&mut servers.sql().await?).await?;
    assert_eq!(error(&ask().await?), (404, "not_locked"), "past the cap");
    edge.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_told_newest_first_and_in_pieces() -> Result<()> {
    let servers = EdgeFixture::start().await?;
    let edge = servers.edge().await?;
    insert_history(&servers, "ada", 1..=30).await?;
    insert_history(&servers, "bob", 100..=700).await?;
    insert_history(&servers, "ada", 31..=60).await?;
    let ask = async |owner: &str, headers: &[(&str, &str)]| {
        servers.request(format!("q.t1.lock_history.{owner}"), headers, b"").await
    };
    let first = ask("ada", &[]).await?;
    assert_eq!(first.status, 200);
    let first = first.json();
    assert_eq!(tokens(&first), (11..=60).rev().collect::<Vec<_>>());
    let entry = &first["entries"][0];
    let at = entry["at"].as_str().expect("a time").to_owned();
    let whole = json!({"cart_id": "c1", "token": 60, "action": "acquired", "method": "wallet",
                       "reason": null, "actor": "till", "at": at});
    assert_eq!(entry, &whole);
    let before = first["before"].as_str().expect("older ones").to_owned();
    let rest = ask("ada", &[("Before", &before), ("Limit", "10")]).await?.json();
    assert_eq!((tokens(&rest), &rest["before"]), ((1..=10).rev().collect(), &Value::Null));

    // Those who ask at the same time share a statement, each with its own piece.
    let (many, few, none) = tokio::try_join!(
        ask("bob", &[("Limit", "500")]),
        ask("bob", &[("Limit", "1")]),
        ask("nobody", &[]),
    )?;
    assert_eq!(tokens(&many.json()), (201..=700).rev().collect::<Vec<_>>());
    assert_eq!(tokens(&few.json()), [700]);
    assert_eq!((none.status, none.json()), (200, json!({"entries": [], "before": null})));

    for bad in [[("Limit", "0")], [("Limit", "501")], [("Before", "x")]] {
        assert_eq!(error(&ask("ada", &bad).await?), (400, "bad_header"), "{bad:?}");
    }
    assert_eq!(edge.health.violations(), Vec::<String>::new());
    edge.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_no_lock_is_guessed() -> Result<()> {
    let mut servers = EdgeFixture::start_with_own_postgres().await?;
    let edge = servers.edge().await?;
    insert_locks(&servers).await?;
    servers.stack.postgres_mut().kill().await;
    for query in ["q.t1.lock.ada", "q.t1.lock_history.ada"] {
        let refused = servers.request(query.to_owned(), &[], b"").await?;
        assert_eq!(error(&refused), (503, "unconfirmed"), "{query}");
    }
    servers.stack.postgres_mut().restart().await?;
    until("edge answers again", async || {
        let answer = servers.request("q.t1.lock.ada".to_owned(), &[], b"").await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    edge.stop().await;
    Ok(())
}
