//! The backlogs in SQL.

use brigade_contracts::{Address, Aggregate};
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::infra::postgres::bounded;

/// An entry older than this, in seconds, is overdue.
const OVERDUE: f64 = 1.0;
/// Most entries of a page.
const MAX_PAGE: i64 = 500;
/// Most entries of a page of the heal backlog. What a command has just changed is written behind it.
const MAX_HEAL_PAGE: i64 = 250;

/// Tenant, aggregate and id of an entry.
pub type EntryKey = (String, String, String);

/// A table of aggregates that have to be projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// The projection backlog, of which entries are projected that are overdue.
    Overdue,
    /// The heal backlog, in which cache-verifier puts aggregates whose keys may be lost. An entry
    /// leaves when all keys were written after it was read; no command takes it away.
    Heals,
}

impl Backlog {
    pub fn lease(self) -> &'static str {
        match self {
            Self::Overdue => "command-handler.projection-backlog",
            Self::Heals => "command-handler.heal-backlog",
        }
    }

    pub fn duty(self) -> &'static str {
        match self {
            Self::Overdue => "projection-backlog",
            Self::Heals => "heal-backlog",
        }
    }

    pub fn max_page(self) -> i64 {
        match self {
            Self::Overdue => MAX_PAGE,
            Self::Heals => MAX_HEAL_PAGE,
        }
    }
}

/// A row of a backlog.
#[derive(Debug)]
pub struct BacklogEntry {
    pub at: OffsetDateTime,
    pub tenant: String,
    pub aggregate: String,
    pub id: String,
    pub version: i64,
}

impl BacklogEntry {
    /// Returns its key.
    pub fn key(&self) -> EntryKey {
        (self.tenant.clone(), self.aggregate.clone(), self.id.clone())
    }

    /// Returns the address of its aggregate; `None` if it is none.
    pub fn address(&self) -> Option<Address> {
        Address::new(&self.tenant, Aggregate::parse_with_lock(&self.aggregate)?, &self.id).ok()
    }
}

/// Loads the next page of entries after a key, in the order of their keys.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn load_page(
    backlog: Backlog,
    postgres: &PgPool,
    after: &EntryKey,
    page_size: i64,
) -> sqlx::Result<Vec<BacklogEntry>> {
    let (tenant, aggregate, id) = after;
    bounded(postgres, async |connection| match backlog {
        Backlog::Overdue => {
            sqlx::query_file_as!(
                BacklogEntry,
                "src/workers/command_handler/projection_backlog/overdue.sql",
                OVERDUE,
                tenant,
                aggregate,
                id,
                page_size,
            )
            .fetch_all(&mut **connection)
            .await
        }
        Backlog::Heals => {
            sqlx::query_as!(
                BacklogEntry,
                r#"select at, tenant, aggregate, id, 0::bigint as "version!"
                   from brigade.heal_backlog where (tenant, aggregate, id) > ($1, $2, $3)
                   order by tenant, aggregate, id limit $4"#,
                tenant,
                aggregate,
                id,
                page_size,
            )
            .fetch_all(&mut **connection)
            .await
        }
    })
    .await
}

/// Deletes entries of the heal backlog as they were read. One that was put there again meanwhile
/// stands for a later loss, and stays.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn delete_healed(postgres: &PgPool, entries: &[&BacklogEntry]) -> sqlx::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let field = |field: fn(&BacklogEntry) -> &str| -> Vec<&str> {
        entries.iter().map(|entry| field(entry)).collect()
    };
    let (tenants, aggregates) = (field(|e| &e.tenant), field(|e| &e.aggregate));
    let ids = field(|e| &e.id);
    let times: Vec<OffsetDateTime> = entries.iter().map(|entry| entry.at).collect();
    bounded(postgres, async |connection| {
        sqlx::query!(
            // Each by its key, as in `projected.rs`.
            "delete from brigade.heal_backlog where ctid = any (array (
                 select done.ctid
                 from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[])
                      as healed (tenant, aggregate, id, at)
                 cross join lateral (
                     select entry.ctid from brigade.heal_backlog entry
                     where (entry.tenant, entry.aggregate, entry.id)
                           = (healed.tenant, healed.aggregate, healed.id)
                       and entry.at = healed.at
                     limit 1 for update skip locked
                 ) done
             ))",
            &tenants as _,
            &aggregates as _,
            &ids as _,
            &times,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
