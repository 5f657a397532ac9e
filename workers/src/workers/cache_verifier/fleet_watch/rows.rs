//! What SQL tells of the fleet, in four statements whose rows are bounded.

use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use super::{
    InstanceState, LetterCount,
    letters::{count, kind},
};
use crate::infra::postgres::bounded;

/// The most rows of a queue that are counted.
const MOST: i64 = 100_000;
const DAY_SECONDS: f64 = 24.0 * 3600.0;
/// The most dead letters in SQL whose reasons are read.
const MOST_LETTERS: i64 = 10_000;

/// What waits in SQL, or is there for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueName {
    /// Events that JetStream has not acknowledged.
    Outbox,
    /// Aggregates whose newest version may not stand in KV.
    ProjectionBacklog,
    /// Aggregates that a heal has written anew.
    HealBacklog,
    /// Cart locks that are held.
    Locks,
    /// Those of them whose deadline has passed.
    OverdueLocks,
    ActiveOrders,
    OpenRefundTasks,
    UnknownPayments,
}

impl QueueName {
    pub const ALL: [Self; 8] = [
        Self::Outbox,
        Self::ProjectionBacklog,
        Self::HealBacklog,
        Self::Locks,
        Self::OverdueLocks,
        Self::ActiveOrders,
        Self::OpenRefundTasks,
        Self::UnknownPayments,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::ProjectionBacklog => "projection_backlog",
            Self::HealBacklog => "heal_backlog",
            Self::Locks => "locks",
            Self::OverdueLocks => "overdue_locks",
            Self::ActiveOrders => "active_orders",
            Self::OpenRefundTasks => "open_refund_tasks",
            Self::UnknownPayments => "unknown_payments",
        }
    }
}

/// How many rows wait, at most [`MOST`], and for how long the oldest has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Queue {
    pub name: QueueName,
    pub rows: i64,
    /// 0: there is none.
    pub oldest_seconds: f64,
}

/// A lease, or a member of those who divide the shards of the outbox.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldLease {
    pub name: String,
    pub holder: String,
    /// For how long it has not been renewed beyond its time; none: it is held.
    pub expired_seconds: Option<f64>,
}

impl HeldLease {
    /// Returns false for a lease of so long ago that it is that of a duty which there is no more.
    #[must_use]
    pub fn is_of_a_duty(&self) -> bool {
        self.expired_seconds.is_none_or(|seconds| seconds < DAY_SECONDS)
    }
}

/// What SQL tells of the fleet.
#[derive(Clone, Debug, Serialize)]
pub struct Rows {
    pub instances: Vec<InstanceState>,
    pub queues: Vec<Queue>,
    pub leases: Vec<HeldLease>,
    /// Shards of the outbox that no live relay holds.
    pub shards_without_owner: i64,
    /// Seconds since the audit last went through everything; none: never yet.
    pub audited_seconds: Option<f64>,
    pub heals_unfinished: i64,
    /// Dead letters in SQL, and those that were only counted.
    pub letters: Vec<LetterCount>,
}

impl Rows {
    /// # Errors
    /// If Postgres does not answer in time, or refuses; see [`bounded`].
    pub async fn load(postgres: &PgPool) -> sqlx::Result<Self> {
        bounded(postgres, async |connection| {
            let instances = InstanceState::load(connection).await?;
            let leases = leases(connection).await?;
            let rest = sqlx::query!(
                r#"select (select count(*) from brigade.leases s
                           where s.name like 'outbox-relay.share.%' and not exists (
                               select from brigade.leases m
                               where m.name = 'outbox-relay.member.' || s.holder
                                 and m.until > clock_timestamp())) as "shards!",
                          (select count(*) from brigade.heals where finished_at is null)
                              as "heals!",
                          (select extract(epoch from clock_timestamp() - last_finished_at)::float8
                           from brigade.audit_rounds where audit = 'kv') as audited"#,
            )
            .fetch_one(&mut **connection)
            .await?;
            Ok(Self {
                instances,
                queues: queues(connection).await?,
                leases,
                shards_without_owner: rest.shards,
                audited_seconds: rest.audited,
                heals_unfinished: rest.heals,
                letters: letters(connection).await?,
            })
        })
        .await
    }

    /// Returns how much waits of one kind.
    #[must_use]
    pub fn queue(&self, name: QueueName) -> Queue {
        let found = self.queues.iter().find(|queue| queue.name == name).cloned();
        found.unwrap_or(Queue { name, rows: 0, oldest_seconds: 0.0 })
    }
}

async fn queues(connection: &mut PgConnection) -> sqlx::Result<Vec<Queue>> {
    // Of each shard the first event that is not published again.
    let rows = sqlx::query!(
        r#"with waiting (name, rows, oldest) as (
               select 'outbox', (select count(*) from (select from brigade.outbox limit $1) o),
                      (select min(e.at)
                       from generate_series(0, 15) as shard (n)
                       cross join lateral (
                           select o.event_seq from brigade.outbox o
                           where o.shard = shard.n and o.republication = 0
                           order by o.seq limit 1) head
                       join brigade.events e on e.seq = head.event_seq)
               union all
               select 'projection_backlog', count(*), min(at)
               from (select at from brigade.projection_backlog limit $1) b
               union all
               select 'heal_backlog', count(*), min(at)
               from (select at from brigade.heal_backlog limit $1) b
               union all
               select 'locks', count(*), min(acquired_at)
               from (select acquired_at from brigade.cart_locks where state = 'held'
                     order by expires_at limit $1) l
               union all
               select 'overdue_locks', count(*), min(expires_at)
               from (select expires_at from brigade.cart_locks
                     where state = 'held' and expires_at < clock_timestamp()
                     order by expires_at limit $1) l
               union all
               select 'active_orders', count(*), min(created_at)
               from (select created_at from brigade.orders where active limit $1) o
               union all
               select 'open_refund_tasks', count(*), min(requested_at)
               from (select requested_at from brigade.refund_tasks where status = 'open'
                     order by requested_at limit $1) t
               union all
               select 'unknown_payments', count(*), min(coalesce(e.at, p.updated_at))
               from (select tenant, id, updated_at from brigade.payments
                     where status = 'unknown' order by updated_at limit $1) p
               left join brigade.events e
                   on (e.tenant, e.aggregate, e.id, e.type)
                    = (p.tenant, 'payment', p.id, 'unknown')
           )
           select name as "name!", rows as "rows!",
                  greatest(0, extract(epoch from clock_timestamp() - oldest))::float8
                      as "oldest_seconds?"
           from waiting"#,
        MOST,
    )
    .fetch_all(connection)
    .await?;
    let named = |text: &str| QueueName::ALL.into_iter().find(|name| name.as_str() == text);
    let queue = |name| {
        let row = rows.iter().find(|row| named(&row.name) == Some(name))?;
        let oldest_seconds = row.oldest_seconds.unwrap_or_default();
        Some(Queue { name, rows: row.rows, oldest_seconds })
    };
    Ok(QueueName::ALL.into_iter().filter_map(queue).collect())
}

/// Returns the leases of duties, and the relays that are alive or were a minute ago.
async fn leases(connection: &mut PgConnection) -> sqlx::Result<Vec<HeldLease>> {
    sqlx::query_as!(
        HeldLease,
        r#"select name, holder,
                  case when until < clock_timestamp()
                      then extract(epoch from clock_timestamp() - until)::float8
                  end as expired_seconds
           from brigade.leases where name not like '%.share.%' order by name limit 1000"#,
    )
    .fetch_all(connection)
    .await
}

async fn letters(connection: &mut PgConnection) -> sqlx::Result<Vec<LetterCount>> {
    let kept = sqlx::query!(
        r#"select split_part(subject, '.', 2) as "worker!",
                  (select pair ->> 1 from json_array_elements(headers) pair
                   where pair ->> 0 = 'Dead-Reason' limit 1) as reason
           from brigade.dead_letters order by number limit $1"#,
        MOST_LETTERS,
    )
    .fetch_all(&mut *connection)
    .await?;
    let counted = sqlx::query!(
        r#"select worker, reason, sum(letters)::bigint as "letters!"
           from brigade.dead_letter_overflow group by worker, reason limit 1000"#,
    )
    .fetch_all(connection)
    .await?;
    let kept = kept.into_iter().map(|row| (row.worker, kind(row.reason.as_deref()), 1));
    let counted = counted.into_iter().map(|row| (row.worker, row.reason, row.letters));
    Ok(count(kept.chain(counted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_of_days_ago_is_that_of_no_duty() {
        let lease = |expired_seconds| HeldLease {
            name: "edge.duty".to_owned(),
            holder: "edge.1".to_owned(),
            expired_seconds,
        };
        for (expired, is) in [(None, true), (Some(5.0), true), (Some(DAY_SECONDS), false)] {
            assert_eq!(lease(expired).is_of_a_duty(), is, "{expired:?}");
        }
    }
}
