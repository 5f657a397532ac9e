//! The ledger of money: what a batch has moved between the sums of a tenant.
//!
//! A payment says at any time where the money is that came in by it. What a command moves is the
//! difference of that before and after, so no rule can move money past the ledger. An entry of the
//! ledger balances because a payment does: captured = applied + refunded + owed + settled.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{AddAssign, Sub},
};

use brigade_contracts::{Currency, Money, Token};

use crate::state::Payment;

/// A tenant, a method and a currency.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerKey {
    pub tenant: Token,
    pub method: &'static str,
    pub currency: Currency,
}

/// Amounts that were added to the sums, in the minor unit; what was taken away is negative. Wider
/// than one amount, so that no number of them is too large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The money that came in.
    pub captured: i128,
    /// The money that pays carts and orders, less what has gone back of that.
    pub applied: i128,
    /// The money that has gone back.
    pub refunded: i128,
    /// The money that open refund tasks owe.
    pub owed: i128,
    /// The money that a person settled.
    pub settled: i128,
}

/// The entries of a batch.
#[derive(Debug, Default)]
pub struct Ledger(BTreeMap<LedgerKey, LedgerEntry>);

impl Ledger {
    /// Returns the entries, sorted; those that move nothing are left out.
    pub fn entries(&self) -> impl Iterator<Item = (&LedgerKey, &LedgerEntry)> {
        self.0.iter().filter(|(_, entry)| **entry != LedgerEntry::default())
    }

    /// Books what has become of a payment.
    pub(crate) fn book(&mut self, before: Option<&Payment>, after: &Payment) {
        let currencies = after.captures.iter().map(|capture| capture.currency);
        for currency in currencies.collect::<BTreeSet<_>>() {
            let before = before.map_or_else(LedgerEntry::default, |p| p.position(currency));
            let key = LedgerKey {
                tenant: after.head.address.tenant.clone(),
                method: after.method.as_str(),
                currency,
            };
            *self.0.entry(key).or_default() += after.position(currency) - before;
        }
    }
}

impl Payment {
    /// Returns where the money is that came in by this payment in a currency.
    fn position(&self, currency: Currency) -> LedgerEntry {
        let is_own = currency == self.currency;
        let captures = self.captures.iter().filter(|capture| capture.currency == currency);
        let tasks = || self.tasks.iter().filter(|task| task.currency == currency);
        let asked: i128 = tasks().map(|task| units(task.amount)).sum();
        let paid_back: i128 = tasks().map(|task| units(task.refunded)).sum();
        let settled = tasks().map(|task| units(task.settled)).sum();
        // What goes back goes towards tasks first. In another currency than the payment's nothing
        // else can.
        let gone = if is_own { units(self.refunded_amount) } else { paid_back };
        LedgerEntry {
            captured: captures.map(|capture| units(capture.amount)).sum(),
            applied: if is_own { units(self.applied) - (gone - paid_back) } else { 0 },
            refunded: gone - settled,
            owed: asked - paid_back,
            settled,
        }
    }
}

fn units(amount: Money) -> i128 {
    amount.minor_units().into()
}

impl LedgerEntry {
    /// Returns what is not accounted for: 0.
    #[must_use]
    pub fn balance(&self) -> i128 {
        self.captured - self.applied - self.refunded - self.owed - self.settled
    }
}

impl AddAssign for LedgerEntry {
    fn add_assign(&mut self, other: Self) {
        self.captured += other.captured;
        self.applied += other.applied;
        self.refunded += other.refunded;
        self.owed += other.owed;
        self.settled += other.settled;
    }
}

impl Sub for LedgerEntry {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            captured: self.captured - other.captured,
            applied: self.applied - other.applied,
            refunded: self.refunded - other.refunded,
            owed: self.owed - other.owed,
            settled: self.settled - other.settled,
        }
    }
}

#[cfg(test)]
mod tests;
