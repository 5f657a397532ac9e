//! Buckets that are written anew from SQL while the fleet runs.
//!
//! A rebuild is a heal ([`HealPlan::rebuild`]) that an operator stores: cache-verifier empties the
//! buckets and puts into SQL what command-handler, outbox-relay and the projectors then do, as after
//! any loss. Nothing is done here but that, and to look how far it is. So it goes on when the one who
//! asked has gone away.

use anyhow::{Result, ensure};
use brigade_contracts::{Aggregate, Token, key::Bucket};
use sqlx::PgPool;

use crate::workers::cache_verifier::{HealPlan, HealScope, HealStep, add_heal};

/// A rebuild under way.
pub struct RunningRebuild {
    /// Its number in `brigade.heals`.
    pub id: i64,
    tenant: Option<Token>,
    /// About how many rows it reads in all.
    total: i64,
}

/// The progress of a rebuild.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RebuildProgress {
    /// The share of its rows that were walked, from 0 to 100.
    pub percent: i64,
    /// Aggregates that command-handler was given.
    pub aggregates: i64,
    /// The number that is not written yet, of these and of others that were lost.
    pub left: i64,
    /// Events that are published once more, for the parts that projectors write.
    pub events: i64,
    /// Heals that come before it.
    pub before: i64,
    pub is_finished: bool,
}

impl RunningRebuild {
    /// Begins a rebuild of these buckets, of one tenant alone if it is named. Joins the same one if
    /// it is under way.
    ///
    /// # Errors
    /// If there is no such tenant, or Postgres refuses a statement.
    pub async fn begin(
        postgres: &PgPool,
        buckets: &[Bucket],
        tenant: Option<Token>,
    ) -> Result<Self> {
        if let Some(tenant) = &tenant {
            let is_known = sqlx::query_scalar!(
                r#"select exists (select from brigade.tenants where tenant = $1) as "is!""#,
                tenant.as_str(),
            );
            ensure!(is_known.fetch_one(postgres).await?, "there is no tenant {tenant}");
        }
        let steps = HealPlan::rebuild(buckets, tenant.as_ref());
        let total = count_rows(postgres, &steps, tenant.as_ref()).await?;
        let mut connection = postgres.acquire().await?;
        let id = add_heal(&mut connection, "rebuild", &steps, true).await?;
        Ok(Self { id, tenant, total })
    }

    /// Looks how far it is.
    ///
    /// # Errors
    /// If Postgres refuses the statement.
    pub async fn progress(&self, postgres: &PgPool) -> sqlx::Result<RebuildProgress> {
        let row = sqlx::query!(
            r#"select walked, aggregates, events, finished_at is not null as "is_finished!",
                      (select count(*) from brigade.heals before
                       where before.finished_at is null and before.id < heal.id) as "before!",
                      (select count(*) from brigade.heal_backlog entry
                       where ($2::text is null or entry.tenant = $2)
                         and entry.at <= coalesce(heal.finished_at, 'infinity')) as "left!"
               from brigade.heals heal where id = $1"#,
            self.id,
            self.tenant.as_ref().map(Token::as_str),
        )
        .fetch_one(postgres)
        .await?;
        let percent = (row.walked * 100 / self.total.max(1)).min(100);
        Ok(RebuildProgress {
            percent: if row.is_finished { 100 } else { percent.min(99) },
            aggregates: row.aggregates,
            left: row.left,
            events: row.events,
            before: row.before,
            is_finished: row.is_finished,
        })
    }
}

/// Returns about how many rows the steps will read.
async fn count_rows(
    postgres: &PgPool,
    steps: &[HealStep],
    tenant: Option<&Token>,
) -> sqlx::Result<i64> {
    let kinds: Vec<Aggregate> = steps
        .iter()
        .filter_map(|step| match step {
            HealStep::Project { scope } | HealStep::Republish { scope } => Some(scope),
            _ => None,
        })
        .map(|scope| match scope {
            HealScope::Unexpired { kind, .. } => *kind,
            HealScope::ListedOrders { .. } | HealScope::Changed { .. } => Aggregate::Order,
        })
        .collect();
    let mut total = 0;
    for kind in kinds {
        macro_rules! count {
            ($table:literal) => {
                sqlx::query_scalar!(
                    r#"select count(*) as "count!" from brigade."#
                        + $table
                        + " where $1::text is null or tenant = $1",
                    tenant.map(Token::as_str),
                )
                .fetch_one(postgres)
                .await?
            };
        }
        total += match kind {
            Aggregate::Cart => count!("carts"),
            Aggregate::Order => count!("orders"),
            Aggregate::Payment => count!("payments"),
            Aggregate::Table => count!("tables"),
            Aggregate::Product => count!("products"),
            Aggregate::Lock => count!("cart_locks"),
            Aggregate::User => count!("users"),
        };
    }
    Ok(total)
}
