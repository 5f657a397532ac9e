//! The heads of all aggregates in SQL, page by page in the order of keys.

use std::iter::successors;

use brigade_contracts::{
    Address, Aggregate, Token,
    key::{Bucket, ENDED_TTL, REMOVED_TTL},
};
use tokio::time::Duration;

use crate::infra::{Context, postgres::bounded};

/// The kind with which each round over all aggregates begins.
pub const FIRST_KIND: Aggregate = Aggregate::Cart;

/// Returns the kind that follows in a round over all aggregates, `None` after the last one. Healing
/// and the audit go by it alone: a kind that is left out is a test failure.
pub const fn next_kind(kind: Aggregate) -> Option<Aggregate> {
    match kind {
        Aggregate::Cart => Some(Aggregate::Order),
        Aggregate::Order => Some(Aggregate::Payment),
        Aggregate::Payment => Some(Aggregate::Table),
        Aggregate::Table => Some(Aggregate::Product),
        Aggregate::Product => Some(Aggregate::Lock),
        Aggregate::Lock => Some(Aggregate::User),
        Aggregate::User => None,
    }
}

/// Returns every kind of aggregate, locks included.
pub fn all_kinds() -> impl Iterator<Item = Aggregate> {
    successors(Some(FIRST_KIND), |kind| next_kind(*kind))
}

/// Returns the bucket that holds the parts of a kind.
pub const fn home_bucket(kind: Aggregate) -> Bucket {
    match kind {
        Aggregate::Cart
        | Aggregate::Order
        | Aggregate::Payment
        | Aggregate::Table
        | Aggregate::Product => Bucket::Views,
        Aggregate::Lock => Bucket::CartLocks,
        Aggregate::User => Bucket::UserState,
    }
}

/// The time before their end at which keys count as expired already: healing writes them once more,
/// the audit must not take an expiry for a loss.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpiryMargin {
    pub ended: Duration,
    pub removed: Duration,
}

/// A tenant and an id, after which a page begins.
pub type KeyCursor = (String, String);

/// Some aggregates of a kind, by key.
#[derive(Default)]
pub struct HeadPage {
    pub heads: Vec<AggregateHead>,
    /// Rows that were read, those that have expired among them.
    pub walked: usize,
    /// The key after which the next page begins; `None` at the end.
    pub next: Option<KeyCursor>,
}

pub struct AggregateHead {
    pub address: Address,
    /// Its keys have not expired.
    pub kept: bool,
    /// For an order: its rows in `active_orders` have not expired either.
    pub listed: bool,
}

struct HeadRow {
    tenant: String,
    id: String,
    kept: bool,
    listed: bool,
}

/// Loads the heads of a kind after a key; of one tenant alone, if it is named.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn load_head_page(
    cx: &Context,
    (kind, tenant): (Aggregate, Option<&Token>),
    after: &KeyCursor,
    limit: i64,
    margin: ExpiryMargin,
) -> sqlx::Result<HeadPage> {
    // The rows of a tenant are one stretch of the key.
    let first_of_tenant = tenant.map(|tenant| (tenant.as_str().to_owned(), String::new()));
    let after = first_of_tenant.as_ref().map_or(after, |first| first.max(after));
    let mut rows = load_rows(cx, kind, after, limit, margin).await?;
    let read = rows.len();
    rows.retain(|row| tenant.is_none_or(|tenant| tenant.as_str() == row.tenant));
    let is_last = (read as i64) < limit || rows.len() < read;
    let next = rows.last().filter(|_| !is_last).map(|row| (row.tenant.clone(), row.id.clone()));
    let walked = rows.len();
    let known = |row: HeadRow| {
        let address = Address::new(&row.tenant, kind, &row.id).ok()?;
        let HeadRow { kept, listed, .. } = row;
        Some(AggregateHead { address, kept, listed })
    };
    Ok(HeadPage { heads: rows.into_iter().filter_map(known).collect(), walked, next })
}

async fn load_rows(
    cx: &Context,
    kind: Aggregate,
    after: &KeyCursor,
    limit: i64,
    margin: ExpiryMargin,
) -> sqlx::Result<Vec<HeadRow>> {
    let removed = (REMOVED_TTL - margin.removed).as_secs_f64();
    let kept = match kind {
        Aggregate::Lock => removed,
        Aggregate::Cart
        | Aggregate::Order
        | Aggregate::Payment
        | Aggregate::Table
        | Aggregate::Product
        | Aggregate::User => (ENDED_TTL - margin.ended).as_secs_f64(),
    };
    bounded(&cx.postgres, async |connection| {
        // One statement a table, so that each page is a walk along its primary key. They differ in
        // the table, the column of the id, and the condition under which keys do not expire.
        macro_rules! heads {
            ($table:literal, $id:literal, $active:literal) => {
                sqlx::query_as!(
                    HeadRow,
                    "select tenant, " + $id + r#" as id,
       "# + $active + r#" or updated_at > clock_timestamp() - make_interval(secs => $4) as "kept!",
       "# + $active + r#" or updated_at > clock_timestamp() - make_interval(secs => $5) as "listed!"
from brigade."# + $table + " where (tenant, " + $id + ") > ($1, $2)
order by tenant, " + $id + " limit $3",
                    after.0,
                    after.1,
                    limit,
                    kept,
                    removed,
                )
                .fetch_all(&mut **connection)
                .await
            };
        }
        match kind {
            Aggregate::Cart => heads!("carts", "id", "status = 'open'"),
            Aggregate::Order => heads!("orders", "id", "active"),
            Aggregate::Payment => {
                heads!("payments", "id", "status in ('initiated', 'unknown')")
            }
            Aggregate::Table => heads!("tables", "id", "true"),
            Aggregate::Product => heads!("products", "id", "listed"),
            Aggregate::Lock => heads!("cart_locks", "owner", "state = 'held'"),
            Aggregate::User => heads!("users", "id", "true"),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_round_visits_each_kind_once() {
        let visited: Vec<_> = all_kinds().collect();
        let distinct: HashSet<_> = visited.iter().copied().collect();
        assert_eq!(visited.len(), distinct.len());
        let every = Aggregate::ALL.into_iter().chain([Aggregate::Lock]);
        assert_eq!(distinct, every.collect());
    }
}
