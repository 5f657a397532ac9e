//! The invariants of money and locks (I-7 to I-12), checked from outside in SQL and KV.

use async_nats::jetstream;
use brigade_dev::invariants;
use sqlx::PgConnection;

use crate::{TestFleet, check};

/// Checks all invariants of money and locks.
///
/// # Panics
/// Where one is broken.
pub async fn invariants(fleet: &TestFleet) {
    let mut connection = fleet.sql.acquire().await.expect("sql");
    assert_eq!(broken(&mut connection).await, Vec::<String>::new());
    shares_sum_to_the_total(fleet).await;
}

/// Returns the invariants that do not hold, each with the rows that break it.
///
/// # Panics
/// Where Postgres does not answer.
pub async fn broken(connection: &mut PgConnection) -> Vec<String> {
    invariants::money::broken(connection).await.expect("sql")
}

/// I-10: the shares of a team cart's members in KV sum to its total.
async fn shares_sum_to_the_total(fleet: &TestFleet) {
    let carts: Vec<String> = sqlx::query_scalar(
        "select tenant || '.cart.' || id from brigade.carts where kind = 'team'",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    let js = jetstream::new(fleet.connect("operator").await);
    for cart in carts {
        let core = check::kv_by(&js, "views", &format!("{cart}.core")).await.expect("in KV");
        let shares = core["members"].as_array().expect("members").iter();
        let sum: i64 = shares.map(|member| member["share"].as_i64().expect("an amount")).sum();
        assert_eq!(sum, core["total"], "shares of {cart}");
    }
}
