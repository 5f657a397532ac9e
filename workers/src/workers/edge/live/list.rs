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
    sse::{SseEventKind, SseEvents, heartbeat},
    topic::{Topic, TopicContext},
};
use crate::workers::edge::query::{
    QueryReply,
    list::{
        page::ListPage,
        position::ListPosition,
        row::ListRow,
        snapshot::{OrderList, SnapshotOrder},
    },
};

/// The active orders of a tenant.
pub struct ActiveOrdersTopic {
    tenant: Token,
    sent: Option<SentList>,
}

/// The list that all readers were sent.
struct SentList {
    list: Arc<OrderList>,
    position: ListPosition,
    /// The orders that changed before this position, and may seem to have changed after it as well:
    /// while a transaction is open, the same changes come with each query. The versions are those
    /// of the list, not of rows, which may be later.
    changed: HashMap<Token, (u64, u64)>,
    /// A reader was sent a list of which not all is followed: an order that comes into view is no
    /// change for it.
    is_cut: AtomicBool,
    /// The changes before this position were not known, so readers were reset. While a transaction
    /// is open that is so with each query, once there are too many changes.
    was_reset: bool,
}

impl SentList {
    fn new(list: Arc<OrderList>, position: ListPosition) -> Self {
        let changed = list.included().iter().filter(|order| position.precedes(order));
        let changed = changed.map(|order| (order.order.clone(), versions(order))).collect();
        Self { list, position, changed, is_cut: AtomicBool::new(false), was_reset: false }
    }

    /// Returns the list after these changes. An order that ended before the changes were read is
    /// still in the list: a reader that joins now shall not get it, since the others are not sent a
    /// second time that it ended.
    fn after_changes(
        list: &Arc<OrderList>,
        position: ListPosition,
        changed: Vec<SnapshotOrder>,
    ) -> Self {
        let changed: HashMap<_, _> =
            changed.into_iter().map(|order| (order.order.clone(), versions(&order))).collect();
        let is_later = |order: &SnapshotOrder| {
            changed.get(&order.order).is_some_and(|v| *v != versions(order))
        };
        let list = OrderList::without(list, is_later);
        Self { changed, ..Self::new(list, position) }
    }

    fn position(&self) -> ListPosition {
        let whole = self.position.whole && !self.is_cut.load(Ordering::Relaxed);
        ListPosition { whole, ..self.position.clone() }
    }

    /// Returns true if a reader that got everything has this list.
    fn is_same(&self, list: &OrderList) -> bool {
        let versions = self.list.included().iter().map(SnapshotOrder::versions);
        self.position.moment.start == list.moment.start
            && self.list.is_cut() == list.is_cut()
            && versions.eq(list.included().iter().map(SnapshotOrder::versions))
    }
}

/// The events for all readers, if there are any, and the list that they have after them.
type ListUpdate = (Option<Bytes>, SentList);

impl ActiveOrdersTopic {
    /// Creates the topic of a tenant's active orders.
    #[must_use]
    pub fn new(tenant: Token) -> Self {
        Self { tenant, sent: None }
    }

    /// Returns the changes since the last query; `None` if they are not known.
    async fn update_by_changes(
        &self,
        context: &TopicContext,
        sent: &SentList,
        list: &Arc<OrderList>,
    ) -> Result<Option<ListUpdate>, QueryReply> {
        let (lists, metrics) = (&context.queries.lists, &context.metrics);
        let from = sent.position();
        let Some(changed) = lists.changed(&self.tenant, list, &from).await? else {
            return Ok(None);
        };
        let is_new =
            |order: &&SnapshotOrder| sent.changed.get(&order.order) != Some(&versions(order));
        let new: Vec<SnapshotOrder> = changed.iter().filter(is_new).cloned().collect();
        let Some(rows) = lists.rows(&self.tenant, &new).await? else { return Ok(None) };
        let to = ListPosition { moment: list.moment, ..from.clone() };
        let events =
            (!rows.is_empty()).then(|| change_events(&rows, &from.to_string(), &to.to_string()));
        metrics.stream_changes.inc_by(new.len() as u64);
        metrics.record_pushed(new.iter().map(|order| order.at));
        Ok(Some((events, SentList::after_changes(list, to, changed))))
    }

    /// Returns the whole list, unless the readers have it.
    async fn update_by_reset(
        &self,
        context: &TopicContext,
        sent: &SentList,
        list: &Arc<OrderList>,
    ) -> Result<ListUpdate, QueryReply> {
        if sent.is_same(list) {
            let from = sent.position();
            let whole = from.whole && !list.is_cut();
            let to = ListPosition { moment: list.moment, whole, ..from };
            return Ok((None, SentList { was_reset: true, ..SentList::new(list.clone(), to) }));
        }
        let pages = context.queries.lists.pages(self.tenant.clone(), list, true).await?;
        let (events, position) = page_events(SseEventKind::Reset, &pages)?;
        let sent = SentList::new(list.clone(), position);
        Ok((Some(events), SentList { was_reset: true, ..sent }))
    }
}

impl Topic for ActiveOrdersTopic {
    fn tenant(&self) -> &Token {
        &self.tenant
    }

    /// A push for any part of an order, as soon as it is committed.
    fn wake_subject(&self) -> String {
        Bucket::Versions.live(&key::versions_of(&self.tenant, Aggregate::Order))
    }

    fn position(&self) -> Option<String> {
        self.sent.as_ref().map(|sent| sent.position().to_string())
    }

    /// All rows are sent each time.
    fn is_heavy(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.was_reset || !sent.position().whole)
    }

    async fn advance(&mut self, context: &TopicContext) -> Result<Option<Bytes>, QueryReply> {
        let list = context.queries.lists.confirm(&self.tenant).await?;
        let (events, sent) = match &self.sent {
            None => {
                let (tenant, whole) = (self.tenant.clone(), !list.is_cut());
                let position = ListPosition { tenant, moment: list.moment, whole };
                (None, SentList::new(list, position))
            }
            Some(sent) => match self.update_by_changes(context, sent, &list).await? {
                Some(update) => update,
                None => self.update_by_reset(context, sent, &list).await?,
            },
        };
        self.sent = Some(sent);
        Ok(events)
    }

    async fn catch_up(
        &self,
        context: &TopicContext,
        last_event_id: Option<&str>,
    ) -> Result<Bytes, QueryReply> {
        let lists = &context.queries.lists;
        let sent = self.sent.as_ref().ok_or_else(QueryReply::unconfirmed)?;
        if let Some(from) = last_event_id.and_then(ListPosition::parse)
            && let Some(changed) = lists.changed(&self.tenant, &sent.list, &from).await?
            && let Some(rows) = lists.rows(&self.tenant, &changed).await?
        {
            let to = ListPosition { moment: sent.list.moment, ..from.clone() };
            return Ok(change_events(&rows, &from.to_string(), &to.to_string()));
        }
        let is_resumed = last_event_id.is_some();
        let pages = lists.pages(self.tenant.clone(), &sent.list, is_resumed).await?;
        let kind = if is_resumed { SseEventKind::Reset } else { SseEventKind::Snapshot };
        let (events, position) = page_events(kind, &pages)?;
        sent.is_cut.fetch_or(!position.whole, Ordering::Relaxed);
        Ok(events)
    }
}

/// Returns one event for each page, the first one of this kind, and the position after them. Only
/// the last one carries a position that is of use: a reader that got only some gets all of them again.
fn page_events(
    first: SseEventKind,
    pages: &[ListPage],
) -> Result<(Bytes, ListPosition), QueryReply> {
    let mut events = SseEvents::default();
    let mut kind = first;
    for page in pages {
        events.push(kind, &page.position.to_string(), &String::from_utf8_lossy(&page.body));
        kind = SseEventKind::More;
    }
    let last = pages.last().ok_or_else(QueryReply::unconfirmed)?;
    Ok((events.into_bytes(), last.position.clone()))
}

fn versions(order: &SnapshotOrder) -> (u64, u64) {
    (order.core, order.payments)
}

/// Returns one event for each row. Only the last one carries the new position: a reader that got
/// only some of them gets all of them again.
fn change_events(rows: &[Arc<ListRow>], from: &str, to: &str) -> Bytes {
    let Some((last, others)) = rows.split_last() else { return heartbeat(to) };
    let mut events = SseEvents::default();
    for row in others {
        events.push(SseEventKind::Change, from, row.text.get());
    }
    events.push(SseEventKind::Change, to, last.text.get());
    events.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::edge::query::list::snapshot::ListMoment;

    /// It ended after the list was read, and before the changes were.
    #[test]
    fn an_order_that_was_told_to_have_ended_is_in_no_snapshot() {
        let moment = ListMoment { start: 1, xid: 2, at: 2 };
        let tenant = Token::new("t1").expect("a token");
        let position = ListPosition { tenant, moment, whole: true };
        let [ended, changed, other] =
            ["o1", "o2", "o3"].map(|order| SnapshotOrder::of_versions(order, 1, 1));
        let list = OrderList::new(moment, vec![ended, changed.clone(), other.clone()], 1000);
        let changes = vec![SnapshotOrder::of_versions("o1", 2, 1), changed.clone()];
        let sent = SentList::after_changes(&Arc::new(list), position, changes);
        assert_eq!(sent.list.included(), [changed, other]);
        assert_eq!(sent.changed[&Token::new("o1").expect("a token")], (2, 1));
    }
}
