//! Golden messages: files that never change, one a message and version. Each decodes and encodes
//! to itself, byte for byte, so what was stored or sent by an older build is read by every newer
//! one, and what is sent to strangers keeps its shape.

use std::{collections::BTreeSet, fs, path::PathBuf};

use brigade_contracts::{
    Aggregate, Body, Outcome, Part, cart, day_close::DayClose, event, key, lock, order, page,
    payment, product, query, table, user,
};
use serde::{Serialize, de::DeserializeOwned};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

/// Name without `.json` → text without the line's end.
fn files() -> Vec<(String, String)> {
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        (name.strip_suffix(".json").unwrap().to_owned(), text.trim_end().to_owned())
    };
    let mut files: Vec<_> =
        fs::read_dir(folder()).unwrap().map(|entry| read(entry.unwrap())).collect();
    files.sort();
    files
}

fn again<T: Serialize + DeserializeOwned>(text: &str) -> String {
    let message: T = serde_json::from_str(text).unwrap();
    serde_json::to_string(&message).unwrap()
}

/// Decodes and encodes a file by what its name says it is.
fn decode_and_encode(name: &str, text: &str) -> String {
    let words: Vec<_> = name.split('.').collect();
    match words[..] {
        ["command", aggregate, verb] => {
            let aggregate = Aggregate::parse(aggregate).unwrap();
            let body = Body::decode(aggregate, verb, text.as_bytes()).unwrap();
            let (encoded_verb, payload) = body.encode();
            assert_eq!((body.aggregate(), encoded_verb), (aggregate, verb));
            String::from_utf8(payload).unwrap()
        }
        ["event", ..] => again::<event::Payload>(text),
        ["outcome", _] => again::<Outcome>(text),
        ["part", "cart", "core"] => again::<cart::Core>(text),
        ["part", "cart", "payments"] => again::<cart::Payments>(text),
        ["part", "order", "core"] => again::<order::Core>(text),
        ["part", "order", "payments"] => again::<order::Payments>(text),
        ["kv", "active_orders", "core" | "core_cut"] => again::<order::ActiveCore>(text),
        ["kv", "active_orders", "payment"] => again::<order::ActivePayment>(text),
        ["part", "payment", "core"] => again::<payment::Core>(text),
        ["part", "product", "core"] => again::<product::Core>(text),
        ["query", "products"] => again::<product::ProductPage>(text),
        ["query", "tables"] => again::<page::Page<page::TableRow>>(text),
        ["query", "carts"] => again::<page::Page<page::CartRow>>(text),
        ["query", "orders"] => again::<page::Page<page::OrderRow>>(text),
        ["query", "refund_tasks"] => again::<page::Page<page::RefundTaskRow>>(text),
        ["query", "unknown_payments"] => again::<page::Page<page::UnknownPaymentRow>>(text),
        ["query", "day_close"] => again::<DayClose>(text),
        ["part", "table", "core"] => again::<table::Core>(text),
        ["kv", "user_state", "auth"] => again::<user::Auth>(text),
        ["kv", "user_state", "subscription"] => again::<user::SubscriptionPart>(text),
        ["kv", "user_state", "roles"] => again::<user::Roles>(text),
        ["query", "user_state"] => again::<user::UserState>(text),
        ["query", "user_sessions"] => again::<user::Sessions>(text),
        ["query", "user_valid"] => again::<user::Valid>(text),
        ["query", "user_validate"] => {
            let validate = user::Validate::decode(text.as_bytes()).unwrap();
            String::from_utf8(validate.encode()).unwrap()
        }
        ["kv", "cart_locks", _] => again::<lock::Value>(text),
        ["query", "lock"] => again::<lock::Live>(text),
        ["query", "lock_history"] => again::<lock::History>(text),
        ["timer", "lock"] => again::<lock::Due>(text),
        ["query", "error"] => again::<query::QueryError>(text),
        ["kv", "versions"] => again::<key::Versions>(text),
        _ => panic!("{name}: nothing says what this is"),
    }
}

#[test]
fn every_golden_message_decodes_and_encodes_to_itself() {
    for (name, text) in files() {
        assert_eq!(decode_and_encode(&name, &text), text, "{name}");
    }
}

#[test]
fn every_verb_and_every_event_has_a_golden_message() {
    let names: BTreeSet<_> = files().into_iter().map(|(name, _)| name).collect();
    for (aggregate, verbs) in [
        ("cart", cart::Verb::NAMES),
        ("cart", &["rebuild_cache"]),
        ("payment", payment::Verb::NAMES),
        ("order", order::Verb::NAMES),
        ("table", table::Verb::NAMES),
        ("table", &["rebuild_cache"]),
        ("user", user::Verb::NAMES),
        ("user", &["rebuild_cache"]),
        ("product", product::Verb::NAMES),
        ("product", &["rebuild_cache"]),
    ] {
        for verb in verbs {
            assert!(names.contains(&format!("command.{aggregate}.{verb}")), "{aggregate} {verb}");
        }
    }
    for kind in event::ALL {
        let name = format!("event.{}.{}", kind.aggregate, kind.name);
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn an_event_carries_the_parts_that_it_touches_and_a_projector_writes() {
    for kind in event::ALL {
        let name = format!("event.{}.{}.json", kind.aggregate, kind.name);
        let text = fs::read_to_string(folder().join(name)).unwrap();
        let payload: event::Payload = serde_json::from_str(&text).unwrap();
        assert_eq!(payload.after.payments.is_some(), kind.carries(Part::Payments), "{}", kind.name);
        assert_eq!(payload.after.core.is_some(), kind.carries(Part::Core), "{}", kind.name);
        let subscription = payload.after.subscription.is_some();
        assert_eq!(subscription, kind.carries(Part::Subscription), "{}", kind.name);
        assert_eq!(payload.after.roles.is_some(), kind.carries(Part::Roles), "{}", kind.name);
        assert!(!kind.carries(Part::Auth), "{}", kind.name);
        assert_eq!(payload.after.ended, kind.ends, "{}", kind.name);
    }
}
