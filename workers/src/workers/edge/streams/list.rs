//! The active orders of a tenant, as a topic. Its position is that of the query.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use brigade_contracts::{
    Aggregate, Token,
    key::{self, Bucket},
};
use bytes::Bytes;

use super::{
    Edge,
    frame::{Frames, Kind, event, heartbeat},
    hub::Topic,
};
use crate::workers::edge::{
    list::{
        confirm::{Line, Listed},
        position::Position,
        row::Row,
    },
    reply::Reply,
};

pub struct ActiveOrders {
    tenant: Token,
    told: Option<Told>,
}

/// What all readers were told.
struct Told {
    listed: Arc<Listed>,
    position: Position,
    /// What changed before this moment, and may be said to have changed after it as well: while a
    /// transaction is open, the same changes come with each answer. Versions of lines, not of
    /// rows, which may be later.
    changed: HashMap<Token, (u64, u64)>,
    /// A reader was told that there are older rows: what comes into view is no change.
    cut: AtomicBool,
    /// What changed before this moment could not be told. While a transaction is open that is so
    /// with each answer, once there are too many changes.
    anew: bool,
}

impl Told {
    fn new(listed: Arc<Listed>, position: Position) -> Self {
        let changed = listed.shown().iter().filter(|line| position.precedes(line));
        let changed = changed.map(|line| (line.order.clone(), versions(line))).collect();
        Self { listed, position, changed, cut: AtomicBool::new(false), anew: false }
    }

    /// After these changes. One that had ended when they were asked for still stands in the list:
    /// whoever comes now shall not be told of it, as it is not told a second time that it ended.
    fn after(listed: &Arc<Listed>, position: Position, lines: Vec<Line>) -> Self {
        let changed: HashMap<_, _> =
            lines.into_iter().map(|line| (line.order.clone(), versions(&line))).collect();
        let is_later = |line: &Line| changed.get(&line.order).is_some_and(|v| *v != versions(line));
        let listed = Listed::without(listed, is_later);
        Self { changed, ..Self::new(listed, position) }
    }

    fn position(&self) -> Position {
        let whole = self.position.whole && !self.cut.load(Ordering::Relaxed);
        Position { whole, ..self.position.clone() }
    }

    /// Whether whoever was told everything has this list.
    fn is_same(&self, listed: &Listed) -> bool {
        let versions = self.listed.shown().iter().map(Line::versions);
        self.position.moment.start == listed.moment.start
            && self.listed.more() == listed.more()
            && versions.eq(listed.shown().iter().map(Line::versions))
    }
}

/// Frames, if there are any, and what was told with them.
type News = (Option<Bytes>, Told);

impl ActiveOrders {
    #[must_use]
    pub fn new(tenant: Token) -> Self {
        Self { tenant, told: None }
    }

    /// `None`: the changes cannot be told.
    async fn changes(
        &self,
        edge: &Edge,
        told: &Told,
        listed: &Arc<Listed>,
    ) -> Result<Option<News>, Reply> {
        let from = told.position();
        let Some(lines) = edge.lists.changed(&self.tenant, listed, &from).await? else {
            return Ok(None);
        };
        let is_new = |line: &&Line| told.changed.get(&line.order) != Some(&versions(line));
        let new: Vec<Line> = lines.iter().filter(is_new).cloned().collect();
        let Some(rows) = edge.lists.rows(&self.tenant, &new).await? else { return Ok(None) };
        let to = Position { moment: listed.moment, ..from.clone() };
        let news = (!rows.is_empty()).then(|| changes(&rows, &from.to_string(), &to.to_string()));
        edge.cx.metrics.stream_changes.inc_by(new.len() as u64);
        edge.cx.metrics.pushed(new.iter().map(|line| line.at));
        Ok(Some((news, Told::after(listed, to, lines))))
    }

    async fn anew(&self, edge: &Edge, told: &Told, listed: &Arc<Listed>) -> Result<News, Reply> {
        if told.is_same(listed) {
            let from = told.position();
            let whole = from.whole && !listed.more();
            let to = Position { moment: listed.moment, whole, ..from };
            return Ok((None, Told { anew: true, ..Told::new(listed.clone(), to) }));
        }
        let whole = edge.lists.whole(self.tenant.clone(), listed, true).await?;
        let news = event(Kind::Reset, &whole.position.to_string(), &whole.body);
        Ok((Some(news), Told { anew: true, ..Told::new(listed.clone(), whole.position) }))
    }
}

impl Topic for ActiveOrders {
    /// Of any part of an order, as soon as it is committed.
    fn wake(&self) -> String {
        Bucket::Versions.live(&key::versions_of(&self.tenant, Aggregate::Order))
    }

    fn position(&self) -> Option<String> {
        self.told.as_ref().map(|told| told.position().to_string())
    }

    /// All rows, each time.
    fn is_heavy(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.anew || !told.position().whole)
    }

    async fn advance(&mut self, edge: &Edge) -> Result<Option<Bytes>, Reply> {
        let listed = edge.lists.confirm(&self.tenant).await?;
        let (news, told) = match &self.told {
            None => {
                let (tenant, whole) = (self.tenant.clone(), !listed.more());
                let position = Position { tenant, moment: listed.moment, whole };
                (None, Told::new(listed, position))
            }
            Some(told) => match self.changes(edge, told, &listed).await? {
                Some(news) => news,
                None => self.anew(edge, told, &listed).await?,
            },
        };
        self.told = Some(told);
        Ok(news)
    }

    async fn first(&self, edge: &Edge, last: Option<&str>) -> Result<Bytes, Reply> {
        let told = self.told.as_ref().ok_or_else(Reply::unconfirmed)?;
        if let Some(from) = last.and_then(Position::parse)
            && let Some(lines) = edge.lists.changed(&self.tenant, &told.listed, &from).await?
            && let Some(rows) = edge.lists.rows(&self.tenant, &lines).await?
        {
            let to = Position { moment: told.listed.moment, ..from.clone() };
            return Ok(changes(&rows, &from.to_string(), &to.to_string()));
        }
        let whole = edge.lists.whole(self.tenant.clone(), &told.listed, last.is_some()).await?;
        told.cut.fetch_or(!whole.position.whole, Ordering::Relaxed);
        let kind = if last.is_some() { Kind::Reset } else { Kind::Snapshot };
        Ok(event(kind, &whole.position.to_string(), &whole.body))
    }
}

fn versions(line: &Line) -> (u64, u64) {
    (line.core, line.payments)
}

/// Only the last one carries the new position: a reader that got only some of them hears of all
/// of them again.
fn changes(rows: &[Arc<Row>], from: &str, to: &str) -> Bytes {
    let Some((last, others)) = rows.split_last() else { return heartbeat(to) };
    let mut frames = Frames::default();
    for row in others {
        frames.event(Kind::Change, from, row.text.get());
    }
    frames.event(Kind::Change, to, last.text.get());
    frames.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::edge::list::position::Moment;

    /// It ended after the list was read, and before the changes were.
    #[test]
    fn an_order_that_was_told_to_have_ended_is_in_no_snapshot() {
        let moment = Moment { start: 1, xid: 2, at: 2 };
        let position = Position { tenant: Token::new("t1").expect("a token"), moment, whole: true };
        let [ended, changed, other] = ["o1", "o2", "o3"].map(|order| Line::of(order, 1, 1));
        let listed = Listed::of(moment, vec![ended, changed.clone(), other.clone()]);
        let lines = vec![Line::of("o1", 2, 1), changed.clone()];
        let told = Told::after(&Arc::new(listed), position, lines);
        assert_eq!(told.listed.shown(), [changed, other]);
        assert_eq!(told.changed[&Token::new("o1").expect("a token")], (2, 1));
    }
}
