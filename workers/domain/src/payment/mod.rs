//! Payments of carts and orders.
//!
//! ```text
//! (nothing) ─ initiate ─► initiated ─ record_result, confirm_cash ─► captured ────────┐
//!                         │   │  ▲ └─ record_result, nothing applied ─► late_captured ┤
//!                         │   │  │                                          ▲  ▲      │ refund,
//!                         │   │  └ bind_transaction                        │  │      │ fully
//!                         │   └─ record_result ─► failed ── captured late ──┘  │      ▼
//!                         └─ cancel ─► cancelled ── captured late ─────────────┘  refunded
//!
//! initiated ─ record_result ─► unknown ─ record_result ─► as from initiated (but no cancel)
//! ```
//!
//! A payment of a cart is made under its owner's lock (`lock`), which goes with the last
//! payment that is open under it. What is captured is either applied to the cart, or to the order
//! that it became, or owed back (a refund task): nothing the gateway says is dropped. What no machine
//! ends, a person does (`settle`): a refund task that was paid back by another way, and a payment
//! that stays unknown.

mod capture;
mod initiate;
mod refund;
mod result;
mod settle;
mod target;

use brigade_contracts::{Address, payment::Verb};

use crate::{
    outcome::{Done, Result},
    unit_of_work::UnitOfWork,
};

pub(crate) fn decide(work: &mut UnitOfWork<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    match verb {
        Verb::Initiate(verb) => initiate::initiate(work, address, verb),
        Verb::BindTransaction(verb) => result::bind_transaction(work, address, verb),
        Verb::RecordResult(verb) => result::record(work, address, verb),
        Verb::ConfirmCash(verb) => capture::confirm_cash(work, address, verb),
        Verb::Cancel(verb) => result::cancel(work, address, verb),
        Verb::Refund(verb) => refund::refund(work, address, verb),
        Verb::Settle(verb) => settle::settle(work, address, verb),
    }
}

#[cfg(test)]
mod tests;
