//! What the streams keep: commands of the durable door, and events.

use std::time::Duration;

use anyhow::Result;
use async_nats::{
    HeaderMap,
    jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
};
use brigade_contracts::{Address, Aggregate, Token, header, subject};
use futures::TryStreamExt as _;
use time::OffsetDateTime;

use super::{
    Passed, Station, Step, Trace, Traced, Tracer,
    decided::{StoredEvent, StoredOutcome},
};
use crate::runtime::delivery::pairs;

/// The most messages that are read to find one.
const MOST: usize = 5000;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which the server deletes the consumer of one who was interrupted.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// How far the clocks of NATS and Postgres may be from each other.
const CLOCKS: time::Duration = time::Duration::seconds(30);

/// A message of a stream, without its payload.
pub(super) struct StoredMessage {
    subject: String,
    headers: HeaderMap,
    sequence: u64,
    at: OffsetDateTime,
}

/// Messages that were read; `complete` if there are no more of them.
struct Read {
    messages: Vec<StoredMessage>,
    complete: bool,
}

impl StoredMessage {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }

    fn command_id(&self) -> Option<String> {
        header::command_id(pairs(Some(&self.headers))).ok().map(|id| id.to_string())
    }
}

impl Tracer {
    /// Says when a command was received: the durable door stores it, a request is not kept.
    pub(super) async fn received(&self, outcome: &StoredOutcome) -> Result<Step> {
        if !outcome.subject.starts_with("cmd.") {
            let what = "a request is not stored; not later than it was decided";
            return Ok(Step::unknown(Station::Received, what).by(outcome.who()));
        }
        let read = self.read("COMMANDS", outcome.subject.clone(), DeliverPolicy::All).await?;
        let found =
            read.messages.iter().find(|m| m.command_id().as_deref() == Some(&outcome.command_id));
        Ok(match found {
            Some(message) => {
                let what = format!("message {} of COMMANDS", message.sequence);
                Step::new(Station::Received, Passed::Yes, what).at(message.at).by(outcome.who())
            }
            None => {
                let what =
                    "COMMANDS does not hold it any more: what is decided leaves after an hour";
                Step::unknown(Station::Received, what).by(outcome.who())
            }
        })
    }

    /// Returns the ways of commands that are stored and not decided, but for those that are known.
    pub(super) async fn undecided(
        &self,
        traced: &Traced,
        tenant: Option<&str>,
        known: &[(String, String)],
    ) -> Result<Vec<Trace>> {
        let tenant = tenant.unwrap_or("*");
        let filter = match traced {
            Traced::Command(_) => format!("cmd.{tenant}.>"),
            Traced::Aggregate(kind, id) => format!("cmd.{tenant}.{kind}.{id}.*"),
        };
        let read = self.read("COMMANDS", filter, DeliverPolicy::All).await?;
        let mut traces = Vec::new();
        for message in &read.messages {
            let Some(command_id) = message.command_id() else { continue };
            let tenant = subject::tenant_of(&message.subject).unwrap_or_default().to_owned();
            let is_asked_for = match traced {
                Traced::Command(id) => *id == command_id,
                Traced::Aggregate(..) => true,
            };
            let key = (tenant, command_id);
            if !is_asked_for || known.contains(&key) || self.is_decided(&key).await? {
                continue;
            }
            let (tenant, command_id) = key;
            let what = format!("message {} of COMMANDS: {}", message.sequence, message.subject);
            let actor = message.header(header::ACTOR).map(ToOwned::to_owned);
            let mut steps =
                vec![Step::new(Station::Received, Passed::Yes, what).at(message.at).by(actor)];
            let dead = self.dead(&tenant, &command_id).await?;
            let what = if dead.is_empty() {
                "it waits for command-handler: `brigade status`"
            } else {
                "it became a dead letter"
            };
            steps.push(Step::new(Station::Decided, Passed::NotYet, what));
            steps.extend(dead);
            traces.push(Trace { tenant, command_id, steps });
        }
        if !read.complete && traces.is_empty() && known.is_empty() {
            anyhow::bail!("not found among the {MOST} oldest commands; name its tenant: --tenant");
        }
        if traces.is_empty()
            && known.is_empty()
            && let Traced::Command(id) = traced
        {
            traces.extend(self.only_dead(id, tenant).await?);
        }
        Ok(traces)
    }

    async fn is_decided(&self, (tenant, command_id): &(String, String)) -> Result<bool> {
        let decided = sqlx::query_scalar!(
            r#"select exists (select from brigade.command_inbox
                              where tenant = $1 and command_id = $2) as "is!""#,
            tenant,
            command_id,
        );
        Ok(decided.fetch_one(&self.postgres).await?)
    }

    /// Says when an event was stored by JetStream.
    pub(super) async fn relayed(
        &self,
        outcome: &StoredOutcome,
        event: &StoredEvent,
    ) -> Result<Step> {
        let name = event.name();
        if event.waits {
            let what = format!("{name} waits in the outbox for outbox-relay");
            return Ok(Step::new(Station::Relayed, Passed::NotYet, what));
        }
        let Some(filter) = subject_of(&outcome.tenant, event) else {
            return Ok(Step::unknown(Station::Relayed, format!("{name} has no subject")));
        };
        let from = DeliverPolicy::ByStartTime { start_time: event.at - CLOCKS };
        let read = self.read("EVENTS", filter, from).await?;
        let id = event.event_id.to_string();
        let found = read.messages.iter().find(|message| {
            message.header(header::CE_ID) == Some(&id)
                || message.header(header::MSG_ID) == Some(&id)
        });
        Ok(match found {
            Some(message) => {
                let what = format!("{name} is message {} of EVENTS", message.sequence);
                Step::new(Station::Relayed, Passed::Yes, what)
                    .at(message.at)
                    .by(Some("outbox-relay".to_owned()))
            }
            None => {
                let what = format!(
                    "{name} has left the outbox, and EVENTS does not hold it: it keeps 7 days, or \
                     the event is a dead letter of outbox-relay"
                );
                Step::unknown(Station::Relayed, what)
            }
        })
    }

    /// Reads the headers of the first messages of a stream with these subjects.
    async fn read(&self, stream: &str, filter: String, from: DeliverPolicy) -> Result<Read> {
        let stream = self.js.get_stream_no_info(stream).await?;
        let config = pull::Config {
            description: Some("brigade trace".to_owned()),
            filter_subject: filter,
            deliver_policy: from,
            ack_policy: AckPolicy::None,
            headers_only: true,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: FORGOTTEN,
            ..pull::Config::default()
        };
        let consumer: PullConsumer = stream.create_consumer(config).await?;
        let pending = usize::try_from(consumer.cached_info().num_pending).unwrap_or(MOST);
        let wanted = pending.min(MOST);
        let mut messages = Vec::with_capacity(wanted);
        if wanted > 0 {
            let mut batch =
                consumer.fetch().max_messages(wanted).expires(TIMEOUT).messages().await?;
            while let Some(message) = batch.try_next().await.map_err(anyhow::Error::from_boxed)? {
                let info = message.info().map_err(anyhow::Error::from_boxed)?;
                let (sequence, at) = (info.stream_sequence, info.published);
                let headers = message.headers.clone().unwrap_or_default();
                let subject = message.subject.to_string();
                messages.push(StoredMessage { subject, headers, sequence, at });
            }
        }
        // If this fails the server deletes it later.
        let _deleted = stream.delete_consumer(&consumer.cached_info().name).await;
        Ok(Read { messages, complete: pending <= MOST })
    }
}

/// The subject that an event is published under.
fn subject_of(tenant: &str, event: &StoredEvent) -> Option<String> {
    let aggregate = Aggregate::parse(&event.aggregate)?;
    let address = Address::new(tenant, aggregate, &event.id).ok()?;
    Some(subject::event(&address, &Token::new(&event.kind).ok()?))
}
