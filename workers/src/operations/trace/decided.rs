//! What SQL keeps of a command: its outcome, and its events.

use anyhow::Result;
use brigade_contracts::{Aggregate, Token};
use time::OffsetDateTime;

use super::{MAX_COMMANDS, Passed, Station, Step, Tracer};

/// An outcome in the inbox.
pub(super) struct StoredOutcome {
    pub tenant: String,
    pub command_id: String,
    /// `<door>.<tenant>.<aggregate>.<id>.<verb>`
    pub subject: String,
    pub status: i32,
    pub code: String,
    pub actor: Option<String>,
    pub via: String,
    pub decided_at: OffsetDateTime,
}

/// An event of a command.
pub(super) struct StoredEvent {
    pub event_id: uuid::Uuid,
    pub aggregate: String,
    pub id: String,
    pub version: i64,
    pub kind: String,
    pub at: OffsetDateTime,
    /// It waits in the outbox for the first time.
    pub waits: bool,
}

impl StoredOutcome {
    /// The aggregate that the command named.
    pub fn target(&self) -> (&str, &str) {
        let mut tokens = self.subject.split('.').skip(2);
        (tokens.next().unwrap_or_default(), tokens.next().unwrap_or_default())
    }

    pub fn step(&self) -> Step {
        let target = self.subject.splitn(3, '.').nth(2).unwrap_or_default();
        let what = format!("{target}: {} {}", self.status, self.code);
        Step::new(Station::Decided, Passed::Yes, what).at(self.decided_at).by(self.who())
    }

    /// Who sent it, and the way by which that is known.
    pub fn who(&self) -> Option<String> {
        let actor = self.actor.as_deref().unwrap_or("nobody named");
        Some(format!("{actor} via {}", self.via))
    }
}

impl Tracer {
    /// Returns the outcomes of a Command-Id, by tenant.
    pub(super) async fn outcomes_of_id(
        &self,
        id: &str,
        tenant: Option<&str>,
    ) -> Result<Vec<StoredOutcome>> {
        // From tenant to tenant: the inbox is found by both.
        let found = sqlx::query_as!(
            StoredOutcome,
            r#"select i.tenant, i.command_id, i.subject, i.actor, i.decided_at,
                      coalesce(i.via, 'a way that is not kept') as "via!",
                      (i.outcome ->> 'status')::int as "status!",
                      coalesce(i.outcome ->> 'code', '') as "code!"
               from brigade.tenants t
               join brigade.command_inbox i on i.tenant = t.tenant and i.command_id = $1
               where $2::text is null or t.tenant = $2
               order by i.decided_at limit $3"#,
            id,
            tenant,
            MAX_COMMANDS,
        );
        Ok(found.fetch_all(&self.postgres).await?)
    }

    /// Returns the outcomes of the newest commands that changed an aggregate, oldest first.
    pub(super) async fn outcomes_of_aggregate(
        &self,
        kind: Aggregate,
        id: &Token,
        tenant: Option<&str>,
    ) -> Result<Vec<StoredOutcome>> {
        let found = sqlx::query_as!(
            StoredOutcome,
            r#"with newest as (
                   select e.tenant, e.command_id, max(e.seq) as seq
                   from brigade.tenants t
                   cross join lateral (
                       select e.tenant, e.command_id, e.seq from brigade.events e
                       where e.tenant = t.tenant and e.aggregate = $1 and e.id = $2
                       order by e.version desc limit $4) e
                   where $3::text is null or t.tenant = $3
                   group by e.tenant, e.command_id order by max(e.seq) desc limit $4
               )
               select i.tenant, i.command_id, i.subject, i.actor, i.decided_at,
                      coalesce(i.via, 'a way that is not kept') as "via!",
                      (i.outcome ->> 'status')::int as "status!",
                      coalesce(i.outcome ->> 'code', '') as "code!"
               from newest n join brigade.command_inbox i using (tenant, command_id)
               order by i.decided_at"#,
            kind.as_str(),
            id.as_str(),
            tenant,
            MAX_COMMANDS,
        );
        Ok(found.fetch_all(&self.postgres).await?)
    }

    /// Returns the events of a command: those of the aggregate that it named, and those beside
    /// them of others that it changed.
    pub(super) async fn events_of(&self, outcome: &StoredOutcome) -> Result<Vec<StoredEvent>> {
        let (aggregate, id) = outcome.target();
        // The events of a batch have numbers that follow each other.
        let found = sqlx::query_as!(
            StoredEvent,
            r#"with own as (
                   select seq from brigade.events
                   where tenant = $1 and aggregate = $2 and id = $3 and command_id = $4
                   order by version desc limit 1
               ), near as (
                   select distinct e.seq from own, brigade.events e
                   where e.seq between own.seq - 5000 and own.seq + 5000
                     and e.tenant = $1 and e.command_id = $4
               )
               select e.event_id, e.aggregate, e.id, e.version, e.type as kind, e.at,
                      exists (select from generate_series(0, 15) as shard (n)
                              join brigade.outbox o on o.shard = shard.n and o.seq = e.seq
                             ) as "waits!"
               from near join brigade.events e using (seq) order by e.seq"#,
            outcome.tenant,
            aggregate,
            id,
            outcome.command_id,
        );
        Ok(found.fetch_all(&self.postgres).await?)
    }

    /// Says when the decision was committed: Postgres keeps that only where it was told to.
    pub(super) async fn committed(&self, outcome: &StoredOutcome) -> Result<Step> {
        let is_kept: String =
            sqlx::query_scalar("show track_commit_timestamp").fetch_one(&self.postgres).await?;
        let at: Option<OffsetDateTime> = if is_kept == "on" {
            sqlx::query_scalar(
                "select pg_xact_commit_timestamp(xmin) from brigade.command_inbox
                 where tenant = $1 and command_id = $2",
            )
            .bind(&outcome.tenant)
            .bind(&outcome.command_id)
            .fetch_optional(&self.postgres)
            .await?
            .flatten()
        } else {
            None
        };
        let step = Step::new(Station::Committed, Passed::Yes, "its outcome stands in the inbox");
        Ok(match at {
            Some(at) => step.at(at),
            None => Step {
                what: "its outcome stands in the inbox; when is unknown, since Postgres keeps no \
                       times of commits (track_commit_timestamp)"
                    .to_owned(),
                ..step
            },
        })
    }
}

impl StoredEvent {
    pub fn name(&self) -> String {
        format!("{}.{}.{} (version {})", self.aggregate, self.id, self.kind, self.version)
    }
}
