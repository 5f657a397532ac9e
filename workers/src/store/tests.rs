use anyhow::Result;
use brigade_contracts::{Address, Era, Timestamp, Token, lock, payment::Method};
use brigade_domain::{Cart, HistoryRow, Lock, Order, Payment, Product, State, Table};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    carts::{self, StoredCart},
    locks::{self, StoredLock},
    orders::{self, StoredOrder},
    payments::{self, PaymentRows},
    products::{self, StoredProduct},
    states,
    tables::{self, TableRows},
    users,
};
use crate::testing::TestDatabase;

const AT: &str = "2026-01-02T03:04:05.678Z";
const LATER: &str = "2026-01-02T03:05:06.789Z";

/// Returns a row with these columns, and the key and the version beside them.
fn row(version: u64, columns: &Value) -> Value {
    let mut row = json!({"tenant": "t1", "id": "x", "owner": "x", "version": version});
    row["updated_at"] = json!(if version == 1 { AT } else { LATER });
    merge(&mut row, columns);
    row
}

/// Returns what such a row stands for.
fn value<Row: DeserializeOwned, T: From<Row>>(version: u64, columns: &Value) -> T {
    T::from(serde_json::from_value(row(version, columns)).expect("a row"))
}

fn merge(row: &mut Value, columns: &Value) {
    for (name, value) in columns.as_object().expect("columns") {
        row[name] = value.clone();
    }
}

fn entry(status: &str) -> Value {
    json!([{"id": "p", "user": "ada", "method": "card", "status": status, "amount": 12,
            "refunded_amount": 1, "token": 7, "applied": 3}])
}

fn cart(version: u64, columns: &Value) -> State {
    let mut all = json!({
        "parts": {"core": 1, "payments": 1}, "parts_at": {"core": AT, "payments": AT},
        "kind": "team", "session": "s", "status": "open", "currency": "EUR",
        "members": [{"user": "ada", "committed": "cod", "paid": 4}],
        "items": [{"item_id": "i", "user": "ada", "sku": "s", "name": "Soup", "unit_price": 950,
                   "quantity": 2, "note": "hot"}],
        "paid": 5, "refunded": 6, "payments": entry("initiated"), "order_id": "o",
        "locked_until": AT, "refusals": 3, "secret_hash": "h"
    });
    merge(&mut all, columns);
    value::<StoredCart, Cart>(version, &all).into()
}

fn order(version: u64, columns: &Value) -> State {
    let mut all = json!({
        "parts": {"core": 1, "payments": 1}, "parts_at": {"core": AT, "payments": AT},
        "status": "completed", "currency": "EUR", "cart_id": "c", "owner": "x", "table_id": "t",
        "turn_id": "u",
        "items": [{"item_id": "i", "sku": "s", "name": "Soup", "unit_price": 950, "quantity": 2,
                   "note": "hot"}],
        "total": 1900, "paid": 5, "refunded": 6, "paid_at": AT, "payments": entry("initiated"),
        "created_at": AT, "reason": "late"
    });
    merge(&mut all, columns);
    value::<StoredOrder, Order>(version, &all).into()
}

fn payment(version: u64, columns: &Value, task: &Value) -> State {
    let mut all = json!({
        "tenant": "t1", "id": "x", "version": version, "updated_at": AT,
        "target_kind": "cart", "target_id": "c", "user_id": "ada", "method": "card",
        "status": "captured", "currency": "EUR", "amount": 12, "refunded_amount": 1, "applied": 3,
        "transaction_id": "g", "token": 7, "fingerprint": "f",
        "captures": [{"transaction_id": "g", "amount": 12, "currency": "EUR", "refunded": 1}],
        "order_id": "o", "table_id": "t", "turn_id": "u"
    });
    merge(&mut all, columns);
    let mut owed = json!({"id": "x.1", "payment_id": "x", "amount": 9, "currency": "EUR",
                          "reason": "surplus", "refunded": 2, "status": "open"});
    merge(&mut owed, task);
    let rows: PaymentRows =
        serde_json::from_value(json!({"payment": all, "tasks": [owed]})).expect("rows");
    Payment::from(rows).into()
}

fn table(version: u64, columns: &Value) -> State {
    let mut all = json!({
        "tenant": "t1", "id": "x", "version": version, "updated_at": AT, "label": "Window",
        "seats": 4, "status": "occupied", "open_turn_id": "u"
    });
    merge(&mut all, columns);
    let turn = json!({
        "tenant": "t1", "id": "u", "version": version, "updated_at": AT, "table_id": "x",
        "party_size": 3, "opened_at": AT, "closed_at": LATER,
        "close_reason": if version == 1 { "paid" } else { "forced" }
    });
    let rows: TableRows =
        serde_json::from_value(json!({"table": all, "turn": turn})).expect("rows");
    Table::from(rows).into()
}

fn lock(version: u64, columns: &Value) -> State {
    let mut all = json!({
        "state": "held", "cart_id": "c", "token": 7, "method": "card", "acquired_at": AT,
        "expires_at": LATER, "transaction_id": "g", "fingerprint": "f", "amount": 12,
        "reason": "paid", "refusals": 3
    });
    merge(&mut all, columns);
    value::<StoredLock, Lock>(version, &all).into()
}

fn product(version: u64, columns: &Value) -> State {
    let mut all = json!({
        "listed": true, "name": "Soup", "unit_price": 950, "currency": "EUR", "category": "Starters",
        "available": true
    });
    merge(&mut all, columns);
    value::<StoredProduct, Product>(version, &all).into()
}

/// A session as the column of all sessions holds it.
fn session(hash: &str) -> Value {
    json!({
        "hash": hash, "name": "Till", "began_at": AT, "begun_by": "l", "used_at": AT,
        "refresh_expires_at": AT, "access_hash": "a", "access_expires_at": AT,
        "refresh_hash": "r", "by": "k",
        "raced": [{"access_hash": "b", "access_expires_at": AT, "refresh_hash": "t", "by": null}],
        "rotated": {"hash": "o", "others": ["p"], "at": AT}
    })
}

fn user(version: u64, columns: &Value) -> State {
    let mut all = json!({
        "parts": {"auth": 1, "subscription": 1, "roles": 1},
        "parts_at": {"auth": AT, "subscription": AT, "roles": AT},
        "email": "Ada@Example.org", "email_folded": "ada@example.org", "profile_id": "p",
        "password_hash": "h", "status": "active", "roles": ["guest"], "session_hash": "s",
        "access_hash": "a", "access_expires_at": AT, "refresh_hash": "r",
        "refresh_expires_at": AT, "rotated_hash": "o", "rotated_by": "k", "last_login_at": AT,
        "subscription": {"subscription_id": "s", "plan": "gold", "status": "active", "until": AT},
        "sessions": [session("q"), session("s")], "known_sources": ["192.0.2.1"],
        "account_status": "suspended", "reset": {"hash": "h", "expires_at": AT}
    });
    merge(&mut all, columns);
    users::from_row(&row(version, &all).to_string()).expect("a user").into()
}

/// Saves states one by one.
async fn save(sql: &mut PgConnection, states: &[State]) -> sqlx::Result<()> {
    for state in states {
        let tenant = &state.head().address.tenant;
        match state {
            State::Cart(cart) => carts::save(sql, &[cart]).await?,
            State::Order(order) => orders::save(sql, &[order]).await?,
            State::Payment(payment) => {
                payments::save(sql, &[payment]).await?;
                let tasks: Vec<_> = payment.tasks.iter().map(|task| (tenant, task)).collect();
                payments::save_refund_tasks(sql, &tasks).await?;
            }
            State::Table(table) => {
                tables::save(sql, &[table]).await?;
                let turns = table.turn.iter().map(|turn| (tenant, &table.head.address.id, turn));
                tables::save_turns(sql, &turns.collect::<Vec<_>>()).await?;
            }
            State::User(user) => users::save(sql, &[user]).await?,
            State::Product(product) => products::save(sql, &[product]).await?,
            State::Lock(lock) => locks::save(sql, &[lock]).await?,
        }
    }
    Ok(())
}

async fn load(sql: &mut PgConnection, states: &[State]) -> sqlx::Result<Vec<State>> {
    let addresses: Vec<Address> = states.iter().map(|s| s.head().address.clone()).collect();
    states::load(sql, &addresses).await
}

async fn read(sql: &mut PgConnection, states: &[State]) -> sqlx::Result<Vec<State>> {
    let addresses: Vec<Address> = states.iter().map(|s| s.head().address.clone()).collect();
    states::read(sql, Era::FIRST, &addresses).await
}

/// Every column of the aggregates has a value, so that one that is left out is found.
#[tokio::test]
async fn each_column_is_loaded_as_it_was_saved() -> Result<()> {
    let database = TestDatabase::start().await?;
    let mut sql = database.sql.acquire().await?;
    let none = json!({});
    let first = [
        cart(1, &none),
        payment(1, &none, &none),
        order(1, &none),
        table(1, &none),
        user(1, &none),
        product(1, &none),
        lock(1, &none),
    ];
    save(&mut sql, &first).await?;
    assert_eq!(load(&mut sql, &first).await?, first);
    let read = read(&mut sql, &first).await?;
    let is_read = |state: &&State| !matches!(state, State::User(_) | State::Lock(_));
    assert_eq!(read.len(), first.iter().filter(is_read).count());
    assert!(first.iter().filter(is_read).all(|state| read.contains(state)));
    let empty: Vec<String> = sqlx::query_scalar(
        "select name || '.' || key
         from (select 'carts' as name, to_jsonb(r) as columns from brigade.carts r
               union all select 'orders', to_jsonb(r) from brigade.orders r
               union all select 'payments', to_jsonb(r) from brigade.payments r
               union all select 'refund_tasks', to_jsonb(r) from brigade.refund_tasks r
               union all select 'tables', to_jsonb(r) from brigade.tables r
               union all select 'products', to_jsonb(r) from brigade.products r
               union all select 'turns', to_jsonb(r) from brigade.turns r
               union all select 'users', to_jsonb(r) from brigade.users r
               union all select 'cart_locks', to_jsonb(r) from brigade.cart_locks r) saved
         cross join jsonb_each(columns) where value = 'null'",
    )
    .fetch_all(&mut *sql)
    .await?;
    assert_eq!(empty, Vec::<String>::new(), "no value in this test");

    // Each column that may change has another value; text that reads like a number stays text.
    let parts =
        json!({"parts": {"core": 2, "payments": 1}, "parts_at": {"core": LATER, "payments": AT}});
    let mut of_cart = json!({
        "owner": "bob", "status": "abandoned", "members": [], "items": [], "paid": 0, "refunded": 0,
        "payments": entry("captured"), "order_id": null, "locked_until": null, "refusals": 0,
        "secret_hash": null
    });
    let mut of_order = json!({
        "status": "placed", "items": [], "total": 0, "table_id": null, "turn_id": null, "paid": 0,
        "refunded": 0, "paid_at": null, "payments": [], "reason": null
    });
    merge(&mut of_cart, &parts);
    merge(&mut of_order, &parts);
    let second = [
        cart(2, &of_cart),
        payment(
            2,
            &json!({"updated_at": LATER, "status": "refunded", "currency": "USD", "amount": 13,
                    "refunded_amount": 13, "applied": 0, "transaction_id": null, "token": null,
                    "fingerprint": null, "captures": [], "order_id": null, "table_id": null,
                    "turn_id": null}),
            &json!({"refunded": 9, "settled": 7, "status": "done"}),
        ),
        order(2, &of_order),
        table(2, &json!({"updated_at": LATER, "status": "available", "open_turn_id": null})),
        user(
            2,
            &json!({"parts": {"auth": 2, "subscription": 1, "roles": 1},
                    "parts_at": {"auth": LATER, "subscription": AT, "roles": AT},
                    "email": "Bob@example.org", "email_folded": "bob@example.org",
                    "profile_id": "12", "password_hash": "{\"i\": \"\\\\\"}", "status": "active",
                    "roles": [], "session_hash": null, "access_hash": null,
                    "access_expires_at": null, "refresh_hash": null, "refresh_expires_at": null,
                    "rotated_hash": null, "rotated_by": null, "last_login_at": null,
                    "subscription": null, "sessions": [], "known_sources": [],
                    "account_status": "active", "reset": null}),
        ),
        product(
            2,
            &json!({"listed": false, "name": "12", "unit_price": i64::MAX, "currency": "USD",
                    "category": null, "available": false}),
        ),
        lock(
            2,
            &json!({"state": "released", "cart_id": "d", "token": i64::MAX, "method": "cash",
                    "acquired_at": LATER, "expires_at": AT, "transaction_id": null,
                    "fingerprint": "g", "amount": i64::MAX, "reason": null, "refusals": 0}),
        ),
    ];
    save(&mut sql, &second).await?;
    assert_eq!(load(&mut sql, &second).await?, second);
    Ok(())
}

/// What a release before has done with the one session that it knows stands in its columns alone.
#[test]
fn sessions_are_read_as_a_release_before_left_them() {
    let sessions = |columns: &Value| {
        let State::User(user) = user(1, columns) else { panic!("a user") };
        let known = |session: &brigade_domain::user::Session| {
            (session.hash.clone(), session.name.is_some(), session.issued.refresh_hash.clone())
        };
        user.sessions.iter().map(known).collect::<Vec<_>>()
    };
    let row = |hash: &str, is_named, refresh: &str| (hash.to_owned(), is_named, refresh.to_owned());
    let other = row("q", true, "r");
    assert_eq!(sessions(&json!({})), [other.clone(), row("s", true, "r")]);
    let refreshed = json!({"refresh_hash": "r2"});
    assert_eq!(sessions(&refreshed), [other.clone(), row("s", true, "r2")]);
    let logged_in = json!({"session_hash": "n", "refresh_hash": "r3"});
    assert_eq!(sessions(&logged_in), [other.clone(), row("n", false, "r3")]);
    let logged_out = json!({"session_hash": null, "access_hash": null, "refresh_hash": null});
    assert!(sessions(&logged_out).is_empty());
    let never_told = json!({"sessions": []});
    assert_eq!(sessions(&never_told), [row("s", false, "r")]);
}

#[tokio::test]
async fn the_history_of_locks_keeps_its_order() -> Result<()> {
    let database = TestDatabase::start().await?;
    let mut sql = database.sql.acquire().await?;
    let entry = |token: i64| HistoryRow {
        tenant: Token::new("t1").unwrap(),
        owner: Token::new("ada").unwrap(),
        cart_id: Token::new("c").unwrap(),
        token: Some(token),
        action: lock::Action::Refused,
        method: Some(Method::Card),
        reason: Some("cart_locked".to_owned()),
        actor: Some(Token::new("bob").unwrap()),
        at: Timestamp::parse(AT).unwrap(),
    };
    let tokens: Vec<i64> = (0..200).map(|n| n * 7919 % 200).collect();
    let rows: Vec<_> = tokens.iter().map(|token| entry(*token)).collect();
    locks::save_history(&mut sql, &rows).await?;
    let saved = "select token from brigade.cart_lock_history order by seq";
    assert_eq!(sqlx::query_scalar::<_, i64>(saved).fetch_all(&mut *sql).await?, tokens);
    let first: Value = sqlx::query_scalar(
        "select to_jsonb(r) - 'seq' - 'token' from brigade.cart_lock_history r where seq = 1",
    )
    .fetch_one(&mut *sql)
    .await?;
    let at = first["at"].as_str().expect("a time");
    assert_eq!(Timestamp::parse(at)?, rows[0].at);
    let expected = json!({"tenant": "t1", "owner": "ada", "cart_id": "c", "action": "refused",
                          "method": "card", "reason": "cart_locked", "actor": "bob", "at": at});
    assert_eq!(first, expected);
    Ok(())
}
