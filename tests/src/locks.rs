//! Locks as command-handler leaves them: a row, and a timer.

use async_nats::{HeaderMap, jetstream};
use brigade_contracts::{
    Address, Aggregate, Timestamp, Token, header,
    lock::Due,
    subject::{lock_due, lock_timer},
};
use time::OffsetDateTime;

use crate::TestFleet;

/// A lock of the restaurant `t1`.
#[derive(Clone, Debug)]
pub struct Lock {
    pub owner: Token,
    pub cart: Address,
    pub token: i64,
    pub expires_at: Timestamp,
}

impl Lock {
    /// A row of a held lock, so many seconds before its deadline.
    ///
    /// # Panics
    /// Where the owner or the cart is no Token.
    pub async fn hold(fleet: &TestFleet, owner: &str, cart: &str, seconds: f64) -> Self {
        let (token, expires_at): (i64, OffsetDateTime) = sqlx::query_as(
            "insert into brigade.cart_locks
                 (tenant, owner, version, updated_at, state, cart_id, token, method, acquired_at,
                  expires_at, fingerprint, amount)
             select 't1', $1, 1, now(), 'held', $2, nextval('brigade.lock_token'), 'card', now(),
                    date_trunc('milliseconds', clock_timestamp() + make_interval(secs => $3)), '', 0
             returning token, expires_at",
        )
        .bind(owner)
        .bind(cart)
        .bind(seconds)
        .fetch_one(&fleet.sql)
        .await
        .expect("sql");
        let cart = Address::new("t1", Aggregate::Cart, cart).expect("tokens");
        let owner = Token::new(owner).expect("a token");
        Self { owner, cart, token, expires_at: expires_at.into() }
    }

    /// Puts its timer as command-handler does. One whose time has passed fires at once.
    ///
    /// # Panics
    /// Where the stream does not take it.
    pub async fn set_timer(&self, fleet: &TestFleet) {
        let js = jetstream::new(fleet.connect("command-handler").await);
        let mut headers = HeaderMap::new();
        headers.insert(header::SCHEDULE, format!("@at {}", self.expires_at));
        headers.insert(header::SCHEDULE_TARGET, lock_due(&self.cart, self.token));
        let payload = serde_json::to_vec(&Due { owner: self.owner.clone() }).expect("JSON");
        let timer = lock_timer(&self.cart, self.token);
        let sent = js.publish_with_headers(timer, headers, payload.into()).await;
        sent.expect("sent").await.expect("stored");
    }

    /// Returns whether its row says that it is released.
    ///
    /// # Panics
    /// Where Postgres does not answer.
    pub async fn is_released(&self, fleet: &TestFleet) -> bool {
        sqlx::query_scalar(
            "select state = 'released' from brigade.cart_locks where tenant = 't1' and owner = $1",
        )
        .bind(self.owner.as_str())
        .fetch_one(&fleet.sql)
        .await
        .expect("sql")
    }
}
