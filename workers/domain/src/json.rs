use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// Serialises a shape of ours.
///
/// # Panics
/// Never: the shapes have string keys and no failing `Serialize`.
pub(crate) fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    to_raw_value(value).expect("shapes serialise")
}
