//! What the gateways of tenants sign their messages with, and the time by the database's clock.
//!
//! They are read with each message, so what an operator adds or ends counts at once.

use std::{collections::HashMap, fmt, sync::Arc};

use brigade_contracts::{Era, Token};
use sqlx::PgConnection;

use super::{
    batch_loader::BatchLoader,
    database::{LoadError, ReadDatabase},
    loader::{Loader, key_at},
};
use crate::store::gateway_secrets::GatewayFormat;

/// Reads what gateways sign with.
pub struct Gateways {
    known: BatchLoader<GatewayLoader>,
}

/// A gateway that may tell of payments.
#[derive(Clone)]
pub struct Gateway {
    pub format: GatewayFormat,
    /// The secrets that are good now.
    pub secrets: Arc<[String]>,
    /// The time by the database's clock, in seconds of the Unix time.
    pub now: i64,
}

/// Without the secrets.
impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gateway {{ format: {:?}, secrets: {} }}", self.format, self.secrets.len())
    }
}

impl Gateways {
    /// Reads secrets from this database.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>) -> Self {
        Self { known: BatchLoader::new(database, GatewayLoader) }
    }

    /// Returns a gateway of a tenant; `None` if there is none of this name.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn get(&self, tenant: Token, name: Token) -> Result<Option<Gateway>, LoadError> {
        self.known.load((tenant, name)).await
    }
}

struct GatewayLoader;

impl Loader for GatewayLoader {
    type Key = (Token, Token);
    type Row = Gateway;
    const CONCURRENCY: usize = 2;
    const MAX_KEYS: usize = 256;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[Self::Key],
    ) -> sqlx::Result<HashMap<Self::Key, Gateway>> {
        let (tenants, gateways): (Vec<&str>, Vec<&str>) =
            keys.iter().map(|(tenant, gateway)| (tenant.as_str(), gateway.as_str())).unzip();
        let rows = sqlx::query!(
            r#"select place as "place!", format as "format!", secrets as "secrets!", now as "now!"
               from brigade.read_gateways($1, $2, $3)"#,
            era.as_sql(),
            &tenants as _,
            &gateways as _,
        )
        .fetch_all(connection)
        .await?;
        let gateway = |place: i64, format: &str, secrets: Vec<String>, now| {
            let key = key_at(keys, place)?;
            // One of a later release.
            let format = GatewayFormat::parse(format).ok_or(sqlx::Error::RowNotFound)?;
            Ok((key.clone(), Gateway { format, secrets: secrets.into(), now }))
        };
        let rows = rows.into_iter();
        rows.map(|row| gateway(row.place, &row.format, row.secrets, row.now)).collect()
    }
}
