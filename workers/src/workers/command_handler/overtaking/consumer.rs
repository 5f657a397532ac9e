//! The consumers of the lanes, at the server.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::response::Response;
use serde_json::{Value, json};

use crate::{
    infra::{Context, Nats},
    runtime::consume::BACKLOG,
};

const STREAM: &str = "COMMANDS";
/// A lane begins this many messages before the position of the consumer below it: they may be in
/// hand, or wait for their next try.
const IN_HAND: u64 = 4096;
/// The server deletes a consumer that is not used for this long.
const INACTIVE: Duration = Duration::from_secs(30);
/// The key of the consumer's metadata that names the heavy tenants.
const HEAVY: &str = "overtaken";
/// `JSConsumerNotFoundErr` of nats-server.
const NOT_FOUND: u64 = 10014;

/// A consumer as the server describes it.
#[derive(Clone, Debug, Default)]
pub(super) struct ConsumerState {
    pub(super) created: String,
    pub(super) pending: u64,
    /// The number of messages that are in hand or wait for their next try.
    pub(super) unacknowledged: u64,
    pub(super) max_unacknowledged: u64,
    /// Everything up to this sequence is acknowledged.
    pub(super) floor: u64,
    /// The last sequence that it has delivered.
    pub(super) delivered: u64,
    /// The tenants whose commands it delivers; `None`: all.
    pub(super) tenants: Option<BTreeSet<String>>,
    pub(super) heavy: BTreeSet<String>,
}

impl ConsumerState {
    /// Returns the first sequence of a lane that overtakes this consumer.
    pub(super) fn start_above(&self) -> u64 {
        (self.floor + 1).max(self.delivered.saturating_sub(IN_HAND))
    }

    /// Returns whether tenants have to wait for it.
    pub(super) fn is_overtaken(&self) -> bool {
        self.pending > BACKLOG || self.is_stalled()
    }

    /// Returns whether it delivers nothing new, or may do so soon: half of the messages that may
    /// wait for their next try do.
    pub(super) fn is_stalled(&self) -> bool {
        self.unacknowledged * 2 >= self.max_unacknowledged
    }

    pub(super) fn delivers(&self, tenant: &str) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }
}

/// Looks up a consumer; `None` if it does not exist.
pub(super) async fn look_up(nats: &Nats, durable: &str) -> anyhow::Result<Option<ConsumerState>> {
    let subject = format!("CONSUMER.INFO.{STREAM}.{durable}");
    let info: Value = match nats.jetstream.request(subject, &json!({})).await? {
        Response::Ok(info) => info,
        Response::Err { error } if error.error_code().0 == NOT_FOUND => return Ok(None),
        Response::Err { error } => return Err(error.into()),
    };
    state_of(&info)
        .with_context(|| format!("the information about {durable} lacks a field"))
        .map(Some)
}

fn state_of(info: &Value) -> Option<ConsumerState> {
    let filters = info["config"]["filter_subjects"].as_array().cloned().unwrap_or_default();
    let tenants: BTreeSet<_> =
        filters.iter().filter_map(|filter| tenant(filter.as_str()?)).map(str::to_owned).collect();
    let heavy = info["config"]["metadata"][HEAVY].as_str().unwrap_or_default();
    Some(ConsumerState {
        created: info["created"].as_str()?.to_owned(),
        pending: info["num_pending"].as_u64()?,
        unacknowledged: info["num_ack_pending"].as_u64()?,
        // A negative number stands for no limit.
        max_unacknowledged: info["config"]["max_ack_pending"].as_u64().unwrap_or(u64::MAX),
        floor: info["ack_floor"]["stream_seq"].as_u64()?,
        delivered: info["delivered"]["stream_seq"].as_u64()?,
        tenants: (!tenants.is_empty()).then_some(tenants),
        heavy: heavy.split_whitespace().map(str::to_owned).collect(),
    })
}

fn filter(tenant: &str) -> String {
    format!("cmd.{tenant}.>")
}

fn tenant(filter: &str) -> Option<&str> {
    filter.strip_prefix("cmd.")?.strip_suffix(".>")
}

/// Makes a consumer like the shared one, which delivers the commands of these tenants from `start`
/// on. Its state is in memory: if it is lost, the consumer is made again.
pub(super) async fn make(
    cx: &Context,
    durable: &str,
    tenants: &BTreeSet<String>,
    heavy: &BTreeSet<String>,
    start: u64,
) -> anyhow::Result<()> {
    let shared = cx.topology.consumer(STREAM, cx.worker.as_str()).context("no shared consumer")?;
    let heavy: Vec<_> = heavy.iter().map(String::as_str).collect();
    let config = json!({
        "name": durable,
        "durable_name": durable,
        "description": "There only while it overtakes what the tenants below flood the stream with",
        "metadata": { HEAVY: heavy.join(" ") },
        "filter_subjects": tenants.iter().map(|tenant| filter(tenant)).collect::<Vec<_>>(),
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start,
        "ack_policy": shared["ack_policy"],
        "ack_wait": shared["ack_wait"],
        "max_ack_pending": shared["max_ack_pending"],
        "inactive_threshold": INACTIVE.as_nanos(),
        "mem_storage": true,
    });
    let create = json!({ "stream_name": STREAM, "config": config, "action": "create" });
    request(&cx.nats, format!("CONSUMER.CREATE.{STREAM}.{durable}"), &create).await
}

pub(super) async fn delete(nats: &Nats, durable: &str) -> anyhow::Result<()> {
    request(nats, format!("CONSUMER.DELETE.{STREAM}.{durable}"), &json!({})).await
}

async fn request(nats: &Nats, subject: String, request: &Value) -> anyhow::Result<()> {
    match nats.jetstream.request(subject, request).await? {
        Response::Ok::<Value>(_) => Ok(()),
        Response::Err { error } => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_lane_begins_with_messages_that_may_be_in_hand() {
        let start = |floor, delivered| {
            ConsumerState { floor, delivered, ..ConsumerState::default() }.start_above()
        };
        assert_eq!(start(0, 0), 1);
        assert_eq!(start(1000, 1700), 1001);
        assert_eq!(start(1000, 100_000), 100_000 - IN_HAND, "one message waits for long");
    }

    #[test]
    fn a_consumer_is_read_as_it_was_made() {
        let info = json!({
            "created": "now", "num_pending": 5, "num_ack_pending": 6,
            "ack_floor": {"stream_seq": 7}, "delivered": {"stream_seq": 9},
            "config": {
                "max_ack_pending": 12, "filter_subjects": [filter("b"), filter("c")],
                "metadata": { HEAVY: "a z", "_nats.ver": "2" },
            },
        });
        let read = state_of(&info).unwrap();
        assert!(read.is_stalled(), "half of what may be pending is");
        assert!(!ConsumerState { unacknowledged: 5, ..read.clone() }.is_overtaken());
        assert_eq!((read.tenants, read.heavy), (Some(names(&["b", "c"])), names(&["a", "z"])));
        assert_eq!((read.pending, read.floor, read.delivered), (5, 7, 9));
        let mut shared = info.clone();
        shared["config"]["filter_subjects"] = json!(["cmd.>"]);
        assert_eq!(state_of(&shared).unwrap().tenants, None);
        assert!(state_of(&json!({})).is_none());
    }
}
