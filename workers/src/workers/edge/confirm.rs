//! The statement that confirms versions: which version is committed, and of which versions its
//! parts are.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Address, Aggregate, Part, PartVersions};
use sqlx::PgConnection;

use super::together::Question;
use crate::infra::Metrics;

/// The version of an aggregate and those of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    pub version: u64,
    pub parts: PartVersions,
}

impl Versions {
    /// The version of a part; of one that was never touched, that of the aggregate.
    #[must_use]
    pub fn part(&self, part: Part) -> u64 {
        self.parts.get(&part).copied().unwrap_or(self.version)
    }
}

/// Asks for the versions of aggregates.
pub struct Confirm {
    pub metrics: Arc<Metrics>,
}

impl Question for Confirm {
    type Key = Address;
    type Row = Versions;
    /// With one alone, a query would wait for the end of a statement that came just before it.
    const AT_ONCE: usize = 3;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, Versions>> {
        self.metrics.confirm_statements.inc();
        let text = |f: fn(&Address) -> &str| addresses.iter().map(f).collect::<Vec<_>>();
        // One branch an aggregate, each by its own primary key.
        let rows = sqlx::query!(
            r#"with requested as (
                   select * from unnest($1::text[], $2::text[], $3::text[])
                                 as requested (tenant, aggregate, id)
                   where (select pg_current_wal_lsn()) is not null
               )
               select tenant as "tenant!", aggregate as "aggregate!", id as "id!",
                      cart.version as "version!", cart.parts as "parts!"
               from requested join brigade.carts cart using (tenant, id)
               where aggregate = 'cart'
               union all
               select tenant, aggregate, id, placed.version, placed.parts
               from requested join brigade.orders placed using (tenant, id)
               where aggregate = 'order'
               union all
               select tenant, aggregate, id, payment.version,
                      jsonb_build_object('core', payment.version)
               from requested join brigade.payments payment using (tenant, id)
               where aggregate = 'payment'
               union all
               select tenant, aggregate, id, seating.version,
                      jsonb_build_object('core', seating.version)
               from requested join brigade.tables seating using (tenant, id)
               where aggregate = 'table'"#,
            &text(|a| a.tenant.as_str()) as _,
            &text(|a| a.aggregate.as_str()) as _,
            &text(|a| a.id.as_str()) as _,
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
                let versions = Versions {
                    version: row.version.cast_unsigned(),
                    parts: parts.map_err(|error| decode(error.into()))?,
                };
                Ok((address.map_err(|error| decode(error.into()))?, versions))
            })
            .collect()
    }
}
