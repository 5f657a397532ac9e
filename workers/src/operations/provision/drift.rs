//! The differences that an operator has to mend, in words for them.

use std::fmt;

use serde_json::{Value, json};

use super::compare::Difference;

/// `JSStreamNotFoundErr` and `JSConsumerNotFoundErr` of nats-server.
const ABSENT: [u64; 2] = [10059, 10014];

/// Settings that the server fixes when it makes a stream, or lets go one way only.
const FIXED_OF_STREAM: [&str; 8] = [
    "storage",
    "retention",
    "persist_mode",
    "max_consumers",
    "deny_delete",
    "deny_purge",
    "allow_msg_ttl",
    "allow_msg_schedules",
];

/// Settings that the server fixes when it makes a consumer.
const FIXED_OF_CONSUMER: [&str; 5] =
    ["deliver_policy", "ack_policy", "replay_policy", "opt_start_seq", "opt_start_time"];

/// Settings in nanoseconds.
const DURATIONS: [&str; 5] =
    ["max_age", "duplicate_window", "subject_delete_marker_ttl", "ack_wait", "inactive_threshold"];

/// A stream (also a bucket's), or a durable consumer of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopologyItem {
    Stream(String),
    Consumer(String, String),
}

/// A setting that is not as declared, and that only an operator may change.
#[derive(Debug)]
pub struct Drift {
    pub item: TopologyItem,
    pub setting: String,
    /// None: not declared, so the server's default is meant.
    pub declared: Option<Value>,
    pub found: Value,
}

impl TopologyItem {
    /// Returns a subject of the JetStream API. A consumer is updated by the subject that creates
    /// it.
    pub(super) fn subject(&self, verb: &str) -> String {
        match (self, verb) {
            (Self::Stream(name), verb) => format!("STREAM.{verb}.{name}"),
            (Self::Consumer(stream, name), "INFO") => format!("CONSUMER.INFO.{stream}.{name}"),
            (Self::Consumer(stream, name), _) => format!("CONSUMER.CREATE.{stream}.{name}"),
        }
    }

    pub(super) fn create(&self, config: Value) -> Value {
        self.request(config, "create")
    }

    pub(super) fn update(&self, config: Value) -> Value {
        self.request(config, "update")
    }

    fn request(&self, config: Value, action: &str) -> Value {
        match self {
            Self::Stream(_) => config,
            Self::Consumer(stream, _) => {
                json!({ "stream_name": stream, "config": config, "action": action })
            }
        }
    }

    pub(super) fn is_absent(&self, error: u64) -> bool {
        ABSENT.contains(&error)
    }

    fn is_fixed(&self, setting: &str) -> bool {
        match self {
            Self::Stream(_) => FIXED_OF_STREAM.contains(&setting),
            Self::Consumer(..) => FIXED_OF_CONSUMER.contains(&setting),
        }
    }

    /// The option of `nats stream edit` or `nats consumer edit` that changes a setting.
    fn option(&self, setting: &str) -> Option<&'static str> {
        Some(match (self, setting) {
            (Self::Stream(_), "max_age") => "--max-age",
            (Self::Stream(_), "max_bytes") => "--max-bytes",
            (Self::Stream(_), "max_msgs_per_subject") => "--max-msgs-per-subject",
            (Self::Stream(_), "duplicate_window") => "--dupe-window",
            (Self::Stream(_), "num_replicas") => "--replicas",
            (Self::Consumer(..), "ack_wait") => "--wait",
            (Self::Consumer(..), "max_ack_pending") => "--max-pending",
            _ => return None,
        })
    }

    /// Returns the command of `nats` that changes a setting: by its option, or else in an editor.
    fn edit(&self, setting: &str, declared: Option<&Value>) -> String {
        let none = json!(0);
        // Without a declaration messages do not expire.
        let value = declared.or((setting == "max_age").then_some(&none));
        match self.option(setting).zip(value) {
            Some((option, value)) => format!("{option} {}", readable(setting, value)),
            None => "--interactive".to_owned(),
        }
    }

    /// The command that mends a setting, and what it costs.
    fn mend(&self, setting: &str, declared: Option<&Value>) -> String {
        match self {
            Self::Stream(name) if self.is_fixed(setting) => format!(
                "the server does not change it in place: `nats stream backup {name} FOLDER`, \
                 `nats stream rm {name}`, `brigade provision`; what was in it is gone then, and \
                 its metadata says what that costs"
            ),
            Self::Stream(name) => {
                format!("`nats stream edit {name} {}`", self.edit(setting, declared))
            }
            Self::Consumer(stream, name) if setting == "pause_until" => {
                format!("`nats consumer resume {stream} {name}`")
            }
            Self::Consumer(stream, name) if self.is_fixed(setting) => format!(
                "the server does not change it in place: `nats consumer rm {stream} {name}`, \
                 `brigade provision`; everything in {stream} is delivered once more, which \
                 {name} bears"
            ),
            Self::Consumer(stream, name) => {
                format!("`nats consumer edit {stream} {name} {}`", self.edit(setting, declared))
            }
        }
    }
}

impl fmt::Display for TopologyItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(name) => write!(f, "stream {name}"),
            Self::Consumer(stream, name) => write!(f, "consumer {name} of {stream}"),
        }
    }
}

impl Drift {
    pub(super) fn of(item: &TopologyItem, difference: Difference) -> Self {
        let Difference { setting, declared, found } = difference;
        Self { item: item.clone(), setting, declared, found }
    }

    /// Says what differs.
    #[must_use]
    pub fn what(&self) -> String {
        let Self { item, setting, declared, found } = self;
        let declared = declared
            .as_ref()
            .map_or_else(|| "the server's default".to_owned(), |value| readable(setting, value));
        format!("{item}: {setting} is {}, declared is {declared}", readable(setting, found))
    }

    /// Says how it is mended.
    #[must_use]
    pub fn mend(&self) -> String {
        self.item.mend(&self.setting, self.declared.as_ref())
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, mend) = (self.what(), self.mend());
        write!(f, "{what}; to mend it: {mend}; or declare it so in nats/topology.toml")
    }
}

/// Returns a value as people and the `nats` CLI write it: times, which the server counts in
/// nanoseconds, with their largest unit that leaves a whole number.
fn readable(setting: &str, value: &Value) -> String {
    const UNITS: [(u64, &str); 6] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1, "ns"),
    ];
    let is_time = DURATIONS.contains(&setting);
    match value.as_u64().filter(|nanos| is_time && *nanos > 0) {
        Some(nanos) => {
            let unit = UNITS.into_iter().find(|(unit, _)| nanos.is_multiple_of(*unit));
            unit.map_or_else(|| value.to_string(), |(unit, name)| format!("{}{name}", nanos / unit))
        }
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(item: TopologyItem, setting: &str, declared: Option<Value>) -> String {
        Drift { item, setting: setting.to_owned(), declared, found: json!(2) }.to_string()
    }

    #[test]
    fn drift_says_what_where_and_how_to_mend_it() {
        let stream = TopologyItem::Stream("EVENTS".to_owned());
        let consumer = TopologyItem::Consumer("EVENTS".to_owned(), "p".to_owned());
        assert_eq!(
            description(stream.clone(), "max_age", Some(json!(604_800_000_000_000_u64))),
            "stream EVENTS: max_age is 2ns, declared is 7d; to mend it: \
             `nats stream edit EVENTS --max-age 7d`; or declare it so in nats/topology.toml"
        );
        assert!(
            description(stream.clone(), "max_age", None)
                .contains("default; to mend it: `nats stream edit EVENTS --max-age 0`;")
        );
        assert!(
            description(consumer.clone(), "ack_wait", Some(json!(1_500_000_000)))
                .contains("declared is 1500ms; to mend it: `nats consumer edit EVENTS p --wait 15")
        );
        assert!(
            description(stream.clone(), "discard", Some(json!("new")))
                .contains("`nats stream edit EVENTS --interactive`")
        );
        assert!(
            description(stream, "storage", None).contains("default; to mend it: the server does")
        );
        assert!(
            description(consumer.clone(), "ack_wait", None)
                .contains("`nats consumer edit EVENTS p ")
        );
        assert!(
            description(consumer.clone(), "ack_policy", None)
                .contains("`nats consumer rm EVENTS p`")
        );
        assert!(
            description(consumer, "pause_until", None).contains("`nats consumer resume EVENTS p`")
        );
    }
}
