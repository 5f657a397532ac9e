//! The statements that list orders: the active ones of a tenant, and those that ended since a
//! position.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Era, Token};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    position::ListPosition,
    snapshot::{ListMoment, OrderList, SnapshotOrder},
};
use crate::{
    store::rows::refused,
    workers::edge::{metrics::EdgeMetrics, query::loader::Loader},
};

/// Loads the active orders of tenants. Every tenant has a row.
pub struct OrderListLoader {
    pub metrics: Arc<EdgeMetrics>,
}

impl Loader for OrderListLoader {
    type Key = Token;
    type Row = Arc<OrderList>;
    const CONCURRENCY: usize = 2;
    /// Each brings a thousand orders.
    const MAX_KEYS: usize = 16;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        tenants: &[Token],
    ) -> sqlx::Result<HashMap<Token, Arc<OrderList>>> {
        self.metrics.confirm_statements.inc();
        let tenants: Vec<&str> = tenants.iter().map(Token::as_str).collect();
        let rows = sqlx::query!(
            r#"select tenant as "tenant!", start as "start!", xid as "xid!", at as "at!",
                      ids as "ids!", cores as "cores!", payments as "payments!",
                      xids as "xids!", ats as "ats!"
               from brigade.read_active_orders($1, $2)"#,
            era.as_sql(),
            &tenants as _,
        )
        .fetch_all(connection)
        .await?;
        rows.into_iter()
            .map(|row| {
                let moment = ListMoment { start: row.start, xid: row.xid, at: row.at };
                let orders = zip_columns(row.ids, row.cores, row.payments, row.xids, row.ats)?;
                let tenant = Token::new(&row.tenant).map_err(refused)?;
                Ok((tenant, Arc::new(OrderList::new(moment, orders))))
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
            .filter_map(|row| {
                let position = positions.get(usize::try_from(row.place - 1).ok()?)?.clone();
                let orders = zip_columns(row.ids, row.cores, row.payments, row.xids, row.ats);
                Some(orders.map(|orders| (position, Arc::new(orders))))
            })
            .collect()
    }
}

/// Converts the time of a position. One that is usable is no more than ten minutes from the
/// database's clock.
fn time_of(millis: i64) -> OffsetDateTime {
    let nanos = i128::from(millis) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Makes orders of columns, whose values are in the same order.
fn zip_columns(
    ids: Vec<String>,
    cores: Vec<i64>,
    payments: Vec<i64>,
    xids: Vec<i64>,
    ats: Vec<i64>,
) -> sqlx::Result<Vec<SnapshotOrder>> {
    let columns = ids.into_iter().zip(cores).zip(payments).zip(xids).zip(ats);
    columns
        .map(|((((id, core), payments), xid), at)| {
            let order = Token::new(&id).map_err(refused)?;
            let (core, payments) = (core.cast_unsigned(), payments.cast_unsigned());
            Ok(SnapshotOrder { order, core, payments, xid, at })
        })
        .collect()
}
