use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use brigade_contracts::Address;
use sqlx::{PgConnection, PgPool};

use crate::infra::postgres::bounded;

/// Versions that were projected and whose backlog entries are not deleted yet.
#[derive(Default)]
pub struct ProjectedVersions {
    versions: Mutex<HashMap<Address, u64>>,
}

impl ProjectedVersions {
    /// Adds projected versions, or puts back those whose entries could not be deleted.
    pub fn add(&self, projected: Vec<(Address, u64)>) {
        let mut versions = self.versions();
        for (address, version) in projected {
            let newest = versions.entry(address).or_default();
            *newest = version.max(*newest);
        }
    }

    /// Takes all of them, sorted by address, so that their entries are deleted.
    pub fn take(&self) -> Vec<(Address, u64)> {
        let mut versions: Vec<_> = mem::take(&mut *self.versions()).into_iter().collect();
        versions.sort();
        versions
    }

    fn versions(&self) -> MutexGuard<'_, HashMap<Address, u64>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes the entries of projected versions.
///
/// # Errors
/// If Postgres refuses; the versions are kept for the next time.
pub async fn flush(postgres: &PgPool, projected: &ProjectedVersions) -> sqlx::Result<()> {
    let versions = projected.take();
    if versions.is_empty() {
        return Ok(());
    }
    let deleted = bounded(postgres, async |connection| delete(connection, &versions).await).await;
    if deleted.is_err() {
        projected.add(versions);
    }
    deleted
}

/// Deletes entries up to the projected versions, given in the order of their addresses. An entry
/// that somebody is just raising is left: it is about a newer version. Each is found by its key,
/// whatever the planner believes about a table that is empty at one moment and full at the next.
async fn delete(postgres: &mut PgConnection, shown: &[(Address, u64)]) -> sqlx::Result<()> {
    let text = |f: fn(&Address) -> &str| shown.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
    let versions: Vec<i64> = shown.iter().map(|(_, version)| version.cast_signed()).collect();
    sqlx::query!(
        "delete from brigade.unshown where ctid = any (array (
             select done.ctid
             from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
                  as shown (tenant, aggregate, id, version)
             cross join lateral (
                 select note.ctid from brigade.unshown note
                 where (note.tenant, note.aggregate, note.id)
                       = (shown.tenant, shown.aggregate, shown.id)
                   and note.version <= shown.version
                 limit 1 for update skip locked
             ) done
         ))",
        &text(|a| a.tenant.as_str()) as _,
        &text(|a| a.aggregate.as_str()) as _,
        &text(|a| a.id.as_str()) as _,
        &versions,
    )
    .execute(postgres)
    .await?;
    Ok(())
}
