//! The watch on money that waits for a person: refund tasks that are open, and payments whose
//! result is unknown. It tells how many there are and how old the oldest is, so that an alarm can
//! stand on the age.
//!
//! A payment waits since the event that says so: what changes it meanwhile, as another transaction
//! does, makes it no younger.
//!
//! Of either the [`MOST`] oldest are read, by index, however many there are, and of the tenants those
//! that wait the longest have a series of their own: so many that the metrics stay small.

use std::{sync::Arc, time::Duration};

use brigade_contracts::Timestamp;
use prometheus::IntGaugeVec;
use time::OffsetDateTime;

use crate::infra::{
    Context,
    health::POSTGRES,
    lease::LeasedRounds,
    metrics::{MetricGroup, MetricsRegistry},
    postgres::bounded,
};

const LEASE: &str = "cache-verifier.money";
/// The time between two looks.
const PERIOD: Duration = Duration::from_secs(5);
/// An instance that has not looked for so long shows nothing: another one does.
const STALE: Duration = Duration::from_secs(15);
/// The most of a kind that are counted.
const MOST: i64 = 10_000;
/// The most tenants that have a series of their own for a kind.
const TENANTS: usize = 50;

/// Money that waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingMoney {
    RefundTask,
    UnknownPayment,
}

impl WaitingMoney {
    pub const ALL: [Self; 2] = [Self::RefundTask, Self::UnknownPayment];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RefundTask => "refund_task",
            Self::UnknownPayment => "unknown_payment",
        }
    }
}

/// The metrics of money that waits for a person.
pub struct MoneyMetrics {
    pub waiting: IntGaugeVec,
    pub oldest_seconds: IntGaugeVec,
    pub waiting_of_tenant: IntGaugeVec,
    pub oldest_seconds_of_tenant: IntGaugeVec,
}

impl MetricGroup for MoneyMetrics {
    fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            waiting: registry.gauges(
                "brigade_money_waiting",
                "Open refund tasks and payments whose result is unknown, at most 10,000 of each, as \
                 their leader sees it; a person has to settle them",
                &["what"],
            ),
            oldest_seconds: registry.gauges(
                "brigade_money_oldest_seconds",
                "For how long the oldest open refund task or unknown payment has waited, as their \
                 leader sees it; 0: there is none",
                &["what"],
            ),
            waiting_of_tenant: registry.gauges(
                "brigade_money_waiting_of_tenant",
                "The same by tenant, of the 50 tenants that have waited for the longest time",
                &["what", "tenant"],
            ),
            oldest_seconds_of_tenant: registry.gauges(
                "brigade_money_oldest_seconds_of_tenant",
                "For how long the oldest one of a tenant has waited, of the same tenants",
                &["what", "tenant"],
            ),
        };
        metrics.forget();
        metrics
    }
}

impl MoneyMetrics {
    /// Shows nothing of any tenant, and zeros in total.
    fn forget(&self) {
        self.waiting_of_tenant.reset();
        self.oldest_seconds_of_tenant.reset();
        for what in WaitingMoney::ALL {
            self.waiting.with_label_values(&[what.as_str()]).set(0);
            self.oldest_seconds.with_label_values(&[what.as_str()]).set(0);
        }
    }

    /// Shows what waits, that of the tenant that has waited for the longest time first.
    fn show(&self, what: WaitingMoney, of_tenants: &[WaitingOfTenant]) {
        let what = what.as_str();
        let count = of_tenants.iter().map(|of| of.count).sum();
        let oldest = of_tenants.iter().map(|of| of.seconds).max().unwrap_or_default();
        self.waiting.with_label_values(&[what]).set(count);
        self.oldest_seconds.with_label_values(&[what]).set(oldest);
        for WaitingOfTenant { tenant, count, seconds } in of_tenants.iter().take(TENANTS) {
            self.waiting_of_tenant.with_label_values(&[what, tenant]).set(*count);
            self.oldest_seconds_of_tenant.with_label_values(&[what, tenant]).set(*seconds);
        }
    }
}

/// The matters of a tenant that wait.
#[derive(Debug)]
struct WaitingOfTenant {
    tenant: String,
    count: i64,
    /// The age of the oldest one.
    seconds: i64,
}

/// Looks each [`PERIOD`], under the lease, until the drain.
pub async fn watch_money(cx: Context) {
    let metrics = cx.metrics.group::<MoneyMetrics>();
    let duty = Arc::new(cx.health.duty("money"));
    let mut rounds = LeasedRounds::new(&cx, LEASE, duty).every(PERIOD);
    while rounds.begin_or_forget(STALE, || metrics.forget()).await {
        match look(&cx).await {
            Ok(waiting) => {
                metrics.forget();
                for (what, of_tenants) in WaitingMoney::ALL.into_iter().zip(&waiting) {
                    metrics.show(what, of_tenants);
                }
                rounds.succeeded();
            }
            // Others report it.
            Err(error) => rounds.failed(POSTGRES, &error.to_string()),
        }
    }
}

async fn look(cx: &Context) -> sqlx::Result<[Vec<WaitingOfTenant>; 2]> {
    bounded(&cx.postgres, async |connection| {
        let tasks = sqlx::query!(
            r#"select tenant, count(*) as "count!", min(requested_at) as "oldest!",
                      clock_timestamp() as "now!"
               from (select tenant, requested_at from brigade.refund_tasks
                     where status = 'open' order by requested_at limit $1) open
               group by tenant order by min(requested_at)"#,
            MOST,
        )
        .fetch_all(&mut **connection)
        .await?;
        let payments = sqlx::query!(
            r#"select p.tenant, count(*) as "count!", min(coalesce(e.at, p.updated_at)) as "oldest!",
                      clock_timestamp() as "now!"
               from (select tenant, id, updated_at from brigade.payments
                     where status = 'unknown' order by updated_at limit $1) p
               left join brigade.events e
                   on (e.tenant, e.aggregate, e.id, e.type)
                    = (p.tenant, 'payment', p.id, 'unknown')
               group by p.tenant order by min(coalesce(e.at, p.updated_at))"#,
            MOST,
        )
        .fetch_all(&mut **connection)
        .await?;
        let tasks = tasks.into_iter();
        let payments = payments.into_iter();
        Ok([
            tasks.map(|row| waiting(row.tenant, row.count, row.oldest, row.now)).collect(),
            payments.map(|row| waiting(row.tenant, row.count, row.oldest, row.now)).collect(),
        ])
    })
    .await
}

fn waiting(
    tenant: String,
    count: i64,
    oldest: OffsetDateTime,
    now: OffsetDateTime,
) -> WaitingOfTenant {
    let millis = Timestamp::from(oldest).millis_until(now.into());
    // A part of a second has waited as well.
    let seconds = i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX);
    WaitingOfTenant { tenant, count, seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenants_that_wait_the_longest_have_series_and_all_are_counted() {
        let registry = MetricsRegistry::default();
        let metrics = registry.group::<MoneyMetrics>();
        let of_tenants: Vec<_> = (0..80)
            .map(|n| WaitingOfTenant { tenant: format!("t{n}"), count: 2, seconds: 1000 - n })
            .collect();
        metrics.show(WaitingMoney::RefundTask, &of_tenants);
        let text = registry.render();
        for shown in [
            "brigade_money_waiting{what=\"refund_task\"} 160\n",
            "brigade_money_oldest_seconds{what=\"refund_task\"} 1000\n",
            "brigade_money_oldest_seconds{what=\"unknown_payment\"} 0\n",
            "brigade_money_oldest_seconds_of_tenant{tenant=\"t49\",what=\"refund_task\"} 951\n",
        ] {
            assert!(text.contains(shown), "{shown} in {text}");
        }
        assert!(!text.contains("t50"), "{text}");
        metrics.forget();
        let text = registry.render();
        assert!(text.contains("brigade_money_waiting{what=\"refund_task\"} 0\n"), "{text}");
        assert!(!text.contains("t49"), "{text}");
    }
}
