//! The sweep of overdue locks, whose timers were lost, or fire by a clock that is late.

use std::{sync::Arc, time::Duration};

use brigade_contracts::{Address, Aggregate, Token};
use futures::future::join_all;
use sqlx::PgConnection;

use super::{
    ExpiryMetrics,
    expire::{ExpiringLock, ExpiryDecision, expire},
};
use crate::{
    infra::{
        Context,
        health::{Duty, POSTGRES},
        lease::LeasedRounds,
        postgres::bounded,
    },
    runtime::NotDecided,
};

const LEASE: &str = "cart-lock-expiry.sweep";
/// How long a lock's own timer has: it fires up to 250 ms late, and its command takes time. With a
/// sweep each [`RENEW`](crate::infra::lease::RENEW) every lock is loaded within 1 s of its deadline.
const GRACE: Duration = Duration::from_millis(400);
/// The most locks of a batch.
const AT_ONCE: i64 = 256;

/// Ends overdue locks, under the lease, until the drain.
pub async fn keep(cx: Context, metrics: Arc<ExpiryMetrics>) {
    // Where the whole fleet was killed, locks have been overdue for long.
    let mut rounds = LeasedRounds::new(&cx, LEASE, cx.health.duty("sweep"))
        .reporting(&[POSTGRES])
        .unleased_at_start();
    while rounds.begin().await {
        match sweep(&cx, &metrics, rounds.duty()).await {
            Ok(true) => rounds.succeeded(),
            Ok(false) => rounds.blocked(),
            Err(error) => rounds.failed(POSTGRES, &error.to_string()),
        }
    }
}

/// Ends overdue locks, the oldest first. Returns false if command-handler is unavailable.
async fn sweep(cx: &Context, metrics: &ExpiryMetrics, duty: &Duty) -> sqlx::Result<bool> {
    loop {
        duty.went_round();
        let overdue = bounded(&cx.postgres, async |c| overdue(c).await).await?;
        if overdue.is_empty() {
            return Ok(true);
        }
        let decisions = join_all(overdue.iter().map(|lock| expire(cx, metrics, lock))).await;
        let is_decided = |decision: &&_| matches!(decision, Ok(ExpiryDecision::Decided));
        let decided = decisions.iter().filter(is_decided).count();
        metrics.locks_overdue.inc_by(decided as u64);
        if let Some(why) = decisions.iter().find_map(|decision| decision.as_ref().err()) {
            let overdue = overdue.len();
            tracing::warn!(worker = %cx.worker, overdue, %why, "overdue locks not ended");
        }
        if decided > 0 {
            tracing::info!(worker = %cx.worker, decided, "locks ended without their timers");
        }
        let more = overdue.len() as i64 == AT_ONCE && decided > 0;
        if !more || cx.drain.is_cancelled() {
            let unavailable = |decision| matches!(decision, &Err(NotDecided::Unavailable(_)));
            return Ok(!decisions.iter().any(unavailable));
        }
    }
}

/// Loads the locks that are overdue, the oldest first.
async fn overdue(postgres: &mut PgConnection) -> sqlx::Result<Vec<ExpiringLock>> {
    // The start of the statement, which is constant: clock_timestamp() would rule out the index.
    let rows = sqlx::query!(
        "select tenant, owner, cart_id, token from brigade.cart_locks
         where state = 'held' and expires_at < statement_timestamp() - make_interval(secs => $1)
         order by expires_at limit $2",
        GRACE.as_secs_f64(),
        AT_ONCE,
    )
    .fetch_all(postgres)
    .await?;
    let lock = |tenant: &str, owner: &str, cart: &str, token| {
        let cart = Address::new(tenant, Aggregate::Cart, cart).ok()?;
        Some(ExpiringLock { cart, owner: Token::new(owner).ok()?, token })
    };
    Ok(rows
        .iter()
        .filter_map(|row| lock(&row.tenant, &row.owner, &row.cart_id, row.token))
        .collect())
}
