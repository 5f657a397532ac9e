//! The rules of a held lock: what changes it, and what is told of that.

use std::time::Duration;

use brigade_contracts::{
    Money, Timestamp, Token,
    event::{CART_LOCK_EXPIRED, CART_LOCK_EXTENDED, CART_TRANSACTION_BOUND, CART_UNLOCKED},
    lock::{Action, LockState},
    planted::PlantedBug,
};
use serde_json::json;

use crate::{
    changes::{Fact, LockFact},
    outcome::Done,
    state::{Cart, Lock},
};

impl Lock {
    /// Returns whether a cart holds it by this token.
    pub(crate) fn is_held_by(&self, cart: &Cart, token: i64) -> bool {
        let is_its_token = self.token == token || PlantedBug::LockWithoutFencing.is_planted();
        self.is_held() && is_its_token && self.cart_id == cart.head.address.id
    }

    /// Puts another transaction on it; the deadline stays.
    pub(crate) fn bind(&mut self, transaction_id: &Token) -> LockFact {
        self.transaction_id = Some(transaction_id.clone());
        let fact = Fact::new(CART_TRANSACTION_BOUND, &json!({ "token": self.token }));
        LockFact { fact, action: Action::Bound, reason: None }
    }

    /// Adds to its deadline, up to the cap.
    pub(crate) fn extend(&mut self, seconds: u32, cap: Duration) -> LockFact {
        let until = self.expires_at.plus(Duration::from_secs(u64::from(seconds)));
        // The cap may have been lowered since it was acquired: no deadline comes nearer by this.
        self.extend_to(until.min(self.acquired_at.plus(cap)).max(self.expires_at), "asked")
    }

    pub(super) fn extend_to(&mut self, until: Timestamp, reason: &str) -> LockFact {
        self.expires_at = until;
        let data = json!({ "token": self.token, "expires_at": until, "reason": reason });
        let fact = Fact::new(CART_LOCK_EXTENDED, &data);
        LockFact { fact, action: Action::Extended, reason: Some(reason.to_owned()) }
    }

    pub(crate) fn release(&mut self, reason: &str) -> LockFact {
        self.end(Action::Released, reason)
    }

    pub(super) fn end(&mut self, action: Action, reason: &str) -> LockFact {
        self.state = LockState::Released;
        self.reason = Some(reason.to_owned());
        let kind = if action == Action::Expired { CART_LOCK_EXPIRED } else { CART_UNLOCKED };
        let fact = Fact::new(kind, &json!({ "token": self.token, "reason": reason }));
        LockFact { fact, action, reason: Some(reason.to_owned()) }
    }

    /// Adds it to the outcome of the command that acquired it, or pays under it.
    pub(crate) fn describe(&self, done: Done, amount: Money) -> Done {
        done.with("token", &self.token)
            .with("expires_at", &self.expires_at)
            .with("fingerprint", &self.fingerprint)
            .with("amount", &amount)
    }
}
