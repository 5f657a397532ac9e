//! I-15: no lock outlives its deadline, checked from outside in SQL.

use brigade_dev::invariants;
pub use brigade_dev::invariants::deadlines::OUTLIVES;

use crate::{TestFleet, until};

/// The same where the fleet was down, counted from its restart.
pub const OUTLIVES_RESTART: i64 = 2000;

/// Waits until no lock is held.
pub async fn until_no_lock_is_held(fleet: &TestFleet) {
    until("every lock to end", || async {
        let held = "select count(*) from brigade.cart_locks where state = 'held'";
        let held: i64 = sqlx::query_scalar(held).fetch_one(&fleet.sql).await.ok()?;
        (held == 0).then_some(())
    })
    .await;
}

/// Returns the locks that outlived their deadline by more than [`OUTLIVES`].
///
/// # Panics
/// Where Postgres does not answer.
pub async fn outlived(fleet: &TestFleet) -> Vec<(String, i64, i64)> {
    invariants::deadlines::outlived(&fleet.sql).await.expect("sql")
}
