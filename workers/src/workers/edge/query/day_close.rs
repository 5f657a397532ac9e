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

use super::{
    batch_loader::BatchLoader,
    database::ReadDatabase,
    loader::{Loader, key_at},
    reply::QueryReply,
};
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

/// The sums of a method in a currency: what many payments add up to need not fit into an amount.
#[derive(Deserialize)]
struct Sums {
    method: Method,
    currency: Currency,
    captured: String,
    applied: String,
    refunded: String,
    owed: String,
    settled: String,
}

impl Sums {
    /// Returns the line. A sum that is no amount is shown as the largest or least one; the balance is
    /// that of the sums themselves.
    fn line(self) -> sqlx::Result<DayCloseLine> {
        let sum =
            |text: &str| text.parse::<i128>().map_err(|error| sqlx::Error::Decode(error.into()));
        let captured = sum(&self.captured)?;
        let [applied, refunded, owed, settled] =
            [sum(&self.applied)?, sum(&self.refunded)?, sum(&self.owed)?, sum(&self.settled)?];
        let balance = captured - (applied + refunded + owed + settled);
        let [captured, applied, refunded, owed, settled, balance] =
            [captured, applied, refunded, owed, settled, balance].map(amount);
        let Self { method, currency, .. } = self;
        Ok(DayCloseLine { method, currency, captured, applied, refunded, owed, settled, balance })
    }
}

fn amount(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
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
            let key = key_at(keys, place)?;
            let sums: Vec<Sums> = parse(lines)?;
            let lines = sums.into_iter().map(Sums::line).collect::<sqlx::Result<Vec<_>>>()?;
            let balanced = lines.iter().all(|line| line.balance == 0);
            let close = DayClose { from: begins.into(), to: ends.into(), lines, balanced };
            Ok((key.clone(), Arc::new(close)))
        };
        rows.iter().map(|row| close(row.place, row.begins, row.ends, &row.lines)).collect()
    }
}
