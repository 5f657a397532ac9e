//! What KV keeps: the newest version of each part.

use anyhow::Result;
use async_nats::jetstream::{response::Response, stream::RawMessage};
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade_contracts::{Address, Aggregate, Part, Timestamp, event, key, key::Bucket};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Passed, Station, Step, Tracer,
    decided::{StoredEvent, StoredOutcome},
};

/// The server's answer to the question for one message.
#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

/// What a key holds.
struct Held {
    version: i64,
    at: Timestamp,
}

impl Tracer {
    /// Says of the counter and of each part whether KV shows the version of an event, or a later
    /// one.
    pub(super) async fn projected(
        &self,
        outcome: &StoredOutcome,
        event: &StoredEvent,
    ) -> Result<Vec<Step>> {
        let Some(aggregate) = Aggregate::parse(&event.aggregate) else { return Ok(Vec::new()) };
        let Ok(address) = Address::new(&outcome.tenant, aggregate, &event.id) else {
            return Ok(Vec::new());
        };
        let backlog = sqlx::query_scalar!(
            r#"select exists (select from brigade.projection_backlog
                              where tenant = $1 and aggregate = $2 and id = $3) as "is!""#,
            outcome.tenant,
            event.aggregate,
            event.id,
        );
        let backlog = backlog.fetch_one(&self.postgres).await?;
        let versions = self.held(Bucket::Versions, &key::versions(&address)).await?;
        let mut steps = vec![step(event, "the counter", versions.as_ref(), backlog)];
        // Parts that it did not touch keep their versions.
        for part in touched(event, aggregate) {
            let (bucket, key) = match aggregate {
                Aggregate::User => (Bucket::UserState, key::user_state(&address, part)),
                _ => (Bucket::Views, key::view(&address, part)),
            };
            let held = self.held(bucket, &key).await?;
            let name = format!("part {}", part.as_str());
            if held.is_none() && event.waits && part.is_written_by_projector() {
                let what =
                    format!("{name} of {}.{} waits for its event", event.aggregate, event.id);
                steps.push(Step::new(Station::Projected, Passed::NotYet, what));
                continue;
            }
            steps.push(step(event, &name, held.as_ref(), backlog));
        }
        Ok(steps)
    }

    async fn held(&self, bucket: Bucket, key: &str) -> Result<Option<Held>> {
        let asked = json!({ "last_by_subj": bucket.subject(key) });
        let found: Response<Found> =
            self.js.request(format!("STREAM.MSG.GET.{}", bucket.stream()), &asked).await?;
        let Response::Ok(Found { message }) = found else { return Ok(None) };
        let Ok(value) = BASE64_STANDARD.decode(&message.payload) else { return Ok(None) };
        let Ok(value) = serde_json::from_slice::<Value>(&value) else { return Ok(None) };
        let version = value["version"].as_i64();
        Ok(version.map(|version| Held { version, at: message.time.into() }))
    }
}

/// The parts that an event of this kind touches.
fn touched(stored: &StoredEvent, aggregate: Aggregate) -> Vec<Part> {
    let mut kinds = event::ALL.iter();
    let kind = kinds.find(|kind| kind.aggregate == aggregate && kind.name == stored.kind);
    kind.map(|kind| kind.touches.to_vec()).unwrap_or_default()
}

fn step(event: &StoredEvent, what: &str, held: Option<&Held>, in_backlog: bool) -> Step {
    let (name, version) = (format!("{}.{}", event.aggregate, event.id), event.version);
    match held {
        Some(held) if held.version == version => {
            let what = format!("KV shows version {version} of {name} in {what}");
            Step::new(Station::Projected, Passed::Yes, what).at(held.at)
        }
        Some(held) if held.version > version => {
            let what = format!(
                "KV shows a later version of {name}, {}, in {what}; when it showed {version} is not \
                 kept",
                held.version
            );
            Step::new(Station::Projected, Passed::Yes, what)
        }
        _ if in_backlog => {
            let what = format!("{name} waits in the projection backlog for command-handler");
            Step::new(Station::Projected, Passed::NotYet, what)
        }
        Some(held) => {
            let what =
                format!("KV shows version {} of {name} in {what}, not {version}", held.version);
            Step::new(Station::Projected, Passed::NotYet, what)
        }
        None => {
            let what = format!(
                "KV shows nothing of {name} in {what}: it was lost, or has ended and expired after \
                 7 days; queries read SQL"
            );
            Step::unknown(Station::Projected, what)
        }
    }
}
