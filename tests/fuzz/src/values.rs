use brigade::testing::decoders::decode_canonical;
use brigade_contracts::{Outcome, cart, event, key, lock, order, page, payment, table, user};
use serde::{Serialize, de::DeserializeOwned};

use super::line;

/// Returns whether a value decoded.
type Decode = fn(&[u8]) -> bool;

/// Names of the golden messages; one that ends with a dot stands for all that begin so.
const VALUES: [(&str, Decode); 23] = [
    ("event.", again::<event::Payload>),
    ("outcome.", again::<Outcome>),
    ("kv.versions", again::<key::Versions>),
    ("part.cart.core", again::<cart::Core>),
    ("part.cart.payments", again::<cart::Payments>),
    ("part.order.core", again::<order::Core>),
    ("part.order.payments", again::<order::Payments>),
    ("part.payment.core", again::<payment::Core>),
    ("part.table.core", again::<table::Core>),
    ("kv.active_orders.core", again::<order::ActiveCore>),
    ("query.tables", again::<page::Page<page::TableRow>>),
    ("query.carts", again::<page::Page<page::CartRow>>),
    ("query.orders", again::<page::Page<page::OrderRow>>),
    ("query.refund_tasks", again::<page::Page<page::RefundTaskRow>>),
    ("query.unknown_payments", again::<page::Page<page::UnknownPaymentRow>>),
    ("kv.active_orders.payment", again::<order::ActivePayment>),
    ("kv.user_state.auth", again::<user::Auth>),
    ("kv.user_state.subscription", again::<user::SubscriptionPart>),
    ("kv.user_state.roles", again::<user::Roles>),
    ("query.user_state", again::<user::UserState>),
    ("query.user_valid", again::<user::Valid>),
    ("kv.cart_locks.", again::<lock::Value>),
    ("timer.lock", again::<lock::Due>),
];

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return false };
    let written = serde_json::to_vec(&value).expect("it serialises");
    let (_, raw) = decode_canonical::<T>(&written).expect("what was written is canonical");
    assert_eq!(raw.get().as_bytes(), written);
    true
}

/// The first line is the name, the rest the value.
pub fn value(bytes: &[u8]) {
    let _is_value = decoded(bytes);
}

pub fn decoded(bytes: &[u8]) -> bool {
    let (name, value) = line(bytes);
    str::from_utf8(name).ok().and_then(find).is_some_and(|decode| decode(value))
}

fn find(name: &str) -> Option<Decode> {
    let is_it = |known: &str| name == known || known.ends_with('.') && name.starts_with(known);
    VALUES.iter().find(|(known, _)| is_it(known)).map(|(_, decode)| *decode)
}

#[cfg(test)]
pub fn is_known(name: &str) -> bool {
    find(name).is_some()
}
