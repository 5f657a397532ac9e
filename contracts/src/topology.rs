//! `nats/topology.toml` as data: streams, buckets and consumers, in the words of the
//! JetStream API, so that the file says exactly what the server is asked for.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The file itself.
const TOML: &str = include_str!("../../nats/topology.toml");

/// Consumers of `COMMANDS` that are not declared: command-handler makes them while one tenant's
/// commands would hold up the others', and deletes them after. Each delivers what overtakes the
/// backlog of the one before it, the first one that of `command-handler`.
pub const OVERTAKING: [&str; 3] = [
    "command-handler-overtaking-1",
    "command-handler-overtaking-2",
    "command-handler-overtaking-3",
];

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The streams by name, as in `$JS.API.STREAM.CREATE`.
    pub streams: BTreeMap<String, Map<String, Value>>,
    /// Stream → durable name → as `config` in `$JS.API.CONSUMER.CREATE`.
    pub consumers: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
}

impl Topology {
    /// The topology that this build was made for.
    ///
    /// # Panics
    /// Never in a build that passed its tests: the file is compiled in and checked there.
    #[must_use]
    pub fn compiled_in() -> Self {
        toml::from_str(TOML).expect("nats/topology.toml is checked by a test")
    }

    /// The same on a cluster: every stream with so many replicas. `persist_mode: async` is for one
    /// server only; in a cluster the other replicas make up for what a crash takes.
    #[must_use]
    pub fn with_replicas(replicas: u8) -> Self {
        let mut topology = Self::compiled_in();
        if replicas > 1 {
            for stream in topology.streams.values_mut() {
                stream.insert("num_replicas".to_owned(), replicas.into());
                stream.remove("persist_mode");
            }
        }
        topology
    }

    /// The request body that creates a stream.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<Value> {
        let mut config = self.streams.get(name)?.clone();
        config.insert("name".to_owned(), name.into());
        Some(Value::Object(config))
    }

    /// The configuration of a durable consumer, its name included.
    #[must_use]
    pub fn consumer(&self, stream: &str, durable: &str) -> Option<Value> {
        let mut config = self.consumers.get(stream)?.get(durable)?.clone();
        config.insert("durable_name".to_owned(), durable.into());
        config.insert("name".to_owned(), durable.into());
        Some(Value::Object(config))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{Part, event, key::Bucket, subject};

    #[test]
    fn every_bucket_is_declared_with_leader_reads() {
        let topology = Topology::compiled_in();
        for bucket in Bucket::ALL {
            let stream = topology.stream(&bucket.stream()).unwrap();
            assert_eq!(stream["subjects"][0], bucket.subject(">"));
            assert_eq!(stream["allow_direct"], false);
        }
    }

    #[test]
    fn everything_tells_who_uses_it_and_what_its_loss_costs() {
        let Topology { streams, consumers } = Topology::compiled_in();
        let tells = |name: &str, config: &Map<String, Value>, keys: &[&str]| {
            assert!(config["description"].is_string(), "{name} has no description");
            let metadata = config.get("metadata").and_then(Value::as_object).expect(name);
            for key in keys {
                assert!(metadata.contains_key(*key), "{name} does not tell {key}");
            }
            for (key, text) in metadata {
                let length = text.as_str().expect(name).chars().count();
                assert!((1..=80).contains(&length), "{name}: the CLI cuts off {key}");
            }
        };
        for (name, config) in &streams {
            tells(name, config, &["writers", "readers", "if_lost"]);
        }
        for (name, config) in consumers.values().flatten() {
            tells(name, config, &["worker", "if_it_lags", "if_lost"]);
        }
    }

    fn filters_of(durable: &str) -> Vec<String> {
        let consumer = Topology::compiled_in().consumer("EVENTS", durable).unwrap();
        let filters = consumer["filter_subjects"].as_array().unwrap().clone();
        filters.iter().map(|filter| filter.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn projectors_hear_of_every_event_that_carries_their_parts() {
        let payments: Vec<_> = event::filters_carrying(Part::Payments).collect();
        assert_eq!(filters_of("payment-projector"), payments);
        let of_users =
            [Part::Subscription, Part::Roles].into_iter().flat_map(event::filters_carrying);
        let of_users: BTreeSet<_> = of_users.collect();
        assert_eq!(
            filters_of("user-state-projector").into_iter().collect::<BTreeSet<_>>(),
            of_users
        );
    }

    #[test]
    fn the_verifier_hears_of_every_event_that_touches_a_session() {
        let touching = event::ALL.iter().filter(|kind| kind.touches.contains(&Part::Auth));
        let touching: Vec<_> =
            touching.map(|kind| subject::events(kind.aggregate, kind.name)).collect();
        assert_eq!(filters_of("cache-verifier"), touching);
    }
}
