//! Consumers of the time when the id of an aggregate stood in the subjects of its events:
//! `evt.<tenant>.<aggregate>.<id>.<event>`.
//!
//! Their stream holds such events that they have not taken yet, so they get filters of both shapes,
//! which pass over nothing and deliver nothing twice. A later run, when the stream holds no more of
//! the former shape, leaves those that are declared.

use anyhow::Result;
use async_nats::jetstream;
use brigade_contracts::SHARDS;
use serde_json::{Value, json};

use super::{TopologyItem, ask};

/// `JSNoMessageFoundErr` of nats-server.
const NO_MESSAGE: u64 = 10037;
const FILTERS: &str = "filter_subjects";

/// Adapts what is declared and found of a consumer with filters of the former shape, so that
/// comparing them leads to what it needs now.
pub(super) async fn adapt(
    js: &jetstream::Context,
    item: &TopologyItem,
    found: &mut Value,
    declared: &mut Value,
) -> Result<()> {
    let TopologyItem::Consumer(stream, _) = item else { return Ok(()) };
    let new: Vec<String> = texts(&declared[FILTERS]);
    let former: Vec<String> = new.iter().filter_map(|filter| former(filter)).collect();
    let has: Vec<String> = texts(&found[FILTERS]);
    if !has.iter().any(|filter| former.contains(filter)) {
        return Ok(());
    }
    let both: Vec<String> = new.iter().flat_map(|filter| both(filter)).collect();
    // What was published in the new shape before they took both would have been passed over.
    let takes_both = both.iter().all(|filter| has.contains(filter));
    if takes_both && !holds_any(js, stream, &former).await? {
        found[FILTERS] = has.into_iter().filter(|filter| !former.contains(filter)).collect();
    } else {
        declared[FILTERS] = json!(both);
    }
    Ok(())
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// `evt.*.cart.*.opened` of `evt.*.cart.opened.*`.
fn former(filter: &str) -> Option<String> {
    match filter.split('.').collect::<Vec<_>>()[..] {
        ["evt", tenant, aggregate, event, "*"] if event != "*" => {
            Some(format!("evt.{tenant}.{aggregate}.*.{event}"))
        }
        _ => None,
    }
}

/// A filter and its former shape. Shard by shard: an aggregate could be called like an event, and
/// the server takes no filters that overlap.
fn both(filter: &str) -> Vec<String> {
    let (Some(former), Some(stem)) = (former(filter), filter.strip_suffix('*')) else {
        return vec![filter.to_owned()];
    };
    (0..SHARDS).map(|shard| format!("{stem}{shard:02}")).chain([former]).collect()
}

/// Returns true if the stream holds a message under one of these subjects.
async fn holds_any(js: &jetstream::Context, stream: &str, filters: &[String]) -> Result<bool> {
    for filter in filters {
        let request = json!({ "last_by_subj": filter });
        match ask(js, format!("STREAM.MSG.GET.{stream}"), &request).await? {
            Ok(_) => return Ok(true),
            Err(error) if error.error_code().0 == NO_MESSAGE => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_both_shapes_do_not_overlap() {
        let both = both("evt.*.cart.opened.*");
        assert_eq!((both.len(), both[0].as_str()), (17, "evt.*.cart.opened.00"));
        assert_eq!(
            (both[15].as_str(), both[16].as_str()),
            ("evt.*.cart.opened.15", "evt.*.cart.*.opened")
        );
        assert_eq!(super::both("cmd.>"), ["cmd.>"]);
        assert_eq!(former("evt.*.table.*.*"), None);
    }
}
