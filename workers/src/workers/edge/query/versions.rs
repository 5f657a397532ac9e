//! The statement that confirms versions: it reads which version of an aggregate is committed, and
//! which versions its parts have (`migrations/functions/read_versions.sql`).

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Address, Aggregate, Era, Part, PartVersions};
use sqlx::PgConnection;

use super::loader::{AddressColumns, Loader};
use crate::workers::edge::metrics::EdgeMetrics;

/// The version of an aggregate and those of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmedVersions {
    pub version: u64,
    pub parts: PartVersions,
}

impl ConfirmedVersions {
    /// Returns the version of a part; that of the aggregate, if the part was never touched.
    #[must_use]
    pub fn part(&self, part: Part) -> u64 {
        self.parts.get(&part).copied().unwrap_or(self.version)
    }
}

/// Loads the versions of aggregates.
pub struct VersionLoader {
    pub metrics: Arc<EdgeMetrics>,
}

impl Loader for VersionLoader {
    type Key = Address;
    type Row = ConfirmedVersions;
    /// With one alone, a query would wait for the end of a statement that came just before it.
    const CONCURRENCY: usize = 3;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, ConfirmedVersions>> {
        self.metrics.confirm_statements.inc();
        let AddressColumns { tenants, aggregates, ids } = AddressColumns::new(addresses.iter());
        let rows = sqlx::query!(
            r#"select tenant as "tenant!", aggregate as "aggregate!", id as "id!",
                      version as "version!", parts as "parts!"
               from brigade.read_versions($1, $2, $3, $4)"#,
            era.as_sql(),
            &tenants as _,
            &aggregates as _,
            &ids as _,
        )
        .fetch_all(connection)
        .await?;
        let decode = |error| sqlx::Error::Decode(error);
        rows.into_iter()
            .map(|row| {
                let aggregate = Aggregate::parse(&row.aggregate).ok_or("no aggregate");
                let aggregate = aggregate.map_err(|error| decode(error.into()))?;
                let address = Address::new(&row.tenant, aggregate, &row.id);
                let parts = serde_json::from_value(row.parts);
                let versions = ConfirmedVersions {
                    version: row.version.cast_unsigned(),
                    parts: parts.map_err(|error| decode(error.into()))?,
                };
                Ok((address.map_err(|error| decode(error.into()))?, versions))
            })
            .collect()
    }
}
