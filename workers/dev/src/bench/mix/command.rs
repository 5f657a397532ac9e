use bytes::Bytes;

pub(super) const STEPS: [&str; 5] = ["accept", "prepare", "ready", "serve", "complete"];

/// A command, and what has to become of it.
#[derive(Clone)]
pub struct MixCommand {
    pub id: String,
    pub tenant: usize,
    /// `<aggregate>.<id>.<verb>`.
    pub what: String,
    pub payload: Bytes,
    pub status: &'static str,
    pub(super) then: Then,
}

impl MixCommand {
    /// The tenant and the order, where it places one (not again).
    pub fn places(&self) -> Option<(usize, u64)> {
        match self.then {
            Then::Step(order) if order.step == 0 => Some((order.tenant, order.number)),
            _ => None,
        }
    }
}

/// The commands that become possible after a command.
#[derive(Clone, Copy)]
pub(super) enum Then {
    Nothing,
    Step(MixOrder),
    Remove(usize, u64),
    Commit(usize, u64),
}

/// An order that has taken `step` steps.
#[derive(Clone, Copy)]
pub(super) struct MixOrder {
    pub(super) tenant: usize,
    pub(super) number: u64,
    pub(super) step: usize,
}
