//! The statements that say which rows there are, and of which versions.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Token, list::MAX_ROWS};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    Versions,
    position::{Moment, Position},
};
use crate::{infra::Metrics, store::rows::refused, workers::edge::together::Question};

/// An order, without what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub order: Token,
    /// Versions of its parts.
    pub core: u64,
    pub payments: u64,
    /// The transaction that wrote it last: the lower 32 bits of its number.
    pub xid: i64,
    /// Of its last change: the database's clock, in milliseconds of the Unix time.
    pub at: i64,
}

impl Line {
    #[must_use]
    pub fn versions(&self) -> Versions<'_> {
        (&self.order, self.core, self.payments)
    }
}

#[cfg(test)]
impl Line {
    pub fn of(order: &str, core: u64, payments: u64) -> Self {
        Self { order: Token::new(order).expect("a token"), core, payments, xid: 1, at: 1 }
    }
}

/// The active orders of a tenant at a moment, newest first: at most one more than is shown.
#[derive(Debug)]
pub struct Listed {
    pub moment: Moment,
    lines: Vec<Line>,
}

impl Listed {
    /// Those that an answer shows.
    #[must_use]
    pub fn shown(&self) -> &[Line] {
        &self.lines[..self.lines.len().min(MAX_ROWS)]
    }

    /// Those of a list that is not cut, but some.
    #[must_use]
    pub fn without(listed: &Arc<Self>, is_left_out: impl Fn(&Line) -> bool) -> Arc<Self> {
        if !listed.lines.iter().any(&is_left_out) {
            return listed.clone();
        }
        let lines = listed.lines.iter().filter(|line| !is_left_out(line)).cloned().collect();
        Arc::new(Self { moment: listed.moment, lines })
    }

    /// Whether there are older ones.
    #[must_use]
    pub fn more(&self) -> bool {
        self.lines.len() > MAX_ROWS
    }
}

#[cfg(test)]
impl Listed {
    pub fn of(moment: Moment, lines: Vec<Line>) -> Self {
        Self { moment, lines }
    }
}

/// Asks for the active orders of tenants. Every tenant has an answer.
pub struct Confirm {
    pub metrics: Arc<Metrics>,
}

impl Question for Confirm {
    type Key = Token;
    type Row = Arc<Listed>;
    const AT_ONCE: usize = 2;
    /// A thousand orders each.
    const MAX_KEYS: usize = 16;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        tenants: &[Token],
    ) -> sqlx::Result<HashMap<Token, Arc<Listed>>> {
        self.metrics.confirm_statements.inc();
        let asked: Vec<&str> = tenants.iter().map(Token::as_str).collect();
        let rows = sqlx::query_file!("src/workers/edge/list/confirm.sql", &asked as _)
            .fetch_all(connection)
            .await?;
        rows.into_iter()
            .map(|row| {
                let moment = Moment { start: row.start, xid: row.xid, at: row.at };
                let lines = lines(row.ids, row.cores, row.payments, row.xids, row.ats)?;
                let tenant = Token::new(&row.tenant).map_err(refused)?;
                Ok((tenant, Arc::new(Listed { moment, lines })))
            })
            .collect()
    }
}

/// Asks which orders have ended since a position: at most one more than is told.
pub struct Ended;

impl Question for Ended {
    type Key = Position;
    type Row = Arc<Vec<Line>>;
    const AT_ONCE: usize = 1;
    /// A thousand orders each.
    const MAX_KEYS: usize = 16;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        positions: &[Position],
    ) -> sqlx::Result<HashMap<Position, Arc<Vec<Line>>>> {
        let tenants: Vec<&str> = positions.iter().map(|p| p.tenant.as_str()).collect();
        let xids: Vec<i64> = positions.iter().map(|p| p.moment.xid).collect();
        let times: Vec<OffsetDateTime> = positions.iter().map(|p| time_of(p.moment.at)).collect();
        let rows =
            sqlx::query_file!("src/workers/edge/list/ended.sql", &tenants as _, &xids, &times)
                .fetch_all(connection)
                .await?;
        rows.into_iter()
            .filter_map(|row| {
                let position = positions.get(usize::try_from(row.place - 1).ok()?)?.clone();
                let lines = lines(row.ids, row.cores, row.payments, row.xids, row.ats);
                Some(lines.map(|lines| (position, Arc::new(lines))))
            })
            .collect()
    }
}

/// A position that is of use is no more than ten minutes from the database's clock.
fn time_of(millis: i64) -> OffsetDateTime {
    let nanos = i128::from(millis) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn lines(
    ids: Vec<String>,
    cores: Vec<i64>,
    payments: Vec<i64>,
    xids: Vec<i64>,
    ats: Vec<i64>,
) -> sqlx::Result<Vec<Line>> {
    let columns = ids.into_iter().zip(cores).zip(payments).zip(xids).zip(ats);
    columns
        .map(|((((id, core), payments), xid), at)| {
            let order = Token::new(&id).map_err(refused)?;
            let (core, payments) = (core.cast_unsigned(), payments.cast_unsigned());
            Ok(Line { order, core, payments, xid, at })
        })
        .collect()
}
