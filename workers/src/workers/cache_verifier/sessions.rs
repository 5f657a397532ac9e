//! What is cached of users' sessions, verified with the events that say what must stand there.
//!
//! Consumes the events that touch the part `auth` (stream `EVENTS`) and compares the key in
//! `user_state`. It writes no key: a consumer that did would put an old session over a new one.
//!
//! | finding | what it is | what is done |
//! |---|---|---|
//! | ok | the event's version, or a later one that SQL knows | nothing |
//! | missing, stale | no value, or an earlier one, at three looks | command-handler is asked to show it |
//! | ahead | a later version than SQL has ever had | reported only, as by [`super::audit`] |
//!
//! Side effects of an event happen here too, once per event and outside of any answer: a row in
//! `user_activity`, and [`Preload`] for whoever has logged in.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    time::Duration,
};

use async_nats::{Client, HeaderMap, Request};
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

use crate::{
    infra::{
        Context, Kv,
        postgres::{Failure, bounded, failure},
    },
    runtime::{Delivery, Handler, Turn, Verdict},
    store::rows::keys,
};

/// Between the looks at a suspect; longer than a commit takes to be shown.
const PAUSE: Duration = Duration::from_secs(1);
/// Looks after the first one.
const LOOKS: usize = 2;
/// An answer takes milliseconds. What is not answered by then is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nobody waits for what is only to be warm.
const PRELOAD_PATIENCE: Duration = Duration::from_millis(500);

/// What is done ahead for a user who has logged in and is about to ask.
pub trait Preload: Send + Sync + 'static {
    /// Best effort: it is not done again.
    fn preload(&self, user: &Address) -> impl Future<Output = ()> + Send;
}

/// Asks edge for the user's state, so that Postgres and edge have it at hand.
pub struct AskForState(pub Client);

impl Preload for AskForState {
    async fn preload(&self, user: &Address) {
        let request = Request::new().timeout(Some(PRELOAD_PATIENCE));
        if let Err(error) = self.0.send_request(subject::query_user_state(user), request).await {
            tracing::debug!(%error, "nothing is preloaded");
        }
    }
}

/// Verifies sessions.
pub struct Sessions<P> {
    cx: Context,
    user_state: Kv,
    preload: P,
}

/// An event, as far as it says what must be cached.
#[derive(Debug, PartialEq)]
pub struct Event {
    id: Uuid,
    user: Address,
    /// Of the part `auth`, which the event touched.
    version: u64,
    name: Token,
    at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Ok,
    Missing,
    Stale,
    Ahead,
}

impl Finding {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Ahead => "ahead",
        }
    }

    /// `sql`: the version that SQL had after the cache was looked at.
    fn of(event: u64, cached: Option<u64>, sql: u64) -> Self {
        match cached {
            None => Self::Missing,
            Some(cached) if cached < event => Self::Stale,
            Some(cached) if cached > sql => Self::Ahead,
            Some(_) => Self::Ok,
        }
    }
}

impl<P: Preload> Sessions<P> {
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(cx: &Context, preload: P) -> anyhow::Result<Self> {
        let user_state = Kv::open(&cx.nats, Bucket::UserState).await?;
        Ok(Self { cx: cx.clone(), user_state, preload })
    }

    /// The verdict about each event, and its findings reported and acted upon.
    async fn verify(&self, events: &[Event]) -> anyhow::Result<Vec<Verdict>> {
        let mut findings = self.look(events).await?;
        for _ in 0..LOOKS {
            if findings.iter().all(|finding| *finding == Finding::Ok) {
                break;
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = self.cx.drain.cancelled() => anyhow::bail!("draining"),
            }
            findings = self.look(events).await?;
        }
        Ok(join_all(events.iter().zip(findings).map(|(e, found)| self.act(e, found))).await)
    }

    async fn look(&self, events: &[Event]) -> anyhow::Result<Vec<Finding>> {
        let read = events.iter().map(|event| {
            let key = key::user_state(&event.user, Part::Auth);
            async move { self.user_state.get(&key).await }
        });
        let cached = join_all(read).await;
        // After the cache: what is shown was committed before.
        let sql = bounded(&self.cx.postgres, async |c| versions(c, events).await).await?;
        let findings = events.iter().zip(cached).map(|(event, cached)| {
            let sql = sql.get(&event.user).copied().unwrap_or(0);
            Ok(Finding::of(event.version, cached?.map(|entry| entry.version), sql))
        });
        findings.collect()
    }

    async fn act(&self, event: &Event, finding: Finding) -> Verdict {
        let (worker, found) = (self.cx.worker, finding.as_str());
        self.cx.metrics.session_checks.with_label_values(&[found]).inc();
        let (user, version) = (&event.user, event.version);
        match finding {
            Finding::Ok => Verdict::Done,
            Finding::Ahead => {
                let key = key::user_state(user, Part::Auth);
                tracing::error!(%worker, %user, key, "ahead of SQL; purge the key to have it healed");
                Verdict::Done
            }
            Finding::Missing | Finding::Stale => {
                tracing::warn!(%worker, %user, version, found, "a cached session is wrong");
                self.cx.metrics.rebuilds_asked.inc();
                self.ask_to_rebuild(event, finding).await
            }
        }
    }

    /// Has the owner of the part show it again; at most once per event.
    async fn ask_to_rebuild(&self, event: &Event, finding: Finding) -> Verdict {
        let found = Text::new(finding.as_str().to_owned()).ok();
        let body =
            Body::Rebuild(Aggregate::User, Rebuild { part: Some(Part::Auth), finding: found });
        let (_, payload) = body.encode();
        let mut headers = HeaderMap::new();
        headers.insert(header::COMMAND_ID, format!("verified-{}", event.id.simple()));
        headers.insert(header::ACTOR, self.cx.worker.as_str());
        let request = Request::new().headers(headers).payload(payload.into());
        let request = request.timeout(Some(PATIENCE));
        let asked = self.cx.nats.client.send_request(subject::rebuild_cache(&event.user), request);
        match asked.await {
            Ok(answer) => verdict(&answer.payload),
            Err(error) => Verdict::Away(format!("command-handler: {error}")),
        }
    }

    /// The side effects of events that had none yet.
    async fn note(&self, events: &[Event]) -> sqlx::Result<()> {
        let new = bounded(&self.cx.postgres, async |c| note_activity(c, events).await).await?;
        let logged_in = events
            .iter()
            .filter(|event| new.contains(&event.id) && event.name.as_str() == USER_LOGGED_IN.name);
        join_all(logged_in.map(|event| self.preload.preload(&event.user))).await;
        Ok(())
    }
}

impl<P: Preload> Handler for Sessions<P> {
    type Message = Event;

    fn decode(&self, delivery: &Delivery) -> Result<Event, String> {
        decode(delivery)
    }

    async fn handle(&self, batch: Vec<Event>, _turn: Turn) -> Vec<Verdict> {
        self.cx.fail.point("cache-verifier.before_verify").await;
        if let Err(error) = self.note(&batch).await {
            return vec![unread(&error.into()); batch.len()];
        }
        let verdicts = self.verify(&batch).await;
        self.cx.fail.point("cache-verifier.after_verify").await;
        verdicts.unwrap_or_else(|error| vec![unread(&error); batch.len()])
    }
}

fn unread(error: &anyhow::Error) -> Verdict {
    match error.downcast_ref::<sqlx::Error>().map(failure) {
        Some(Failure::Fault) => Verdict::Retry(error.to_string()),
        Some(Failure::Away | Failure::Conflict) | None => Verdict::Away(format!("{error:#}")),
    }
}

fn verdict(answer: &[u8]) -> Verdict {
    match serde_json::from_slice::<Outcome>(answer) {
        Ok(Outcome { status: 200, .. }) => Verdict::Done,
        Ok(Outcome { status: 429 | 503, code, .. }) => {
            Verdict::Away(format!("command-handler: {code}"))
        }
        Ok(Outcome { status, code, .. }) => Verdict::Retry(format!("{status} {code}")),
        Err(_) => Verdict::Retry("an answer that is no outcome".to_owned()),
    }
}

fn decode(delivery: &Delivery) -> Result<Event, String> {
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
    Ok(Event { id, user, version, name, at })
}

/// The versions of the part `auth` in SQL.
async fn versions(
    postgres: &mut PgConnection,
    events: &[Event],
) -> sqlx::Result<HashMap<Address, u64>> {
    let (tenants, ids) = keys(Aggregate::User, events.iter().map(|event| &event.user));
    let rows = sqlx::query!(
        r#"select distinct tenant as "tenant!", id as "id!", (parts ->> 'auth')::bigint as "version!"
           from unnest($1::text[], $2::text[]) as asked (tenant, id)
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

/// Notes events that are not noted yet, and returns which these were.
async fn note_activity(
    postgres: &mut PgConnection,
    events: &[Event],
) -> sqlx::Result<HashSet<Uuid>> {
    let text = |f: fn(&Event) -> &Token| events.iter().map(|e| f(e).as_str()).collect::<Vec<_>>();
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

    #[test]
    fn each_finding_is_told_from_the_versions() {
        assert_eq!(Finding::of(3, None, 3), Finding::Missing);
        assert_eq!(Finding::of(3, Some(2), 3), Finding::Stale);
        assert_eq!(Finding::of(3, Some(3), 3), Finding::Ok);
        assert_eq!(Finding::of(3, Some(5), 5), Finding::Ok, "the user went on");
        assert_eq!(Finding::of(3, Some(6), 5), Finding::Ahead);
    }

    #[test]
    fn each_answer_has_its_verdict() {
        let answered = |status: u16, code: &str| {
            let outcome = serde_json::json!({
                "command_id": "k1", "status": status, "code": code, "message": "",
                "aggregate": "user", "id": "ada", "version": 7, "etag": null, "effects": [],
                "data": {}, "retry_after_ms": null,
            });
            verdict(outcome.to_string().as_bytes())
        };
        assert_eq!(answered(200, "ok"), Verdict::Done);
        assert!(matches!(answered(503, "busy"), Verdict::Away(_)));
        assert!(matches!(answered(429, "too_many"), Verdict::Away(_)));
        assert!(matches!(answered(404, "not_found"), Verdict::Retry(_)));
        assert!(matches!(verdict(b"not JSON"), Verdict::Retry(_)));
    }
}
