//! Queries of day closes: the sums of the ledger of money in a time.
//!
//! Each is read from SQL, where the rows of the time are added up by index: 10,000 take some
//! milliseconds.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{
    Currency, Era, Timestamp, Token,
    day_close::{DayClose, DayCloseLine, DayCloseRange},
    payment::Method,
};
use serde::Deserialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{batch_loader::BatchLoader, database::ReadDatabase, loader::Loader, reply::QueryReply};
use crate::store::rows::parse;

/// Answers queries of day closes.
pub struct DayCloses {
    closes: BatchLoader<DayCloseLoader>,
}

impl DayCloses {
    /// Reads the ledger from this database.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>) -> Self {
        Self { closes: BatchLoader::new(database, DayCloseLoader) }
    }

    /// Returns the close of a time.
    ///
    /// # Errors
    /// `503 unconfirmed`.
    pub async fn get(&self, tenant: Token, range: DayCloseRange) -> Result<QueryReply, QueryReply> {
        let close = self.closes.load((tenant, range)).await?;
        Ok(QueryReply::json(&*close.ok_or_else(QueryReply::unconfirmed)?))
    }
}

/// The sums of a method in a currency.
#[derive(Deserialize)]
struct Sums {
    method: Method,
    currency: Currency,
    captured: i64,
    applied: i64,
    refunded: i64,
    owed: i64,
    settled: i64,
}

impl From<Sums> for DayCloseLine {
    fn from(sums: Sums) -> Self {
        let Sums { method, currency, captured, applied, refunded, owed, settled } = sums;
        let accounted = [applied, refunded, owed, settled].map(i128::from).iter().sum::<i128>();
        // What does not fit is no balance either.
        let balance = i64::try_from(i128::from(captured) - accounted).unwrap_or(i64::MAX);
        Self { method, currency, captured, applied, refunded, owed, settled, balance }
    }
}

/// Adds up the ledger.
pub struct DayCloseLoader;

impl Loader for DayCloseLoader {
    type Key = (Token, DayCloseRange);
    type Row = Arc<DayClose>;
    /// Rare, and each may read a month.
    const CONCURRENCY: usize = 1;
    const MAX_KEYS: usize = 4;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[Self::Key],
    ) -> sqlx::Result<HashMap<Self::Key, Arc<DayClose>>> {
        let tenants: Vec<&str> = keys.iter().map(|(tenant, _)| tenant.as_str()).collect();
        let times = |of: fn(&DayCloseRange) -> Option<Timestamp>| {
            let times = keys.iter().map(|(_, range)| of(range).map(Timestamp::inner));
            times.collect::<Vec<Option<OffsetDateTime>>>()
        };
        let (from, to) = (times(|range| range.from), times(|range| range.to));
        let rows = sqlx::query!(
            r#"select place as "place!", begins as "begins!", ends as "ends!", lines as "lines!"
               from brigade.read_day_closes($1, $2, $3, $4)"#,
            era.as_sql(),
            &tenants as _,
            &from as _,
            &to as _,
        )
        .fetch_all(connection)
        .await?;
        let close = |place: i64, begins: OffsetDateTime, ends: OffsetDateTime, lines: &str| {
            let at = usize::try_from(place - 1).ok();
            let key = at.and_then(|at| keys.get(at)).ok_or(sqlx::Error::RowNotFound)?;
            let sums: Vec<Sums> = parse(lines)?;
            let lines: Vec<_> = sums.into_iter().map(DayCloseLine::from).collect();
            let balanced = lines.iter().all(|line| line.balance == 0);
            let close = DayClose { from: begins.into(), to: ends.into(), lines, balanced };
            Ok((key.clone(), Arc::new(close)))
        };
        rows.iter().map(|row| close(row.place, row.begins, row.ends, &row.lines)).collect()
    }
}
