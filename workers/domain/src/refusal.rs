//! Refusals that more than one aggregate gives.

use brigade_contracts::{MAX_CONTENTS, Refusal};

/// Largest part `core` of a cart or an order into which something is put. It may still grow a
/// little: by the deadline of a lock, the id of the order, shares with another digit.
pub(crate) const MOST_CONTENTS: usize = MAX_CONTENTS - 1024;

pub(crate) fn already_exists() -> Refusal {
    Refusal::new(409, "already_exists", "there is something of this id already")
}

pub(crate) fn not_found() -> Refusal {
    Refusal::new(404, "not_found", "there is nothing of this id")
}

pub(crate) fn too_large(what: &'static str) -> Refusal {
    Refusal::new(422, "too_large", what)
}

pub(crate) fn payment_open() -> Refusal {
    Refusal::new(409, "payment_open", "a payment is open: it has to end first")
}

pub(crate) fn cart_empty() -> Refusal {
    Refusal::new(422, "cart_empty", "there is nothing in the cart")
}
