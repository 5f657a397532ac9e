//! What SQL and the streams say about the commands of a run.

use std::collections::HashMap;

use anyhow::Result;
use async_nats::jetstream::Context;
use serde_json::Value;
use sqlx::PgConnection;

use super::money::GatewayCapture;
use crate::{
    chaos::{
        history::{Micros, Operation, ReportedOutcome},
        nemesis::Blow,
    },
    invariants::streams::dead_letters,
};

/// Tenant and Command-Id.
type Id = (String, String);

/// An event, as far as it is compared.
#[derive(Clone, Debug)]
pub struct CommittedEvent {
    /// `<aggregate>.<id>`
    pub address: String,
    pub version: u64,
    pub name: String,
}

/// SQL and the dead letters, at rest.
#[derive(Default)]
pub struct Evidence {
    pub inbox: HashMap<Id, ReportedOutcome>,
    pub events: HashMap<Id, Vec<CommittedEvent>>,
    /// Who made each version, by tenant, address and version.
    makers: HashMap<(String, String, u64), String>,
    /// The newest version of each aggregate, by tenant and address.
    versions: HashMap<(String, String), u64>,
    /// The number of dead letters of each command.
    pub letters: HashMap<Id, usize>,
    pub captures: Vec<GatewayCapture>,
    /// `<tenant> <currency>`, applied, owed.
    pub accounted: Vec<(String, i64, i64)>,
    /// When each command was sent first.
    pub sent: HashMap<Id, Micros>,
    /// The streams that were lost, and when; `*` is all of them.
    pub lost: Vec<(String, Micros)>,
}

impl Evidence {
    /// Reads SQL and the dead letters.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub async fn read(
        sql: &mut PgConnection,
        js: &Context,
        operations: &[Operation],
        blows: &[Blow],
    ) -> Result<Self> {
        let mut evidence = Self::default();
        for operation in operations {
            evidence.see(operation);
        }
        let lost = blows
            .iter()
            .flat_map(|blow| blow.lost.iter().map(|stream| (stream.clone(), blow.mended)));
        evidence.lost = lost.collect();
        evidence.read_commands(sql).await?;
        evidence.read_money(sql).await?;
        for letter in dead_letters(sql, js).await? {
            let Some(id) = letter.command_id else { continue };
            *evidence.letters.entry((letter.tenant, id)).or_default() += 1;
        }
        Ok(evidence)
    }

    /// Notes when a command was sent first.
    pub fn see(&mut self, operation: &Operation) {
        let Some(id) = &operation.command_id else { return };
        let id = (operation.tenant.to_string(), id.to_string());
        let sent = self.sent.entry(id).or_insert(operation.begun);
        *sent = operation.begun.min(*sent);
    }

    async fn read_commands(&mut self, sql: &mut PgConnection) -> Result<()> {
        let rows: Vec<(String, String, Value)> =
            sqlx::query_as("select tenant, command_id, outcome from brigade.command_inbox")
                .fetch_all(&mut *sql)
                .await?;
        for (tenant, id, outcome) in rows {
            self.inbox.insert((tenant, id), of_json(&outcome));
        }
        let rows: Vec<(String, String, String, i64, String)> = sqlx::query_as(
            "select tenant, command_id, aggregate || '.' || id, version, type from brigade.events",
        )
        .fetch_all(sql)
        .await?;
        for (tenant, id, address, version, name) in rows {
            self.add_event(
                &tenant,
                &id,
                CommittedEvent { address, version: version.unsigned_abs(), name },
            );
        }
        Ok(())
    }

    /// Adds an event of a command.
    pub fn add_event(&mut self, tenant: &str, id: &str, event: CommittedEvent) {
        let address = (tenant.to_owned(), event.address.clone());
        let newest = self.versions.entry(address).or_default();
        *newest = event.version.max(*newest);
        let made = (tenant.to_owned(), event.address.clone(), event.version);
        self.makers.insert(made, id.to_owned());
        self.events.entry((tenant.to_owned(), id.to_owned())).or_default().push(event);
    }

    async fn read_money(&mut self, sql: &mut PgConnection) -> Result<()> {
        let rows: Vec<(String, String, Option<String>, i64, String)> = sqlx::query_as(
            "select p.tenant, p.id, c.transaction_id, c.amount, c.currency
             from brigade.payments p, jsonb_to_recordset(p.captures)
                  as c (transaction_id text, amount bigint, currency text)",
        )
        .fetch_all(&mut *sql)
        .await?;
        self.captures.extend(rows.into_iter().map(
            |(tenant, payment, transaction, amount, currency)| GatewayCapture {
                tenant,
                payment,
                transaction,
                amount,
                currency,
            },
        ));
        self.accounted = sqlx::query_as(
            "select tenant || ' ' || currency, sum(applied)::bigint, sum(owed)::bigint
             from (select tenant, currency::text, applied, 0 as owed from brigade.payments
                   union all
                   select tenant, currency::text, 0, amount from brigade.refund_tasks) x
             group by 1",
        )
        .fetch_all(sql)
        .await?;
        Ok(())
    }

    /// Returns the committed version of an aggregate; 0 if there is none.
    #[must_use]
    pub fn version(&self, tenant: &str, address: &str) -> u64 {
        self.versions.get(&(tenant.to_owned(), address.to_owned())).copied().unwrap_or_default()
    }

    /// Returns the command that made a version.
    #[must_use]
    pub fn command_of(&self, tenant: &str, address: &str, version: u64) -> Option<String> {
        self.makers.get(&(tenant.to_owned(), address.to_owned(), version)).cloned()
    }

    /// Returns true if what was stored in a stream from this moment on may have gone with it.
    #[must_use]
    pub fn was_lost_after(&self, stream: &str, at: Micros) -> bool {
        self.lost.iter().any(|(lost, when)| (lost == stream || lost == "*") && *when >= at)
    }
}

fn of_json(outcome: &Value) -> ReportedOutcome {
    let effects = outcome["effects"].as_array().into_iter().flatten();
    ReportedOutcome {
        status: outcome["status"].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or_default(),
        code: outcome["code"].as_str().unwrap_or_default().to_owned(),
        version: outcome["version"].as_u64(),
        effects: effects.filter_map(|effect| Some(effect.as_str()?.to_owned())).collect(),
        token: outcome["data"]["token"].as_i64(),
        core: outcome["data"]["core"]["version"].as_u64(),
        amount: outcome["data"]["amount"].as_i64(),
    }
}
