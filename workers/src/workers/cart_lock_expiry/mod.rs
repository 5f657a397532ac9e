//! cart-lock-expiry: ends locks whose deadline has passed, and carts that nobody has changed for
//! long.
//!
//! A lock is **due** when it is held and its deadline has passed, on the database's clock. It is
//! **overdue** when that was a while ago ([`sweep`]): its timer should have come. A timer is
//! **stale** when its lock is held no more, or under another token, or until later: a lock whose
//! deadline moved has a timer of the new one.
//!
//! Triggered by the timers that have fired (`due.lock.>` of the stream `TIMERS`). Behind them
//! stands the sweep of overdue locks, by one instance every half second, which should find nothing.
//! Either way the lock is loaded from SQL, and if it is due, command-handler gets the command
//! `expire_lock` ([`expire`]), each time under a new Command-Id. Sending it twice does no harm: the
//! second command finds the token stale.
//!
//! Besides, one instance scans for carts that are **idle**, and sends `abandon` for them
//! ([`idle`]); with `BRIGADE_IDLE_CART_HOURS=0` none does.
//!
//! Guarantees: no lock outlives its deadline by more than 1 s while the fleet runs, whether its
//! timer came or not, nor by more than 2 s after all of it was started again. A timer is
//! acknowledged when its lock is decided, or the timer proves stale. No cart stays open for ever
//! that nobody comes back to, unless there is money on it.
//!
//! Not responsible for: deciding (command-handler, which extends the lock while a payment is open
//! under it), writing timers (command-handler), timers that were lost (cache-verifier). It writes
//! nothing but its leases.

mod expire;
mod idle;
mod metrics;
mod sweep;

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Token, lock::Due, subject};
use futures::future::join_all;
use sqlx::PgConnection;

use self::expire::{ExpiringLock, ExpiryDecision, expire};
pub use self::metrics::ExpiryMetrics;
use crate::{
    infra::{
        Context, Lease,
        postgres::{Failure, bounded, failure},
    },
    runtime::{
        BatchPermit, Delivery, Handler, NotDecided, Source, Verdict, consume, supervise::supervise,
    },
};

/// A timer that fires at most this many milliseconds before its deadline is retried: two clocks
/// differ. One that fires earlier is stale: its deadline has moved, and has a timer of its own.
const EARLY: u64 = 1000;

struct CartLockExpiry {
    cx: Context,
    metrics: Arc<ExpiryMetrics>,
}

/// Runs until the drain. Open carts that nobody changes are abandoned after so many hours; 0:
/// never.
///
/// # Errors
/// If the stream `TIMERS` cannot be consumed.
pub async fn run(cx: Context, idle_cart_hours: u16) -> anyhow::Result<()> {
    let messages = cx.health.duty("messages");
    let metrics = cx.metrics.group::<ExpiryMetrics>();
    let sweeping = {
        let (cx, metrics) = (cx.clone(), metrics.clone());
        supervise("the sweep of overdue locks", move || sweep::keep(cx.clone(), metrics.clone()))
    };
    let idling = (idle_cart_hours > 0).then(|| {
        let (cx, metrics) = (cx.clone(), metrics.clone());
        supervise("the scan for idle carts", move || {
            idle::keep(cx.clone(), metrics.clone(), idle_cart_hours)
        })
    });
    let handler = CartLockExpiry { cx: cx.clone(), metrics };
    consume(&cx, messages, &[Source::Stream("TIMERS")], handler).await?;
    sweeping.await?;
    if let Some(idling) = idling {
        idling.await?;
    }
    // Best effort: a lease that is not given back runs out.
    let _given_back = Lease::give_back(&cx.postgres, &cx.instance).await;
    Ok(())
}

impl Handler for CartLockExpiry {
    type Message = ExpiringLock;

    fn decode(&self, delivery: &Delivery) -> Result<ExpiringLock, String> {
        let due = subject::parse_lock_due(delivery.subject()).ok_or("not a timer's subject")?;
        let (cart, token) = due;
        let Due { owner } =
            serde_json::from_slice(delivery.payload()).map_err(|error| error.to_string())?;
        Ok(ExpiringLock { cart, owner, token })
    }

    async fn handle(&self, batch: Vec<ExpiringLock>, _permit: BatchPermit) -> Vec<Verdict> {
        let held = bounded(&self.cx.postgres, async |c| held(c, &batch).await).await;
        let held = match held {
            Ok(held) => held,
            Err(error) => return vec![not_loaded(&error); batch.len()],
        };
        self.cx.fail.point("cart-lock-expiry.before_send").await;
        let verdicts = batch.iter().enumerate().map(|(at, lock)| {
            let early = held.get(&at).copied();
            async move {
                match early {
                    None => Verdict::Done,
                    Some(0) => verdict(expire(&self.cx, &self.metrics, lock).await),
                    Some(early) => not_due(early),
                }
            }
        });
        let verdicts = join_all(verdicts).await;
        self.cx.fail.point("cart-lock-expiry.after_send").await;
        verdicts
    }
}

fn not_loaded(error: &sqlx::Error) -> Verdict {
    match failure(error) {
        Failure::Away | Failure::Conflict => Verdict::Away(error.to_string()),
        Failure::Fault => Verdict::Retry(error.to_string()),
    }
}

fn verdict(decision: Result<ExpiryDecision, NotDecided>) -> Verdict {
    match decision {
        Ok(ExpiryDecision::Decided | ExpiryDecision::Stale) => Verdict::Done,
        Ok(ExpiryDecision::NotDue(early)) => not_due(early),
        Err(not_decided) => not_decided.verdict(),
    }
}

/// Returns the verdict on a timer that comes `early` milliseconds before the deadline of its lock.
fn not_due(early: u64) -> Verdict {
    if early > EARLY {
        return Verdict::Done;
    }
    Verdict::Retry(format!("{early} ms before the deadline on the database's clock"))
}

/// Returns the milliseconds until the deadlines of those locks that are held, by their place in
/// `locks`; 0 of a lock that is due.
async fn held(
    postgres: &mut PgConnection,
    locks: &[ExpiringLock],
) -> sqlx::Result<HashMap<usize, u64>> {
    let text =
        |f: fn(&ExpiringLock) -> &Token| locks.iter().map(|l| f(l).as_str()).collect::<Vec<_>>();
    let tokens: Vec<i64> = locks.iter().map(|lock| lock.token).collect();
    let rows = sqlx::query!(
        r#"select requested.place as "place!",
                  greatest(0, ceil(1000 * extract(epoch from held.expires_at - clock_timestamp())))
                      ::bigint as "early!"
           from unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) with ordinality
                as requested (tenant, owner, cart_id, token, place)
           join brigade.cart_locks held using (tenant, owner, cart_id, token)
           where held.state = 'held'"#,
        &text(|lock| &lock.cart.tenant) as _,
        &text(|lock| &lock.owner) as _,
        &text(|lock| &lock.cart.id) as _,
        &tokens,
    )
    .fetch_all(postgres)
    .await?;
    let place = |place: i64| usize::try_from(place - 1).unwrap_or_default();
    Ok(rows.iter().map(|row| (place(row.place), row.early.cast_unsigned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_its_verdict() {
        let why = || "why".to_owned();
        assert_eq!(verdict(Ok(ExpiryDecision::Decided)), Verdict::Done);
        assert_eq!(verdict(Ok(ExpiryDecision::Stale)), Verdict::Done);
        assert_eq!(verdict(Err(NotDecided::Unavailable(why()))), Verdict::Away(why()));
        assert_eq!(verdict(Err(NotDecided::Refused(why()))), Verdict::Retry(why()));
        let moved = verdict(Ok(ExpiryDecision::NotDue(1001)));
        assert_eq!(moved, Verdict::Done, "the new deadline has a timer");
        assert!(matches!(verdict(Ok(ExpiryDecision::NotDue(1000))), Verdict::Retry(_)));
    }
}
