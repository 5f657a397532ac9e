//! Whether a tenant is served: it is registered and not suspended.
//!
//! The state is read from SQL, in one statement for all who wait, and believed for [`FRESH`]: so a
//! tenant costs at most two keys a second, and what is suspended is refused within that time. A
//! command is besides held against SQL where it is decided.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use brigade_contracts::{
    Era, Refusal, Token,
    tenant::{self, TenantState},
};
use moka::sync::Cache;
use sqlx::PgConnection;

use super::{batch_loader::BatchLoader, database::ReadDatabase, loader::Loader};

/// The time for which a state is believed.
const FRESH: Duration = Duration::from_millis(500);
/// The states that are remembered, those of names that nobody has among them.
const REMEMBERED: u64 = 10_000;
/// A state is forgotten after this time without a request.
const IDLE: Duration = Duration::from_secs(600);

/// The states of tenants.
pub struct Tenants {
    states: BatchLoader<TenantLoader>,
    seen: Cache<Token, SeenState>,
}

#[derive(Clone, Copy)]
struct SeenState {
    state: Option<TenantState>,
    /// When its statement was asked for.
    at: Instant,
}

impl Tenants {
    /// Reads tenants from this database.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>) -> Self {
        let seen = Cache::builder().max_capacity(REMEMBERED).time_to_idle(IDLE).build();
        Self { states: BatchLoader::new(database, TenantLoader), seen }
    }

    /// Checks that a tenant is served. While Postgres does not answer it is the last known state
    /// that counts, and one that is not known is let pass: nothing is confirmed then.
    ///
    /// # Errors
    /// `404 unknown_tenant`, `403 tenant_suspended`.
    pub async fn admit(&self, tenant: &Token) -> Result<(), Refusal> {
        let seen = self.seen.get(tenant);
        if let Some(fresh) = seen.filter(|seen| seen.at.elapsed() < FRESH) {
            return tenant::admit(fresh.state);
        }
        let at = Instant::now();
        match (self.states.load(tenant.clone()).await, seen) {
            (Ok(state), _) => {
                self.seen.insert(tenant.clone(), SeenState { state, at });
                tenant::admit(state)
            }
            (Err(_), Some(seen)) => tenant::admit(seen.state),
            (Err(_), None) => Ok(()),
        }
    }
}

/// Loads the states of tenants.
struct TenantLoader;

impl Loader for TenantLoader {
    type Key = Token;
    type Row = TenantState;
    const CONCURRENCY: usize = 2;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        tenants: &[Token],
    ) -> sqlx::Result<HashMap<Token, TenantState>> {
        let names: Vec<&str> = tenants.iter().map(Token::as_str).collect();
        let rows = sqlx::query!(
            r#"select tenant as "tenant!", state as "state!" from brigade.read_tenants($1, $2)"#,
            era.as_sql(),
            &names as _,
        )
        .fetch_all(connection)
        .await?;
        let state =
            |row: (String, String)| Some((Token::new(&row.0).ok()?, TenantState::parse(&row.1)?));
        Ok(rows.into_iter().filter_map(|row| state((row.tenant, row.state))).collect())
    }
}
