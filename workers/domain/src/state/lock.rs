use brigade_contracts::{
    Address, Aggregate, Money, Refusal, Timestamp, Token,
    lock::{self, Live},
    payment::Method,
};
use serde_json::value::RawValue;

use crate::{head::Head, json::raw};

/// A row of `cart_locks`. Its address is the owner's.
#[derive(Clone, Debug, PartialEq)]
pub struct Lock {
    pub head: Head,
    pub state: lock::LockState,
    pub cart_id: Token,
    pub token: i64,
    pub method: Method,
    pub acquired_at: Timestamp,
    pub expires_at: Timestamp,
    pub transaction_id: Option<Token>,
    /// The fingerprint of the cart's contents, which stay the same while it is held.
    pub fingerprint: String,
    /// The amount that was due when it was acquired.
    pub amount: Money,
    /// The reason why it was released.
    pub reason: Option<String>,
    /// The number of refusals under this token; counting one changes no version.
    pub refusals: u32,
}

impl Lock {
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state == lock::LockState::Held
    }

    #[must_use]
    pub fn cart(&self) -> Address {
        let head = &self.head.address;
        Address { aggregate: Aggregate::Cart, id: self.cart_id.clone(), ..head.clone() }
    }

    /// Returns its value in `cart_locks`.
    pub(super) fn value(&self) -> Box<RawValue> {
        raw(&lock::Value {
            version: self.head.version,
            at: self.head.at,
            state: self.state,
            cart: self.cart_id.clone(),
            token: self.token,
            method: self.method,
            acquired_at: self.acquired_at,
            expires_at: self.expires_at,
            reason: self.reason.clone(),
        })
    }

    /// Returns the fields by which [`LockPolicy::lives_until`] decides.
    ///
    /// [`LockPolicy::lives_until`]: crate::LockPolicy::lives_until
    pub(crate) fn live(&self) -> Live {
        Live {
            cart: self.cart_id.clone(),
            method: self.method,
            acquired_at: self.acquired_at,
            expires_at: self.expires_at,
        }
    }

    /// Returns the refusal of a command that has to wait for it. Its transaction is known to the
    /// holder alone.
    pub(crate) fn refusal(&self, now: Timestamp) -> Refusal {
        let message = "this cart is being paid; it can be changed again when the payment has ended";
        let retry_after_ms = Some(now.millis_until(self.expires_at));
        Refusal { retry_after_ms, ..Refusal::new(423, "cart_locked", message) }
    }
}
