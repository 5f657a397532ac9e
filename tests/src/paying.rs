//! Commands that pay, and time that passes for a lock without a test that waits.

pub use brigade_dev::invariants::money::fingerprint;
use serde_json::{Value, json};

use crate::{Producer, Reply, TestFleet, producer::item};

impl Producer {
    /// Sends a command that has to be done. Returns its `data`.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn done(&self, what: &str, payload: Value) -> Value {
        let reply = self.send(what, payload).await;
        assert!(reply.status < 300, "{what}: {}", reply.body());
        reply.body()["data"].take()
    }

    /// Sends a command that has to be refused. Returns status and code.
    ///
    /// # Panics
    /// Where it is done, or the refusal has effects.
    pub async fn refused(&self, what: &str, payload: Value) -> (u16, String) {
        let reply = self.send(what, payload).await;
        assert!(reply.status >= 300, "{what}: {}", reply.body());
        assert_eq!(reply.body()["effects"], json!([]), "{what}");
        (reply.status, reply.code())
    }

    /// Opens a cart in EUR with an item each of (id, price, quantity).
    pub async fn cart_of(&self, id: &str, kind: &str, owner: &str, items: &[(&str, i64, i64)]) {
        let open = json!({ "kind": kind, "owner": owner, "currency": "EUR" });
        self.filled(id, open, items).await;
    }

    /// Opens such a cart of a session that nobody has logged in to.
    pub async fn cart_of_session(&self, id: &str, session: &str, items: &[(&str, i64, i64)]) {
        let open = json!({ "kind": "ticket", "owner": session, "session": session,
                           "currency": "EUR" });
        self.filled(id, open, items).await;
    }

    async fn filled(&self, id: &str, open: Value, items: &[(&str, i64, i64)]) {
        self.done(&format!("cart.{id}.open"), open).await;
        for (name, price, quantity) in items {
            self.done(&format!("cart.{id}.add_item"), item(name, *price, *quantity)).await;
        }
    }

    /// Opens the menu cart `c1` of ada with an item of 10.00 EUR.
    pub async fn adas_cart(&self) {
        self.cart_of("c1", "menu", "ada", &[("i1", 1000, 1)]).await;
    }

    /// Takes the lock of a cart for a payment by card.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn lock(&self, cart: &str) -> Value {
        self.done(&format!("cart.{cart}.lock"), lock("card")).await
    }

    /// Begins to pay a cart by card.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn initiate(&self, payment: &str, cart: &str) -> Value {
        let payload = json!({ "target": { "cart": cart }, "method": "card" });
        self.done(&format!("payment.{payment}.initiate"), payload).await
    }

    /// Sends a result of the payment gateway, in EUR.
    pub async fn result(&self, payment: &str, kind: &str, transaction: &str, amount: i64) -> Reply {
        let payload = result(kind, transaction, amount);
        self.send(&format!("payment.{payment}.record_result"), payload).await
    }

    /// Returns what is paid of a cart or order, and what is due.
    pub async fn paid_and_due(&self, what: &str) -> (Value, Value) {
        let view = self.view(what, None).await.body();
        (view["payments"]["paid"].clone(), view["due"].clone())
    }

    /// Returns the status of a payment, as queries have it.
    pub async fn payment_status(&self, id: &str) -> String {
        let view = self.view(&format!("payment.{id}"), None).await.body();
        view["core"]["status"].as_str().unwrap_or_default().to_owned()
    }
}

/// Returns a payload of `lock`.
#[must_use]
pub fn lock(method: &str) -> Value {
    json!({ "transaction_id": TEMPORARY, "method": method })
}

/// The transaction in a payload of [`lock`], which nobody but the holder may learn.
pub const TEMPORARY: &str = "temporary-transaction";

/// Returns a payload of `record_result`.
#[must_use]
pub fn result(kind: &str, transaction: &str, amount: i64) -> Value {
    json!({
        "result": kind, "transaction_id": transaction, "amount": amount, "currency": "EUR",
        "occurred_at": "2026-01-02T03:04:05Z",
    })
}

/// Makes the lock of an owner this many minutes older, and nothing else.
///
/// # Panics
/// Where the owner never had a lock.
pub async fn age_lock(fleet: &TestFleet, owner: &str, minutes: i32) {
    let moved = sqlx::query(
        "update brigade.cart_locks set acquired_at = acquired_at - make_interval(mins => $2),
             expires_at = expires_at - make_interval(mins => $2)
         where tenant = 't1' and owner = $1",
    )
    .bind(owner)
    .bind(minutes)
    .execute(&fleet.sql)
    .await
    .expect("sql");
    assert_eq!(moved.rows_affected(), 1);
}

/// Returns owner and token of each held lock.
///
/// # Panics
/// Where Postgres does not answer.
pub async fn held_locks(fleet: &TestFleet) -> Vec<(String, i64)> {
    let held = "select owner, token from brigade.cart_locks where state = 'held' order by owner";
    sqlx::query_as(held).fetch_all(&fleet.sql).await.expect("sql")
}

/// Returns the history of an owner's locks, oldest first: action, token and reason.
///
/// # Panics
/// Where Postgres does not answer.
pub async fn lock_history(
    fleet: &TestFleet,
    owner: &str,
) -> Vec<(String, Option<i64>, Option<String>)> {
    sqlx::query_as(
        "select action, token, reason from brigade.cart_lock_history
         where tenant = 't1' and owner = $1 order by seq",
    )
    .bind(owner)
    .fetch_all(&fleet.sql)
    .await
    .expect("sql")
}

/// Returns amount and reason of each refund task.
///
/// # Panics
/// Where Postgres does not answer.
pub async fn refund_tasks(fleet: &TestFleet) -> Vec<(i64, String)> {
    let owed = "select amount, reason from brigade.refund_tasks order by payment_id, id";
    sqlx::query_as(owed).fetch_all(&fleet.sql).await.expect("sql")
}
