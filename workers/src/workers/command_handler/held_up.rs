//! Aggregates that somebody else has locked for longer than a batch waits: an operator's open
//! transaction, a commit that waits for a standby, a handler that was stopped in the middle.
//!
//! Their commands are held, and all others are decided at once. A query finds most locks
//! ([`locked`]), which takes no time. Some cannot be queried, such as that of a row that is not
//! committed yet: then the commands themselves are tried in smaller sub-batches, until those are
//! left that wait. Their aggregates are suspects, and are tried beside the batches.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use brigade_contracts::{Address, Aggregate, Command, Token};
use prometheus::IntGauge;
use sqlx::{PgConnection, PgPool};
use tokio::time::{MissedTickBehavior, interval};

use super::lock_plan::addresses_of;
use crate::{
    infra::{Context, postgres::bounded},
    store::rows::refused,
};

/// Interval of the query that finds out which aggregates are still locked.
const QUERY_INTERVAL: Duration = Duration::from_millis(200);
/// A suspect is forgotten when no command has waited for it for this long.
const SUSPECT_TTL: Duration = Duration::from_secs(2);

/// The aggregates that are locked by others, or suspected to be, by name.
#[derive(Default)]
pub struct HeldAggregates(Mutex<HashMap<String, HeldAggregate>>);

struct HeldAggregate {
    /// The address whose lock can be queried; `None`: it is a suspect.
    address: Option<Address>,
    /// The last time that a command waited for it.
    at: Instant,
}

impl HeldAggregate {
    fn is_suspect(&self) -> bool {
        self.address.is_none()
    }
}

/// The aggregate that holds up a command, with its name.
#[derive(Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// It is locked.
    Locked(String),
    /// It is suspected to be locked.
    Suspect(String),
}

impl HeldAggregates {
    fn known(&self) -> MutexGuard<'_, HashMap<String, HeldAggregate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known().is_empty()
    }

    /// Returns the aggregate that is known to hold up a command.
    #[must_use]
    pub fn by(&self, command: &Command) -> Option<HeldBy> {
        let known = self.known();
        if known.is_empty() {
            return None;
        }
        let names = addresses_of(command).into_iter().map(|address| address.to_string());
        names.chain([name(command)]).find_map(|name| {
            let is_suspect = known.get(&name)?.is_suspect();
            Some(if is_suspect { HeldBy::Suspect(name) } else { HeldBy::Locked(name) })
        })
    }

    /// Returns whether an aggregate was locked when it was last queried. A suspect never is.
    #[must_use]
    pub fn is_locked(&self, name: &str) -> bool {
        self.known().get(name).is_some_and(|known| !known.is_suspect())
    }

    /// Adds aggregates that are locked.
    pub fn add(&self, locked: &BTreeSet<Address>) {
        let (mut known, at) = (self.known(), Instant::now());
        for address in locked {
            let name = address.to_string();
            let held = HeldAggregate { address: Some(address.clone()), at };
            if known.insert(name, held).is_none_or(|before| before.is_suspect()) {
                tracing::warn!(%address, "locked by somebody else: its commands are held");
            }
        }
    }

    /// Adds the aggregate of a command that waits for a lock that cannot be queried. Returns its
    /// name.
    pub fn suspect(&self, command: &Command, why: &str) -> String {
        let (name, at) = (name(command), Instant::now());
        let mut known = self.known();
        let entry = known.entry(name.clone()).or_insert_with(|| {
            tracing::warn!(name, why, "cannot be decided now: its commands are held");
            HeldAggregate { address: None, at }
        });
        entry.at = at;
        name
    }

    /// Removes the suspects that these commands are about: they were decided.
    pub fn decided<'a>(&self, commands: impl Iterator<Item = &'a Command>) {
        let mut known = self.known();
        if !known.values().any(HeldAggregate::is_suspect) {
            return;
        }
        for name in commands.map(name) {
            if known.get(&name).is_some_and(HeldAggregate::is_suspect) {
                known.remove(&name);
            }
        }
    }

    /// Removes the aggregates that are not locked any more, and old suspects.
    ///
    /// # Errors
    /// If Postgres refuses the query.
    async fn update(&self, postgres: &PgPool) -> sqlx::Result<()> {
        let began = Instant::now();
        let queried: BTreeSet<Address> =
            self.known().values().filter_map(|known| known.address.clone()).collect();
        let locked = locked(postgres, &queried).await?;
        self.known().retain(|_, known| match &known.address {
            Some(address) => locked.contains(address) || known.at > began,
            None => known.at.elapsed() < SUSPECT_TTL,
        });
        for address in queried.difference(&locked) {
            tracing::info!(%address, "not locked any more");
        }
        Ok(())
    }
}

/// Keeps the held aggregates up to date until the drain. `gauge` shows how many there are.
pub async fn keep(cx: Context, held_up: Arc<HeldAggregates>, gauge: IntGauge) {
    let mut tick = interval(QUERY_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.drain.cancelled() => return,
        }
        if !held_up.is_empty()
            && let Err(error) = held_up.update(&cx.postgres).await
        {
            tracing::debug!(%error, "cannot query which aggregates are locked");
        }
        gauge.set(i64::try_from(held_up.known().len()).unwrap_or(i64::MAX));
    }
}

/// Returns the name of the aggregate that a command is about. A command without one has a name of
/// its own.
fn name(command: &Command) -> String {
    match &command.request {
        Ok(request) => request.address.to_string(),
        Err(_) => format!("{}.{}", command.tenant, command.command_id),
    }
}

/// Returns those of these aggregates that somebody else has locked.
///
/// # Errors
/// If Postgres refuses, or if a whole table is locked.
pub async fn locked(
    postgres: &PgPool,
    addresses: &BTreeSet<Address>,
) -> sqlx::Result<BTreeSet<Address>> {
    if addresses.is_empty() {
        return Ok(BTreeSet::new());
    }
    bounded(postgres, async |connection| lock_free(connection, addresses).await).await
}

/// Locks aggregates, shared, until the end of the transaction. Returns those that somebody else has
/// locked; it waits for none of them.
///
/// # Errors
/// If Postgres refuses, or if a whole table is locked.
pub async fn lock_free(
    connection: &mut PgConnection,
    addresses: &BTreeSet<Address>,
) -> sqlx::Result<BTreeSet<Address>> {
    let column = |f: fn(&Address) -> &str| addresses.iter().map(f).collect::<Vec<_>>();
    let rows = sqlx::query_file!(
        "src/workers/command_handler/held_up.sql",
        &column(|a| a.tenant.as_str()) as _,
        &column(|a| a.aggregate.as_str()) as _,
        &column(|a| a.id.as_str()) as _,
    )
    .fetch_all(connection)
    .await?;
    let address = |tenant: &str, aggregate: &str, id: &str| {
        let aggregate = Aggregate::parse_with_lock(aggregate)
            .ok_or_else(|| sqlx::Error::Decode(format!("an aggregate {aggregate:?}").into()))?;
        let token = |text| Token::new(text).map_err(refused);
        Ok(Address { tenant: token(tenant)?, aggregate, id: token(id)? })
    };
    rows.iter().map(|row| address(&row.tenant, &row.aggregate, &row.id)).collect()
}

#[cfg(test)]
mod tests;
