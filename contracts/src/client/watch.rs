//! Watches: what is pushed, and what polls find that no push told.

use std::{collections::VecDeque, time::Duration};

use async_nats::{HeaderMap, Message};
use serde::Deserialize;

use super::{
    Client, ClientError, ConfirmedView,
    orders::{ActiveOrders, ListPosition, ListResponse, ListedOrder, OrderListChange},
    source::{Wake, WatchSource},
};
use crate::{
    Address, Era, EraVersion, Part, Token,
    header::{AFTER, ETAG, IF_NONE_MATCH, RESUME},
    key::{self, Bucket, Versions},
    list::ActiveRow,
    subject,
};

/// The time between two polls of a watch, besides what is pushed.
const EVERY: Duration = Duration::from_secs(5);

impl Client {
    /// Keeps the list of a tenant's active orders, from a `list` that was kept earlier or an empty
    /// one. It goes on while somebody waits for [`OrdersWatch::next`].
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn watch_active_orders(
        &self,
        tenant: &Token,
        list: ActiveOrders,
    ) -> Result<OrdersWatch, ClientError> {
        let pushes = Bucket::ActiveOrders.live(&key::all_of(tenant));
        let source = WatchSource::new(self, pushes, EVERY).await?;
        Ok(OrdersWatch { source, tenant: tenant.clone(), list, news: VecDeque::new() })
    }

    /// Keeps up with the view of an aggregate that has one, which may not be there yet. It goes on
    /// while somebody waits for [`ViewWatch::next`].
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn watch_view(&self, address: &Address) -> Result<ViewWatch, ClientError> {
        let pushes = Bucket::Versions.live(&key::versions(address));
        let source = WatchSource::new(self, pushes, EVERY).await?;
        Ok(ViewWatch { source, address: address.clone(), version: EraVersion::default() })
    }

    /// Asks for the list, all pages of it, or for what changed in it.
    async fn active_orders(
        self,
        tenant: Token,
        at: Option<ListPosition>,
    ) -> Result<ListResponse, ClientError> {
        let mut headers = HeaderMap::new();
        if let Some(ListPosition { resume, etag }) = at {
            headers.insert(RESUME, resume);
            if let Some(etag) = etag {
                headers.insert(IF_NONE_MATCH, etag);
            }
        }
        let Some((mut page, mut at)) = self.page_of_orders(&tenant, headers).await? else {
            return Ok(ListResponse::Same);
        };
        let mut rows = match (page.rows.take(), page.changes.take()) {
            (Some(rows), _) => rows,
            (None, Some(changes)) => return Ok(ListResponse::Changes { changes, at }),
            (None, None) => return Err(unreadable("neither rows nor changes")),
        };
        // The position of the last page is that of the first one.
        while let Some(next) = page.next.take() {
            let mut headers = HeaderMap::new();
            headers.insert(AFTER, next);
            let answer = self.page_of_orders(&tenant, headers).await?;
            (page, at) = answer.ok_or_else(|| unreadable("a page of nothing"))?;
            rows.extend(page.rows.take().unwrap_or_default());
        }
        Ok(ListResponse::Rows { rows, more: page.more, at })
    }

    /// Asks for a page; `None`: the client has it.
    async fn page_of_orders(
        &self,
        tenant: &Token,
        headers: HeaderMap,
    ) -> Result<Option<(ListBody, ListPosition)>, ClientError> {
        let subject = subject::query_active_orders(tenant);
        match self.ask(subject, headers, Vec::new()).await? {
            (200, reply) => read_page(&reply).map(Some),
            (304, _) => Ok(None),
            (status, reply) => Err(ClientError::Refused(status, super::body(&reply))),
        }
    }
}

/// A list of active orders that keeps up with what happens.
///
/// Pushed rows are in the list at once. It also polls, and queries the changes as soon as a lost
/// connection is back, since pushes in between are lost.
pub struct OrdersWatch {
    source: WatchSource<(u64, Result<ListResponse, ClientError>)>,
    tenant: Token,
    list: ActiveOrders,
    /// Changes that are in the list already, and that nobody has taken yet.
    news: VecDeque<OrderListChange>,
}

impl OrdersWatch {
    /// The same with another interval of polls.
    #[must_use]
    pub fn polling_every(mut self, every: Duration) -> Self {
        self.source.set_every(every);
        self
    }

    /// The rows, newest first.
    #[must_use]
    pub fn rows(&self) -> Vec<ListedOrder> {
        self.list.rows()
    }

    /// The list with its position, to be kept for a later watch.
    #[must_use]
    pub fn list(&self) -> &ActiveOrders {
        &self.list
    }

    /// Waits for the next change. Dropped while it waits, it loses nothing.
    ///
    /// # Errors
    /// [`ClientError::Closed`], after which nothing comes any more; [`ClientError::Refused`] and
    /// [`ClientError::Unreadable`] of a poll, after which the next call goes on.
    pub async fn next(&mut self) -> Result<OrderListChange, ClientError> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
            }
            match self.source.next().await {
                Wake::Push(message) => {
                    let news = self.pushed(&message);
                    self.news.extend(news);
                }
                Wake::Due => {
                    let asked = self.list.ask();
                    let (client, at) = (self.source.client.clone(), self.list.at().cloned());
                    let answer = client.active_orders(self.tenant.clone(), at);
                    self.source.query(async move { (asked, answer.await) });
                }
                Wake::Answer((asked, Ok(answer))) => {
                    self.news.extend(self.list.answer(asked, answer));
                }
                Wake::Answer((_, Err(ClientError::TimedOut(_) | ClientError::Refused(503, _)))) => {
                    self.source.retry();
                }
                Wake::Answer((_, Err(error))) => return Err(error),
                Wake::Closed => return Err(ClientError::Closed),
            }
        }
    }

    /// Whatever is no row is left to the next poll, such as the marker of a key that expired.
    fn pushed(&mut self, message: &Message) -> Option<OrderListChange> {
        let (order, part) = key::parse_active_order(&message.subject)?;
        let era = serde_json::from_slice::<PushedEra>(&message.payload).ok()?.era;
        if self.list.at().is_some_and(|at| at.era() != era) {
            // The next answer is of the new era, all of it.
            self.source.hurry();
            return None;
        }
        match part {
            Part::Payments => {
                let payment = serde_json::from_slice(&message.payload).ok()?;
                self.list.push_payment(&order.id, payment)
            }
            _ => self.list.push_core(serde_json::from_slice(&message.payload).ok()?),
        }
    }
}

/// A view that keeps up with what happens.
pub struct ViewWatch {
    source: WatchSource<Result<ConfirmedView, ClientError>>,
    address: Address,
    /// The version that was returned last.
    version: EraVersion,
}

impl ViewWatch {
    /// The same with another interval of polls.
    #[must_use]
    pub fn polling_every(mut self, every: Duration) -> Self {
        self.source.set_every(every);
        self
    }

    /// Waits for a view of a higher version than the last one; versions between the two may have
    /// passed. Dropped while it waits, it loses nothing.
    ///
    /// # Errors
    /// As [`OrdersWatch::next`].
    pub async fn next(&mut self) -> Result<ConfirmedView, ClientError> {
        loop {
            match self.source.next().await {
                Wake::Push(message) => {
                    let versions = serde_json::from_slice::<Versions>(&message.payload);
                    let pushed = versions.ok().map(|new| new.era.at(new.version));
                    if let Some(pushed) = pushed.filter(|pushed| *pushed > self.version) {
                        self.source.client.heard(&self.address, pushed);
                        self.source.hurry();
                    }
                }
                Wake::Due => {
                    let (client, address) = (self.source.client.clone(), self.address.clone());
                    self.source.query(async move { client.view(&address).await });
                }
                Wake::Answer(Ok(view)) if view.version > self.version => {
                    self.version = view.version;
                    return Ok(view);
                }
                // There is none yet: a push or the next poll tells.
                Wake::Answer(Ok(_) | Err(ClientError::Refused(404, _))) => {}
                Wake::Answer(Err(ClientError::TimedOut(_))) => self.source.retry(),
                Wake::Answer(Err(error)) => return Err(error),
                Wake::Closed => return Err(ClientError::Closed),
            }
        }
    }
}

/// The era of a push; the first one says none.
#[derive(Deserialize)]
struct PushedEra {
    #[serde(default)]
    era: Era,
}

/// The body of a page of a list, or of changes.
#[derive(Deserialize)]
struct ListBody {
    rows: Option<Vec<ActiveRow>>,
    changes: Option<Vec<ActiveRow>>,
    #[serde(default)]
    more: bool,
    next: Option<String>,
    resume: String,
}

fn read_page(reply: &Message) -> Result<(ListBody, ListPosition), ClientError> {
    let body: ListBody =
        serde_json::from_slice(&reply.payload).map_err(|error| unreadable(error.to_string()))?;
    let etag = reply.headers.as_ref().and_then(|headers| headers.get(ETAG));
    let etag = etag.map(|etag| etag.as_str().to_owned());
    let at = ListPosition { resume: body.resume.clone(), etag };
    Ok((body, at))
}

fn unreadable(what: impl std::fmt::Display) -> ClientError {
    ClientError::Unreadable(format!("a list: {what}"))
}
