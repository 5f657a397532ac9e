//! What SQL and the streams say about the commands of a run.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use async_nats::jetstream::Context;
use brigade_contracts::Era;
use serde_json::Value;
use sqlx::PgConnection;

use super::{Eras, letters::ArchivedReplays, money::GatewayCapture, outcomes::same};
use crate::{
    chaos::{
        answers::reported,
        history::{Micros, Operation, ReportedOutcome, Way},
        nemesis::Blow,
    },
    invariants::streams::{dead_letters, messages},
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
    /// When it was decided, in milliseconds since 1970.
    pub at: i64,
}

/// SQL and the dead letters, at rest.
#[derive(Default)]
pub struct Evidence {
    pub inbox: HashMap<Id, ReportedOutcome>,
    pub events: HashMap<Id, Vec<CommittedEvent>>,
    /// The maker of each version, by tenant, address and version.
    makers: HashMap<(String, String, u64), String>,
    /// The versions of each aggregate and when they were made, by tenant and address.
    versions: HashMap<(String, String), Vec<(u64, i64)>>,
    /// The number of dead letters of each command.
    pub letters: HashMap<Id, usize>,
    /// The replays of operators, by command.
    pub replays: HashMap<Id, ArchivedReplays>,
    /// The letters that were dealt with: their numbers, and how.
    pub dealt_with: HashSet<(String, &'static str)>,
    pub captures: Vec<GatewayCapture>,
    /// `<tenant> <currency>`, applied, owed.
    pub accounted: Vec<(String, i64, i64)>,
    /// When each command was sent first.
    pub sent: HashMap<Id, Micros>,
    /// The streams that lost something, since when, and when; `*` is all of them.
    pub lost: Vec<(String, Micros, Micros)>,
    pub eras: Eras,
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
        for blow in blows {
            let lost = blow.lost.iter().map(|lost| (lost.stream.clone(), lost.since, blow.mended));
            evidence.lost.extend(lost);
        }
        let failovers = blows.iter().filter_map(|blow| blow.failover).collect();
        let eras: Vec<i64> = sqlx::query_scalar("select era from brigade.eras order by era")
            .fetch_all(&mut *sql)
            .await?;
        let eras = eras.into_iter().map(|era| Era::new(era.unsigned_abs())).collect();
        evidence.eras = Eras::new(eras, failovers);
        evidence.read_commands(sql).await?;
        evidence.read_money(sql).await?;
        for letter in dead_letters(sql, js).await? {
            let Some(id) = letter.command_id else { continue };
            *evidence.letters.entry((letter.tenant, id)).or_default() += 1;
        }
        evidence.read_archive(sql, js).await?;
        Ok(evidence)
    }

    async fn read_archive(&mut self, sql: &mut PgConnection, js: &Context) -> Result<()> {
        let rows: Vec<(String, Option<String>, String, String, bool)> = sqlx::query_as(
            "select split_part(subject, '.', 2),
                    (select h ->> 1 from json_array_elements(headers) h
                     where h ->> 0 = 'Command-Id' limit 1),
                    case when extract(epoch from dlq_created) = 0 then 'sql-' else '' end || dlq_seq,
                    action, coalesce(done_at - claimed_at > interval '5 seconds', true)
             from brigade.dead_letter_actions",
        )
        .fetch_all(sql)
        .await?;
        for (tenant, id, number, action, is_slow) in rows {
            let action = if action == "drop" { "dropped" } else { "replayed" };
            self.dealt_with.insert((number, action));
            if let Some(id) = id.filter(|_| action == "replayed") {
                let of_command = self.replays.entry((tenant, id)).or_default();
                of_command.letters += 1;
                of_command.maybe_repeated += usize::from(is_slow);
            }
        }
        for message in messages(js, "COMMANDS").await? {
            let headers = message.headers.unwrap_or_default();
            let Some(id) = headers.get("Command-Id") else { continue };
            let tenant = message.subject.split('.').nth(1).unwrap_or_default().to_owned();
            if let Some(replays) = self.replays.get_mut(&(tenant, id.as_str().to_owned())) {
                replays.copies += 1;
            }
        }
        Ok(())
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
            self.inbox.insert((tenant, id), reported(&outcome));
        }
        let rows: Vec<(String, String, String, i64, String, i64)> = sqlx::query_as(
            "select tenant, command_id, aggregate || '.' || id, version, type,
                    floor(1000 * extract(epoch from at))::bigint
             from brigade.events",
        )
        .fetch_all(sql)
        .await?;
        for (tenant, id, address, version, name, at) in rows {
            let version = version.unsigned_abs();
            self.add_event(&tenant, &id, CommittedEvent { address, version, name, at });
        }
        Ok(())
    }

    /// Adds an event of a command.
    pub fn add_event(&mut self, tenant: &str, id: &str, event: CommittedEvent) {
        let address = (tenant.to_owned(), event.address.clone());
        self.versions.entry(address).or_default().push((event.version, event.at));
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
        self.versions_of(tenant, address).map(|(version, _)| *version).max().unwrap_or_default()
    }

    /// Returns the version that an aggregate had when an era began, of those that are still there.
    #[must_use]
    pub fn version_before(&self, tenant: &str, address: &str, era: Era) -> u64 {
        // The number of a later era is when it began.
        let before = self.versions_of(tenant, address).filter(|(_, at)| *at < era.as_sql());
        before.map(|(version, _)| *version).max().unwrap_or_default()
    }

    fn versions_of(&self, tenant: &str, address: &str) -> impl Iterator<Item = &(u64, i64)> {
        self.versions.get(&(tenant.to_owned(), address.to_owned())).into_iter().flatten()
    }

    /// Returns the command that made a version.
    #[must_use]
    pub fn command_of(&self, tenant: &str, address: &str, version: u64) -> Option<String> {
        self.makers.get(&(tenant.to_owned(), address.to_owned(), version)).cloned()
    }

    /// Returns true if what an operation stored in a stream may have gone with it.
    #[must_use]
    pub fn was_lost_after(&self, stream: &str, by: &Operation) -> bool {
        let is_it = |lost: &str| lost == stream || lost == "*";
        let mut lost = self.lost.iter().filter(|(lost, ..)| is_it(lost));
        lost.any(|(_, since, at)| *since < by.ended && by.begun <= *at)
    }

    /// Returns the era of the versions in an outcome. Where it does not say, it may have been decided
    /// since it was first sent.
    #[must_use]
    pub fn era_of(&self, by: &Operation) -> Option<Era> {
        let (outcome, id) = (by.outcome()?, by.command_id.as_ref()?);
        let sent = self.sent.get(&(by.tenant.to_string(), id.to_string()));
        outcome.era.or_else(|| self.eras.between(sent.copied().unwrap_or(by.begun), by.ended))
    }

    /// Returns true if an answer told of what a failover has lost.
    #[must_use]
    pub fn is_lost(&self, by: &Operation) -> bool {
        let (Some(outcome), Some(id)) = (by.outcome(), &by.command_id) else { return false };
        let stored = self.inbox.get(&(by.tenant.to_string(), id.to_string()));
        let is_kept = !outcome.waits || by.way == Way::Durable;
        is_kept && self.eras.may_be_lost(by) && stored.is_none_or(|stored| !same(outcome, stored))
    }

    /// Returns true if a command may be tried again after its dead letter was written: consumers
    /// begin anew after a failover, and where their stream was lost.
    #[must_use]
    pub fn is_tried_again(&self, by: &Operation) -> bool {
        self.eras.ended_after(by) || self.was_lost_after("COMMANDS", by)
    }

    /// Returns true if dead letters, or what was done with them, may be lost since a moment.
    #[must_use]
    pub fn are_letters_lost_after(&self, at: Micros) -> bool {
        let is_it = |lost: &str| lost == "DLQ" || lost == "*";
        self.lost.iter().any(|(lost, _, when)| is_it(lost) && *when >= at)
            || self.eras.lost_after(at)
    }
}
