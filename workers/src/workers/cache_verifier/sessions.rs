//! Verifies the cached sessions of users against the events that determine them.
//!
//! Consumes the events that touch the part `auth` (stream `EVENTS`) and compares the key in
//! `user_state`. It writes no key: a consumer that did would put an old session over a new one.
//!
//! | finding | meaning | action |
//! |---|---|---|
//! | ok | the key has the event's version, or a later one that SQL knows | none |
//! | missing, stale | no value or an earlier version, in three reads | projected by command-handler |
//! | ahead | a later version than SQL has ever had | an error is logged, as by [`super::audit`] |
//!
//! Side effects of an event happen here too, once per event and not on the path of any reply: a row
//! in `user_activity`, and [`Preload`] for a user who has logged in.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use async_nats::{Client, Request};
use brigade_contracts::{
    Address, Aggregate, Body, Outcome, Part, Text, Timestamp, Token,
    event::{Payload, USER_LOGGED_IN},
    header,
    key::{self, Bucket},
    rebuild::Rebuild,
    subject,
};
use futures::future::join_all;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::sleep;
use uuid::Uuid;

use super::VerifierMetrics;
use crate::{
    infra::{
        Context, Kv,
        postgres::{Failure, bounded, failure},
    },
    runtime::{BatchPermit, CommandClient, CommandOptions, Delivery, Handler, NotDecided, Verdict},
    store::rows::keys,
};

/// The time between two reads of a suspect; longer than the projection of a commit takes.
const PAUSE: Duration = Duration::from_secs(1);
/// Reads after the first one.
const REREADS: usize = 2;
/// An outcome takes milliseconds. Without one by then the event is handled again.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Nothing depends on a preload.
const PRELOAD_TIMEOUT: Duration = Duration::from_millis(500);

/// Prepares the queries of a user who has just logged in.
pub trait Preload: Send + Sync + 'static {
    /// Preloads what a user's next queries need. Best effort: it is not repeated.
    fn preload(&self, user: &Address) -> impl Future<Output = ()> + Send;
}

/// Queries the user's state from edge, so that it is in the caches of Postgres and edge.
pub struct AskForState(pub Client);

impl Preload for AskForState {
    async fn preload(&self, user: &Address) {
        let request = Request::new().timeout(Some(PRELOAD_TIMEOUT));
        if let Err(error) = self.0.send_request(subject::query_user_state(user), request).await {
            tracing::debug!(%error, "preload failed");
        }
    }
}

/// The handler that verifies sessions.
pub struct SessionVerifier<P> {
    cx: Context,
    metrics: Arc<VerifierMetrics>,
    user_state: Kv,
    preload: P,
}

/// An event that touched a session.
#[derive(Debug, PartialEq)]
pub struct SessionEvent {
    id: Uuid,
    user: Address,
    /// The version of the part `auth` after the event.
    version: u64,
    name: Token,
    at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionFinding {
    Ok,
    Missing,
    Stale,
    Ahead,
}

impl SessionFinding {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Missing, Self::Stale, Self::Ahead];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Ahead => "ahead",
        }
    }

    /// Compares versions; `sql` is the one that SQL had after the cache was read.
    fn of(event: u64, cached: Option<u64>, sql: u64) -> Self {
        match cached {
            None => Self::Missing,
            Some(cached) if cached < event => Self::Stale,
            Some(cached) if cached > sql => Self::Ahead,
            Some(_) => Self::Ok,
        }
    }
}

impl<P: Preload> SessionVerifier<P> {
    /// Opens the bucket of the cached sessions.
    ///
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(cx: &Context, preload: P) -> anyhow::Result<Self> {
        let user_state = Kv::open(&cx.nats, cx.era, Bucket::UserState).await?;
        Ok(Self { cx: cx.clone(), metrics: cx.metrics.group(), user_state, preload })
    }

    /// Compares the keys of the events with SQL, acts on the findings, and returns the verdicts.
    async fn verify(&self, events: &[SessionEvent]) -> anyhow::Result<Vec<Verdict>> {
        let mut findings = self.compare(events).await?;
        for _ in 0..REREADS {
            if findings.iter().all(|finding| *finding == SessionFinding::Ok) {
                break;
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = self.cx.drain.cancelled() => anyhow::bail!("draining"),
            }
            findings = self.compare(events).await?;
        }
        Ok(join_all(events.iter().zip(findings).map(|(e, finding)| self.act(e, finding))).await)
    }

    async fn compare(&self, events: &[SessionEvent]) -> anyhow::Result<Vec<SessionFinding>> {
        let read = events.iter().map(|event| {
            let key = key::user_state(&event.user, Part::Auth);
            async move { self.user_state.get(&key).await }
        });
        let cached = join_all(read).await;
        // After the cache: what is projected was committed before.
        let sql = bounded(&self.cx.postgres, async |c| versions(c, events).await).await?;
        let findings = events.iter().zip(cached).map(|(event, cached)| {
            let sql = sql.get(&event.user).copied().unwrap_or(0);
            Ok(SessionFinding::of(event.version, cached?.map(|entry| entry.version), sql))
        });
        findings.collect()
    }

    /// Counts, logs and acts on one finding.
    async fn act(&self, event: &SessionEvent, finding: SessionFinding) -> Verdict {
        let (worker, label) = (self.cx.worker, finding.as_str());
        self.metrics.session_checks.with_label_values(&[label]).inc();
        let (user, version) = (&event.user, event.version);
        match finding {
            SessionFinding::Ok => Verdict::Done,
            SessionFinding::Ahead => {
                let key = key::user_state(user, Part::Auth);
                tracing::error!(%worker, %user, key, "ahead of SQL: purge the key to heal it");
                Verdict::Done
            }
            SessionFinding::Missing | SessionFinding::Stale => {
                let finding = label;
                tracing::warn!(%worker, %user, version, finding, "cached session is wrong");
                self.metrics.rebuilds_requested.inc();
                self.rebuild(event, finding).await
            }
        }
    }

    /// Has command-handler project the part again; at most once per event.
    async fn rebuild(&self, event: &SessionEvent, finding: &str) -> Verdict {
        let finding = Text::new(finding.to_owned()).ok();
        let body = Body::Rebuild(Aggregate::User, Rebuild { part: Some(Part::Auth), finding });
        let command_id = Some(format!("verified-{}", event.id.simple()));
        let options = CommandOptions { command_id, ..Default::default() };
        let outcome = CommandClient::new(&self.cx, TIMEOUT).send(&event.user, &body, options).await;
        outcome.map_or_else(NotDecided::verdict, |outcome| verdict(&outcome))
    }

    /// Runs the side effects of the events that had none yet.
    async fn run_side_effects(&self, events: &[SessionEvent]) -> sqlx::Result<()> {
        let new = bounded(&self.cx.postgres, async |c| record_activity(c, events).await).await?;
        let logged_in = events
            .iter()
            .filter(|event| new.contains(&event.id) && event.name.as_str() == USER_LOGGED_IN.name);
        join_all(logged_in.map(|event| self.preload.preload(&event.user))).await;
        Ok(())
    }
}

impl<P: Preload> Handler for SessionVerifier<P> {
    type Message = SessionEvent;

    fn decode(&self, delivery: &Delivery) -> Result<SessionEvent, String> {
        decode(delivery)
    }

    async fn handle(&self, batch: Vec<SessionEvent>, _permit: BatchPermit) -> Vec<Verdict> {
        self.cx.fail.point("cache-verifier.before_verify").await;
        if let Err(error) = self.run_side_effects(&batch).await {
            return vec![not_verified(&error.into()); batch.len()];
        }
        let verdicts = self.verify(&batch).await;
        self.cx.fail.point("cache-verifier.after_verify").await;
        verdicts.unwrap_or_else(|error| vec![not_verified(&error); batch.len()])
    }
}

fn not_verified(error: &anyhow::Error) -> Verdict {
    match error.downcast_ref::<sqlx::Error>().map(failure) {
        Some(Failure::Fault) => Verdict::Retry(error.to_string()),
        Some(Failure::Away | Failure::Conflict) | None => Verdict::Away(format!("{error:#}")),
    }
}

fn verdict(outcome: &Outcome) -> Verdict {
    match outcome.status {
        200 => Verdict::Done,
        _ => NotDecided::unexpected(outcome).verdict(),
    }
}

fn decode(delivery: &Delivery) -> Result<SessionEvent, String> {
    let (user, name) =
        subject::parse_event(delivery.subject(), delivery.header(header::CE_SUBJECT))
            .ok_or("not an event's subject and ce-subject")?;
    let _whole: Payload =
        serde_json::from_slice(delivery.payload()).map_err(|error| error.to_string())?;
    let header =
        |name: &'static str| delivery.header(name).ok_or_else(|| format!("without {name}"));
    let id = Uuid::parse_str(header(header::CE_ID)?).map_err(|error| error.to_string())?;
    let version = header(header::AGGREGATE_VERSION)?.parse();
    let version = version.map_err(|error: std::num::ParseIntError| error.to_string())?;
    let at = Timestamp::parse(header(header::CE_TIME)?);
    let at = at.map_err(|refusal| refusal.message.into_owned())?;
    Ok(SessionEvent { id, user, version, name, at })
}

/// Loads the versions of the part `auth`.
async fn versions(
    postgres: &mut PgConnection,
    events: &[SessionEvent],
) -> sqlx::Result<HashMap<Address, u64>> {
    let (tenants, ids) = keys(Aggregate::User, events.iter().map(|event| &event.user));
    let rows = sqlx::query!(
        r#"select distinct tenant as "tenant!", id as "id!", (parts ->> 'auth')::bigint as "version!"
           from unnest($1::text[], $2::text[]) as requested (tenant, id)
           join brigade.users using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(postgres)
    .await?;
    let version = |row: (String, String, i64)| {
        let user = Address::new(&row.0, Aggregate::User, &row.1).ok()?;
        Some((user, row.2.cast_unsigned()))
    };
    Ok(rows.into_iter().filter_map(|row| version((row.tenant, row.id, row.version))).collect())
}

/// Records the events that are not recorded yet, and returns their ids.
async fn record_activity(
    postgres: &mut PgConnection,
    events: &[SessionEvent],
) -> sqlx::Result<HashSet<Uuid>> {
    let text =
        |f: fn(&SessionEvent) -> &Token| events.iter().map(|e| f(e).as_str()).collect::<Vec<_>>();
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let versions: Vec<i64> = events.iter().map(|event| event.version.cast_signed()).collect();
    let times: Vec<OffsetDateTime> = events.iter().map(|event| event.at.inner()).collect();
    let new = sqlx::query_scalar!(
        "insert into brigade.user_activity (event_id, tenant, id, version, type, at)
         select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[],
                              $6::timestamptz[]) as new (event_id)
         order by event_id
         on conflict (event_id) do nothing
         returning event_id",
        &ids,
        &text(|event| &event.user.tenant) as _,
        &text(|event| &event.user.id) as _,
        &versions,
        &text(|event| &event.name) as _,
        &times,
    )
    .fetch_all(postgres)
    .await?;
    Ok(new.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::command_client::outcome;

    #[test]
    fn each_finding_follows_from_the_versions() {
        assert_eq!(SessionFinding::of(3, None, 3), SessionFinding::Missing);
        assert_eq!(SessionFinding::of(3, Some(2), 3), SessionFinding::Stale);
        assert_eq!(SessionFinding::of(3, Some(3), 3), SessionFinding::Ok);
        assert_eq!(SessionFinding::of(3, Some(5), 5), SessionFinding::Ok, "the user went on");
        assert_eq!(SessionFinding::of(3, Some(6), 5), SessionFinding::Ahead);
    }

    #[test]
    fn each_outcome_has_its_verdict() {
        assert_eq!(verdict(&outcome(200, "ok", None)), Verdict::Done);
        assert!(matches!(verdict(&outcome(404, "not_found", None)), Verdict::Retry(_)));
    }
}
