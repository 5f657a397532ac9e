//! The look for overdue locks, whose timers were lost, or fire by a clock that is late.

use std::time::Duration;

use brigade_contracts::{Address, Aggregate, Token};
use futures::future::join_all;
use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};

use super::expire::{Asked, Lock, expire};
use crate::infra::{
    Context, Lease,
    health::Duty,
    lease::{Fitness, RENEW},
    postgres::bounded,
};

const LEASE: &str = "cart-lock-expiry.sweep";
/// How long a lock's own timer has: it fires up to 250 ms late, and has to be answered. With a look
/// each [`RENEW`] every lock is found within 1 s of its deadline.
const GRACE: Duration = Duration::from_millis(400);
/// Most locks in hand.
const AT_ONCE: i64 = 256;

/// Looks for overdue locks, under the lease, until the drain.
pub async fn keep(cx: Context) {
    let duty = cx.health.duty("sweep");
    let mut fitness = Fitness::default();
    let mut tick = interval(RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Where everything was killed, the lease is still a dead one's, and locks have waited long.
    let mut at_start = true;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.drain.cancelled() => return,
        }
        let round: sqlx::Result<()> = async {
            let mine = Lease::hold(&cx, LEASE, &fitness).await?;
            if mine || at_start {
                let answered = sweep(&cx, &duty).await?;
                at_start = !answered;
                if answered { fitness.works() } else { fitness.fails() }
            }
            Ok(())
        }
        .await;
        match round {
            Ok(()) => {
                cx.health.back("postgres");
                duty.moved();
            }
            Err(error) => {
                cx.health.away("postgres", &error.to_string());
                duty.went_round();
            }
        }
    }
}

/// Ends what is overdue, the oldest first. False: nobody decides now.
async fn sweep(cx: &Context, duty: &Duty) -> sqlx::Result<bool> {
    loop {
        duty.went_round();
        let overdue = bounded(&cx.postgres, async |c| overdue(c).await).await?;
        if overdue.is_empty() {
            return Ok(true);
        }
        let asked = join_all(overdue.iter().map(|lock| expire(cx, lock))).await;
        let count = |is: fn(&Asked) -> bool| asked.iter().filter(|asked| is(asked)).count();
        let decided = count(|asked| *asked == Asked::Decided);
        let away = count(|asked| matches!(asked, Asked::Away(_)));
        cx.metrics.locks_overdue.inc_by(decided as u64);
        if let Some(Asked::Away(why) | Asked::Refused(why)) =
            asked.iter().find(|asked| asked.failed())
        {
            tracing::warn!(worker = %cx.worker, overdue = overdue.len(), why, "locks are overdue");
        }
        if decided > 0 {
            tracing::info!(worker = %cx.worker, decided, "locks ended without their timers");
        }
        let more = overdue.len() as i64 == AT_ONCE && decided > 0;
        if !more || cx.drain.is_cancelled() {
            return Ok(away == 0);
        }
    }
}

async fn overdue(postgres: &mut PgConnection) -> sqlx::Result<Vec<Lock>> {
    // The time of the statement: that of the clock would keep it from using the index.
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
        Some(Lock { cart, owner: Token::new(owner).ok()?, token })
    };
    Ok(rows
        .iter()
        .filter_map(|row| lock(&row.tenant, &row.owner, &row.cart_id, row.token))
        .collect())
}
