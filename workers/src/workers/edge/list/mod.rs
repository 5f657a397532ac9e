//! The active orders of a tenant: those that are neither completed nor cancelled.
//!
//! One statement says which orders there are, of which versions, once for all who wait
//! ([`confirm`]). From that alone comes the ETag, a hash over (order, core version, payment
//! version), so it is the same from any edge; if the asker has it, nothing else is read. Else the
//! rows come from memory, by order and exactly these versions, and what is missing from SQL
//! ([`rows`]). Such a row may be a later one by then: the ETag is made of what is answered, so one
//! ETag still names one list, byte for byte; only the position (`resume`) is no part of it, being
//! a name for the moment and not for the content. A row is the core row as it stands in KV, with
//! `version`, `at` and `change`, and `payment` and `due`. A watch on KV keeps memory warm
//! ([`watch`]); what is late or lost there is read from SQL. `Confirm: kv` finds no counter for a
//! list there and is `503 unconfirmed` as everything else while Postgres is away.
//!
//! **Resume.** A [`Position`] is a moment of the statement above: what it saw was committed by
//! transactions below `xid`, the oldest one that had not ended. Whatever it did not see is of
//! that transaction or a later one, and every row tells the transaction that wrote it last. So
//! what has changed since is told exactly by SQL alone, without a stream, a sequence or a clock
//! that might skip something: the active orders that the confirming statement marks so, and
//! those that ended ([`confirm::Ended`], a statement that starts after it, so an order is in one
//! of the two whenever it ends). The position of an answer is always that of the first statement:
//! rows are read later, so what they show is no older, and what changes meanwhile is told again
//! next time rather than never. Rows that are newer than their position do no harm for the same
//! reason. Applying the changes to the rows of the position gives the rows of a fresh answer.
//!
//! Everything (`reset`) is answered to a position of another tenant, of another start of Postgres
//! (numbers of transactions that were lost in a failover are given again), older than ten minutes,
//! or of no known form, which is no malformed header since positions of other builds are such; as
//! well to one of a list that was cut, or where the present one is (an order that nothing happened
//! to may come into view when another one ends), and where there are more changes than fit.

pub mod confirm;
mod memory;
pub mod position;
pub mod row;
pub mod rows;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use brigade_contracts::{
    Token,
    list::{List, ListChanges, ListHeaders, MAX_BYTES, MAX_ROWS},
};
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio_util::task::AbortOnDropHandle;

use self::{
    confirm::{Confirm, Ended, Line, Listed},
    position::Position,
    row::Row,
    rows::Rows,
};
use super::{Edge, database::Database, reply::Reply, together::Together};
use crate::infra::Context;

/// An order and the versions of its parts.
pub type Versions<'a> = (&'a Token, u64, u64);

/// What stands around the rows of an answer takes less.
const FRAME: usize = 512;

/// What the queries of lists share.
pub struct Lists {
    confirmer: Together<Confirm>,
    ended: Together<Ended>,
    rows: Arc<Rows>,
    _watch: Option<AbortOnDropHandle<()>>,
}

impl Lists {
    #[must_use]
    pub fn new(database: &Arc<Database>, cx: &Context, cache: bool) -> Self {
        let rows = Arc::new(Rows::new(database, cx, cache));
        Self {
            confirmer: Together::new(database, Confirm { metrics: cx.metrics.clone() }),
            ended: Together::new(database, Ended),
            _watch: cache.then(|| watch::start(cx, &rows)),
            rows,
        }
    }
}

impl Edge {
    pub(super) async fn active_orders(
        &self,
        tenant: Token,
        asked: &ListHeaders,
    ) -> Result<Reply, Reply> {
        let listed = self.lists.confirm(&tenant).await?;
        self.cx.fail.point("edge.after_list_confirm").await;
        let tag = tag_of(listed.shown().iter().map(Line::versions), listed.more());
        if asked.has(&tag) {
            return Ok(Reply::not_modified(quoted(&tag)));
        }
        let reset = match &asked.resume {
            None => false,
            Some(resume) => match Position::parse(resume) {
                Some(from) => match self.changes(&tenant, &listed, from).await? {
                    Some(reply) => return Ok(reply),
                    None => true,
                },
                None => true,
            },
        };
        self.list(tenant, &listed, reset).await
    }

    async fn list(&self, tenant: Token, listed: &Listed, reset: bool) -> Result<Reply, Reply> {
        let Whole { tag, body, .. } = self.lists.whole(tenant, listed, reset).await?;
        Ok(Reply { etag: Some(quoted(&tag)), ..Reply::ok(body) })
    }

    /// What has changed since a position; `None`: that cannot be told, or has no room.
    async fn changes(
        &self,
        tenant: &Token,
        listed: &Listed,
        from: Position,
    ) -> Result<Option<Reply>, Reply> {
        let Some(lines) = self.lists.changed(tenant, listed, &from).await? else { return Ok(None) };
        let Some(rows) = self.lists.rows(tenant, &lines).await? else { return Ok(None) };
        let found: HashMap<&Token, &Row> = rows.iter().map(|row| (&row.order, &**row)).collect();
        // The list that comes of it.
        let now = listed.shown().iter().filter_map(|line| match found.get(&line.order) {
            Some(row) => row.active.then(|| row.versions()),
            None => Some(line.versions()),
        });
        let tag = tag_of(now, false);
        let resume = Position { moment: listed.moment, ..from }.to_string();
        let changes = rows.iter().map(|row| &*row.text).collect();
        Ok(Some(answer(&tag, &ListChanges { changes, resume: &resume })))
    }
}

/// A list as it is answered.
pub struct Whole {
    tag: String,
    pub position: Position,
    pub body: Bytes,
}

impl Lists {
    /// The active orders of a tenant, by a statement that starts after they were asked for.
    ///
    /// # Errors
    /// `503 unconfirmed` where Postgres does not answer.
    pub async fn confirm(&self, tenant: &Token) -> Result<Arc<Listed>, Reply> {
        let listed = self.confirmer.get(tenant.clone()).await.ok().flatten();
        listed.ok_or_else(Reply::unconfirmed)
    }

    /// All rows.
    ///
    /// # Errors
    /// `503 unconfirmed` where Postgres does not answer.
    pub async fn whole(&self, tenant: Token, listed: &Listed, reset: bool) -> Result<Whole, Reply> {
        let rows = self.rows.find(&tenant, listed.shown().iter()).await;
        let mut rows = rows.map_err(|_| Reply::unconfirmed())?;
        rows.retain(|row| row.active);
        let tag = tag_of(rows.iter().map(|row| row.versions()), listed.more());
        let fitting = fitting(&rows);
        let more = listed.more() || fitting < rows.len();
        let position = Position { tenant, moment: listed.moment, whole: !more };
        let resume = position.to_string();
        let rows = rows[..fitting].iter().map(|row| &*row.text).collect();
        let body = written(&List { reset, rows, more, resume: &resume });
        Ok(Whole { tag, position, body })
    }

    /// The orders that have changed since a position, in the order in which it happened; `None`:
    /// that cannot be told, or they are too many.
    ///
    /// # Errors
    /// `503 unconfirmed` where Postgres does not answer.
    pub async fn changed(
        &self,
        tenant: &Token,
        listed: &Listed,
        from: &Position,
    ) -> Result<Option<Vec<Line>>, Reply> {
        if listed.more() || !from.is_of_use(tenant, &listed.moment) {
            return Ok(None);
        }
        let ended = self.ended.get(from.clone()).await.map_err(|_| Reply::unconfirmed())?;
        let ended = ended.unwrap_or_default();
        // One that has ended meanwhile stands in both.
        let gone: HashSet<&Token> = ended.iter().map(|line| &line.order).collect();
        let still = listed.shown().iter().filter(|line| !gone.contains(&line.order));
        let mut changed: Vec<Line> =
            ended.iter().chain(still.filter(|line| from.precedes(line))).cloned().collect();
        changed.sort_by(|a, b| (a.at, &a.order).cmp(&(b.at, &b.order)));
        Ok((changed.len() <= MAX_ROWS).then_some(changed))
    }

    /// The rows of changed orders; `None`: an answer has no room for them.
    ///
    /// # Errors
    /// `503 unconfirmed` where Postgres does not answer.
    pub async fn rows(
        &self,
        tenant: &Token,
        lines: &[Line],
    ) -> Result<Option<Vec<Arc<Row>>>, Reply> {
        let rows = self.rows.find(tenant, lines.iter()).await;
        let rows = rows.map_err(|_| Reply::unconfirmed())?;
        Ok((fitting(&rows) == rows.len()).then_some(rows))
    }
}

fn answer(tag: &str, body: &impl Serialize) -> Reply {
    Reply { etag: Some(quoted(tag)), ..Reply::ok(written(body)) }
}

fn written(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("rows that are JSON, flags and words serialise").into()
}

fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

/// How many rows, from the first one on, an answer has room for.
fn fitting(rows: &[Arc<Row>]) -> usize {
    let mut left = MAX_BYTES - FRAME;
    rows.iter()
        .take_while(|row| {
            let fits = left.checked_sub(row.text.get().len() + 1);
            left = fits.unwrap_or(0);
            fits.is_some()
        })
        .count()
}

/// What an ETag holds: the first 128 bits of SHA-256. How many of these rows have room in an
/// answer follows from what they are; that there are older ones does not.
fn tag_of<'a>(rows: impl Iterator<Item = Versions<'a>>, more: bool) -> String {
    let mut hash = Sha256::new();
    hash.update(if more { "list and more\n" } else { "list\n" });
    for (order, core, payments) in rows {
        hash.update(format!("{order} {core} {payments}\n"));
    }
    hex::encode(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn row(size: usize) -> Arc<Row> {
        let text = RawValue::from_string(format!("\"{}\"", "x".repeat(size - 2)));
        Arc::new(Row::of_text(text.expect("JSON")))
    }

    proptest! {
        #[test]
        fn an_answer_has_room_for_what_fits(sizes in prop::collection::vec(2..400_000_usize, 0..12)) {
            let rows: Vec<_> = sizes.iter().map(|size| row(*size)).collect();
            let fitting = fitting(&rows);
            let taken: usize = sizes[..fitting].iter().map(|size| size + 1).sum();
            prop_assert!(taken + FRAME <= MAX_BYTES);
            if let Some(next) = sizes.get(fitting) {
                prop_assert!(taken + next + 1 + FRAME > MAX_BYTES);
            }
        }

        #[test]
        fn one_etag_names_one_list(
            a in prop::collection::vec(("[a-c]{1,2}", 1..3_u64, 1..3_u64), 0..4),
            b in prop::collection::vec(("[a-c]{1,2}", 1..3_u64, 1..3_u64), 0..4),
            more: (bool, bool),
        ) {
            let tag = |rows: &[(String, u64, u64)], more| {
                let rows: Vec<Line> = rows.iter().map(|(o, c, p)| Line::of(o, *c, *p)).collect();
                tag_of(rows.iter().map(Line::versions), more)
            };
            prop_assert_eq!(tag(&a, more.0) == tag(&b, more.1), (&a, more.0) == (&b, more.1));
        }
    }

    #[test]
    fn the_frame_has_room_for_the_longest_position() {
        let tenant = Token::new(&"t".repeat(Token::MAX_LEN)).expect("a token");
        let moment = position::Moment { start: i64::MAX, xid: i64::MAX, at: i64::MAX };
        let resume = Position { tenant, moment, whole: false }.to_string();
        let list = List { reset: true, rows: vec![], more: true, resume: &resume };
        assert!(serde_json::to_vec(&list).expect("JSON").len() < FRAME);
    }

    #[test]
    fn an_etag_never_changes_for_the_same_list() {
        let lines = [Line::of("o2", 3, 1), Line::of("o1", 1, 1)];
        let tag = tag_of(lines.iter().map(Line::versions), false);
        assert_eq!(tag, "6d89fdc52dc7f829ba7bc8b9f6b21c84");
    }
}
