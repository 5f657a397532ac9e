//! The statements that list orders: active ones of a tenant, and those that ended since a position.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Era, Token, list::MAX_FOLLOWED};
use sqlx::PgConnection;
use time::{OffsetDateTime, macros::datetime};

use super::{
    page::ListKey,
    position::ListPosition,
    snapshot::{ListMoment, OrderList, SnapshotOrder},
};
use crate::{
    store::rows::refused,
    workers::edge::{
        metrics::EdgeMetrics,
        query::loader::{Loader, key_at},
    },
};

/// The place behind all orders: later than any.
const NEWEST: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);

/// Loads active orders of tenants. Every key has a row.
pub struct OrderListLoader {
    pub metrics: Arc<EdgeMetrics>,
}

impl Loader for OrderListLoader {
    type Key = ListKey;
    type Row = Arc<OrderList>;
    const CONCURRENCY: usize = 2;
    /// Each brings up to two thousand orders, and usually far fewer.
    const MAX_KEYS: usize = 16;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[ListKey],
    ) -> sqlx::Result<HashMap<ListKey, Arc<OrderList>>> {
        self.metrics.confirm_statements.inc();
        let tenants: Vec<&str> = keys.iter().map(|key| key.tenant.as_str()).collect();
        let places = keys.iter().map(|key| key.after.as_ref());
        let (times, ids): (Vec<OffsetDateTime>, Vec<&str>) = places
            .map(|place| place.map_or((NEWEST, ""), |p| (time_of(p.created_at), p.order.as_str())))
            .unzip();
        // One more tells that there are older ones.
        let limits: Vec<i64> = keys.iter().map(|key| i64::from(key.limit) + 1).collect();
        let rows = sqlx::query!(
            r#"select place as "place!", start as "start!", xid as "xid!", at as "at!",
                      ids as "ids!", cores as "cores!", payments as "payments!",
                      xids as "xids!", ats as "ats!", created as "created!"
               from brigade.read_active_orders($1, $2, $3, $4, $5)"#,
            era.as_sql(),
            &tenants as _,
            &times,
            &ids as _,
            &limits,
        )
        .fetch_all(connection)
        .await?;
        rows.into_iter()
            .map(|row| {
                let moment = ListMoment { start: row.start, xid: row.xid, at: row.at };
                let ats = row.ats.into_iter().map(millis).collect();
                let created = row.created.into_iter().map(millis).collect();
                let orders = OrderColumns {
                    ids: row.ids,
                    cores: row.cores,
                    payments: row.payments,
                    xids: row.xids,
                    ats,
                    created,
                };
                let key = key_at(keys, row.place)?.clone();
                let list = OrderList::new(moment, orders.zip()?, key.limit);
                Ok((key, Arc::new(list)))
            })
            .collect()
    }
}

/// Loads the orders that have ended since a position: at most one more than an answer has room for.
pub struct EndedOrderLoader;

impl Loader for EndedOrderLoader {
    type Key = ListPosition;
    type Row = Arc<Vec<SnapshotOrder>>;
    const CONCURRENCY: usize = 1;
    /// Each brings a thousand orders.
    const MAX_KEYS: usize = 16;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        positions: &[ListPosition],
    ) -> sqlx::Result<HashMap<ListPosition, Arc<Vec<SnapshotOrder>>>> {
        let tenants: Vec<&str> = positions.iter().map(|p| p.tenant.as_str()).collect();
        let xids: Vec<i64> = positions.iter().map(|p| p.moment.xid).collect();
        let times: Vec<OffsetDateTime> = positions.iter().map(|p| time_of(p.moment.at)).collect();
        let rows = sqlx::query!(
            r#"select place as "place!", ids as "ids!", cores as "cores!",
                      payments as "payments!", xids as "xids!", ats as "ats!"
               from brigade.read_ended_orders($1, $2, $3, $4)"#,
            era.as_sql(),
            &tenants as _,
            &xids,
            &times,
        )
        .fetch_all(connection)
        .await?;
        rows.into_iter()
            .map(|row| {
                // What has ended has no place any more.
                let created = vec![0; row.ids.len()];
                let orders = OrderColumns {
                    ids: row.ids,
                    cores: row.cores,
                    payments: row.payments,
                    xids: row.xids,
                    ats: row.ats,
                    created,
                };
                let position = key_at(positions, row.place)?.clone();
                Ok((position, Arc::new(orders.zip()?)))
            })
            .collect()
    }
}

impl ListKey {
    /// Returns the key of all active orders of a tenant whose changes are followed.
    #[must_use]
    pub fn whole(tenant: Token) -> Self {
        const { assert!(MAX_FOLLOWED < u16::MAX as usize) };
        #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
        Self { tenant, after: None, limit: MAX_FOLLOWED as u16 }
    }
}

/// Converts the time of a position or of a place. One that was not given is of no use, whatever it
/// becomes.
fn time_of(millis: i64) -> OffsetDateTime {
    let nanos = i128::from(millis) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Converts a time to milliseconds of the Unix time, as which the database has it.
fn millis(time: OffsetDateTime) -> i64 {
    time.unix_timestamp() * 1000 + i64::from(time.millisecond())
}

/// Orders column by column, whose values are in the same order.
struct OrderColumns {
    ids: Vec<String>,
    cores: Vec<i64>,
    payments: Vec<i64>,
    xids: Vec<i64>,
    ats: Vec<i64>,
    created: Vec<i64>,
}

impl OrderColumns {
    fn zip(self) -> sqlx::Result<Vec<SnapshotOrder>> {
        let Self { ids, cores, payments, xids, ats, created } = self;
        let columns = ids.into_iter().zip(cores).zip(payments).zip(xids).zip(ats).zip(created);
        columns
            .map(|(((((id, core), payments), xid), at), created_at)| {
                let order = Token::new(&id).map_err(refused)?;
                let (core, payments) = (core.cast_unsigned(), payments.cast_unsigned());
                Ok(SnapshotOrder { order, core, payments, xid, at, created_at })
            })
            .collect()
    }
}
