//! Requirements on a cart that several verbs share.

use brigade_contracts::{Money, Part, Refusal, cart::Status};

use crate::{
    refusal::{MOST_CONTENTS, too_large},
    state::Cart,
};

impl Cart {
    pub(crate) fn require_open(&self) -> Result<(), Refusal> {
        if self.status == Status::Open {
            return Ok(());
        }
        Err(Refusal::new(409, "cart_closed", "the cart is not open any more"))
    }

    /// Refuses a change of the items once anything is paid.
    pub(super) fn require_unpaid(&self) -> Result<(), Refusal> {
        if self.paid > Money::ZERO { Err(cart_paid()) } else { Ok(()) }
    }

    /// Refuses a cart that holds more than it may.
    pub(super) fn require_fitting(&self) -> Result<(), Refusal> {
        if self.part(Part::Core).get().len() <= MOST_CONTENTS {
            return Ok(());
        }
        Err(too_large("a cart has at most 64 KiB"))
    }
}

pub(super) fn too_many_carts() -> Refusal {
    let message = "an owner, and a session, has at most 50 open carts";
    Refusal::new(409, "too_many_carts", message)
}

pub(super) fn cart_paid() -> Refusal {
    Refusal::new(409, "cart_paid", "something is paid: the items stay as they are")
}

pub(crate) fn not_a_member() -> Refusal {
    Refusal::new(422, "not_a_member", "this user is no member of the cart")
}
