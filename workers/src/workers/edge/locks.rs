//! The lock over an owner's carts, and what was done with its locks. Both are read from SQL: the
//! bucket `cart_locks` only shows.

use std::collections::{BTreeMap, HashMap};

use brigade_contracts::{
    Address, Aggregate, Refusal,
    list::MAX_BYTES,
    lock::{History, HistoryEntry, Live},
    query::HistoryHeaders,
};
use brigade_domain::LockPolicy;
use bytes::Bytes;
use serde::Serialize;
use sqlx::PgConnection;

use super::{Edge, reply::Reply, together::Question};
use crate::store::rows::parse;

/// Asks for the locks that owners hold now.
pub struct LiveLocks {
    pub policy: LockPolicy,
}

impl Question for LiveLocks {
    type Key = Address;
    type Row = Bytes;
    const AT_ONCE: usize = 1;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        locks: &[Address],
    ) -> sqlx::Result<HashMap<Address, Bytes>> {
        let text = |f: fn(&Address) -> &str| locks.iter().map(f).collect::<Vec<_>>();
        let rows = sqlx::query!(
            r#"select tenant as "tenant!", owner as "owner!", json_build_object(
                   'cart', cart_id, 'method', method,
                   'acquired_at', acquired_at, 'expires_at', expires_at)::text as "live!",
                   clock.now as "now!",
                   expires_at <= clock.now and exists (
                       select from brigade.carts c
                       cross join lateral jsonb_array_elements(c.payments) payment
                       where (c.tenant, c.id) = (l.tenant, l.cart_id)
                         and payment -> 'token' = to_jsonb(l.token)
                         and payment ->> 'status' in ('initiated', 'unknown')
                   ) as "has_open_payment!"
               from (select clock_timestamp() as now offset 0) clock
               cross join unnest($1::text[], $2::text[]) as requested (tenant, owner)
               join brigade.cart_locks l using (tenant, owner)
               where state = 'held' and (select pg_current_wal_lsn()) is not null"#,
            &text(|lock| lock.tenant.as_str()) as _,
            &text(|lock| lock.id.as_str()) as _,
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
            let address = address.map_err(|refusal| sqlx::Error::Decode(refusal.into()))?;
            live.insert(address, encode(&Live { expires_at, ..lock })?);
        }
        Ok(live)
    }
}

/// Asks for pieces of the history of owners' locks.
pub struct LockHistory;

impl Question for LockHistory {
    type Key = (Address, HistoryHeaders);
    type Row = Bytes;
    const AT_ONCE: usize = 1;
    /// Each may be answered by 500 entries.
    const MAX_KEYS: usize = 32;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        keys: &[Self::Key],
    ) -> sqlx::Result<HashMap<Self::Key, Bytes>> {
        let text = |f: fn(&Address) -> &str| keys.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
        // One more than asked for tells whether there are older ones.
        let most: Vec<i64> = keys.iter().map(|(_, asked)| i64::from(asked.limit) + 1).collect();
        let before: Vec<i64> =
            keys.iter().map(|(_, asked)| asked.before.unwrap_or(i64::MAX)).collect();
        let rows = sqlx::query_file!(
            "src/workers/edge/lock_history.sql",
            &text(|lock| lock.tenant.as_str()) as _,
            &text(|lock| lock.id.as_str()) as _,
            &most,
            &before,
        )
        .fetch_all(connection)
        .await?;
        let mut found: BTreeMap<i64, Vec<(i64, String)>> = BTreeMap::new();
        for row in rows {
            found.entry(row.place).or_default().push((row.seq, row.entry));
        }
        let answer = |(place, rows): (i64, Vec<(i64, String)>)| {
            let key = usize::try_from(place - 1).ok().and_then(|place| keys.get(place));
            let key = key.ok_or(sqlx::Error::RowNotFound)?;
            Ok((key.clone(), encode(&history(&rows, key.1.limit)?)?))
        };
        found.into_iter().map(answer).collect()
    }
}

/// The answer of at most so many entries, from (place, entry), newest first.
fn history(rows: &[(i64, String)], limit: u16) -> sqlx::Result<History> {
    let mut bytes = 0;
    let fits = |(_, entry): &&(i64, String)| {
        bytes += entry.len();
        bytes <= MAX_BYTES
    };
    let told: Vec<_> = rows.iter().take(limit.into()).take_while(fits).collect();
    let older = told.last().filter(|_| told.len() < rows.len());
    let before = older.map(|(seq, _)| seq.to_string());
    let entries =
        told.iter().map(|(_, entry)| parse::<HistoryEntry>(entry)).collect::<Result<_, _>>()?;
    Ok(History { entries, before })
}

fn encode(body: &impl Serialize) -> sqlx::Result<Bytes> {
    let body = serde_json::to_vec(body).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(body.into())
}

impl Edge {
    pub(super) async fn lock(&self, lock: Address) -> Result<Reply, Reply> {
        match self.live_locks.get(lock).await {
            Ok(Some(live)) => Ok(Reply::ok(live)),
            Ok(None) => Err(not_locked()),
            Err(_) => Err(Reply::unconfirmed()),
        }
    }

    pub(super) async fn lock_history(
        &self,
        lock: Address,
        asked: HistoryHeaders,
    ) -> Result<Reply, Reply> {
        match self.lock_history.get((lock, asked)).await {
            Ok(Some(history)) => Ok(Reply::ok(history)),
            Ok(None) => Ok(Reply::ok(Bytes::from_static(br#"{"entries":[],"before":null}"#))),
            Err(_) => Err(Reply::unconfirmed()),
        }
    }
}

fn not_locked() -> Reply {
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
        let told = |count, limit| {
            let history = history(&rows(count, "x"), limit).unwrap();
            (history.entries.len(), history.before)
        };
        assert_eq!(told(3, 2), (2, Some("2".to_owned())));
        assert_eq!(told(2, 2), (2, None));
        assert_eq!(told(1, 2), (1, None));
    }

    #[test]
    fn what_is_too_large_for_a_message_goes_into_the_next() {
        let rows = rows(501, &"x".repeat(10_000));
        let history = history(&rows, 500).unwrap();
        assert!(serde_json::to_vec(&history).unwrap().len() <= MAX_BYTES);
        let (last, _) = &rows[history.entries.len() - 1];
        assert_eq!(history.before, Some(last.to_string()));
    }
}
