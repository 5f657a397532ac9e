//! Queries of the lock over an owner's carts, and of the history of its locks. Both are read from
//! SQL: nobody may rely on the bucket `cart_locks`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use brigade_contracts::{
    Address, Aggregate, Era, Refusal,
    list::MAX_BYTES,
    lock::{History, HistoryEntry, Live},
    query::HistoryHeaders,
};
use brigade_domain::LockPolicy;
use bytes::Bytes;
use serde::Serialize;
use sqlx::PgConnection;

use super::{
    batch_loader::BatchLoader,
    database::ReadDatabase,
    loader::{AddressColumns, Loader},
    reply::QueryReply,
};
use crate::store::rows::{parse, refused};

/// Answers queries of locks.
pub struct Locks {
    live: BatchLoader<LiveLockLoader>,
    history: BatchLoader<LockHistoryLoader>,
}

impl Locks {
    /// Reads locks from this database. `policy` has their life time.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>, policy: LockPolicy) -> Self {
        Self {
            live: BatchLoader::new(database, LiveLockLoader { policy }),
            history: BatchLoader::new(database, LockHistoryLoader),
        }
    }

    /// Returns the lock that an owner holds now.
    ///
    /// # Errors
    /// `404 not_locked`; `503 unconfirmed`.
    pub async fn get(&self, lock: Address) -> Result<QueryReply, QueryReply> {
        let live = self.live.load(lock).await?;
        live.map(QueryReply::ok).ok_or_else(not_locked)
    }

    /// Returns a page of the history of an owner's locks, newest entries first.
    ///
    /// # Errors
    /// `503 unconfirmed`.
    pub async fn history(
        &self,
        lock: Address,
        headers: HistoryHeaders,
    ) -> Result<QueryReply, QueryReply> {
        let page = self.history.load((lock, headers)).await?;
        let empty = || Bytes::from_static(br#"{"entries":[],"before":null}"#);
        Ok(QueryReply::ok(page.unwrap_or_else(empty)))
    }
}

/// Loads the locks that owners hold now, as JSON.
pub struct LiveLockLoader {
    pub policy: LockPolicy,
}

impl Loader for LiveLockLoader {
    type Key = Address;
    type Row = Bytes;
    const CONCURRENCY: usize = 1;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        locks: &[Address],
    ) -> sqlx::Result<HashMap<Address, Bytes>> {
        let AddressColumns { tenants, ids: owners, .. } = AddressColumns::new(locks.iter());
        let rows = sqlx::query!(
            r#"select tenant as "tenant!", owner as "owner!", live as "live!", now as "now!",
                      has_open_payment as "has_open_payment!"
               from brigade.read_live_locks($1, $2, $3)"#,
            era.as_sql(),
            &tenants as _,
            &owners as _,
        )
        .fetch_all(connection)
        .await?;
        let mut live = HashMap::new();
        for row in rows {
            // As command-handler decides when it meets the lock: a payment that is open under it
            // extends it, though nobody may have done so yet.
            let lock = parse::<Live>(&row.live)?;
            let until = self.policy.lives_until(&lock, row.has_open_payment, row.now.into());
            let Some(expires_at) = until else { continue };
            let address = Address::new(&row.tenant, Aggregate::Lock, &row.owner);
            live.insert(address.map_err(refused)?, encode(&Live { expires_at, ..lock })?);
        }
        Ok(live)
    }
}

/// Loads pages of the history of owners' locks, as JSON.
pub struct LockHistoryLoader;

impl Loader for LockHistoryLoader {
    type Key = (Address, HistoryHeaders);
    type Row = Bytes;
    const CONCURRENCY: usize = 1;
    /// A page may have 500 entries.
    const MAX_KEYS: usize = 32;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[Self::Key],
    ) -> sqlx::Result<HashMap<Self::Key, Bytes>> {
        let locks = keys.iter().map(|(lock, _)| lock);
        let AddressColumns { tenants, ids: owners, .. } = AddressColumns::new(locks);
        // One more than a page has tells whether there are older ones.
        let limits: Vec<i64> = keys.iter().map(|(_, page)| i64::from(page.limit) + 1).collect();
        let before: Vec<i64> =
            keys.iter().map(|(_, page)| page.before.unwrap_or(i64::MAX)).collect();
        let rows = sqlx::query!(
            r#"select place as "place!", seq as "seq!", entry as "entry!"
               from brigade.read_lock_history($1, $2, $3, $4, $5)"#,
            era.as_sql(),
            &tenants as _,
            &owners as _,
            &limits,
            &before,
        )
        .fetch_all(connection)
        .await?;
        let mut found: BTreeMap<i64, Vec<(i64, String)>> = BTreeMap::new();
        for row in rows {
            found.entry(row.place).or_default().push((row.seq, row.entry));
        }
        let page = |(place, rows): (i64, Vec<(i64, String)>)| {
            let key = usize::try_from(place - 1).ok().and_then(|place| keys.get(place));
            let key = key.ok_or(sqlx::Error::RowNotFound)?;
            Ok((key.clone(), encode(&history_page(&rows, key.1.limit)?)?))
        };
        found.into_iter().map(page).collect()
    }
}

/// Returns the page of at most `limit` entries from rows of (sequence, entry), newest first. It
/// ends sooner where a message has no room for more.
fn history_page(rows: &[(i64, String)], limit: u16) -> sqlx::Result<History> {
    let mut bytes = 0;
    let fits = |(_, entry): &&(i64, String)| {
        bytes += entry.len();
        bytes <= MAX_BYTES
    };
    let page: Vec<_> = rows.iter().take(limit.into()).take_while(fits).collect();
    let oldest = page.last().filter(|_| page.len() < rows.len());
    let before = oldest.map(|(seq, _)| seq.to_string());
    let entries =
        page.iter().map(|(_, entry)| parse::<HistoryEntry>(entry)).collect::<Result<_, _>>()?;
    Ok(History { entries, before })
}

fn encode(body: &impl Serialize) -> sqlx::Result<Bytes> {
    let body = serde_json::to_vec(body).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(body.into())
}

fn not_locked() -> QueryReply {
    Refusal::new(404, "not_locked", "no cart of this owner is locked").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: i64, reason: &str) -> Vec<(i64, String)> {
        let entry = format!(
            r#"{{"cart_id":"c1","token":7,"action":"refused","method":"card","reason":"{reason}",
                "actor":null,"at":"2026-01-02T03:04:05.678+00:00"}}"#
        );
        (1..=count).rev().map(|seq| (seq, entry.clone())).collect()
    }

    #[test]
    fn an_answer_says_where_older_entries_begin() {
        let page = |count, limit| {
            let history = history_page(&rows(count, "x"), limit).unwrap();
            (history.entries.len(), history.before)
        };
        assert_eq!(page(3, 2), (2, Some("2".to_owned())));
        assert_eq!(page(2, 2), (2, None));
        assert_eq!(page(1, 2), (1, None));
    }

    #[test]
    fn what_is_too_large_for_a_message_goes_into_the_next() {
        let rows = rows(501, &"x".repeat(10_000));
        let history = history_page(&rows, 500).unwrap();
        assert!(serde_json::to_vec(&history).unwrap().len() <= MAX_BYTES);
        let (last, _) = &rows[history.entries.len() - 1];
        assert_eq!(history.before, Some(last.to_string()));
    }
}
