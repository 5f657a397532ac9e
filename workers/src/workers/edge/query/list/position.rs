//! Positions: the moment of a list, so that its client can ask for what changed since.
//!
//! A position names the tenant, the start of the Postgres that gave it, the oldest transaction
//! that this Postgres had not ended (numbers of transactions only grow), its clock, and whether
//! the list was the whole one. Clients see one opaque word; any edge understands it.

use std::fmt;

use brigade_contracts::Token;

use super::snapshot::{ListMoment, SnapshotOrder};
use crate::runtime::consume::HasTenant;

/// A position can be used for so long, in milliseconds of the database's clock.
pub const MAX_AGE: i64 = 10 * 60 * 1000;
/// The form of positions. Any other text is taken for the position of another build.
const FORM: &str = "a1";

/// The moment of a tenant's list, and whether the list was complete.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListPosition {
    pub tenant: Token,
    pub moment: ListMoment,
    /// The answer had all rows of the list.
    pub whole: bool,
}

impl ListPosition {
    /// Reads a position; `None` if the text is not one of this form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split('.');
        let mut next = || words.next();
        if next()? != FORM {
            return None;
        }
        let tenant = Token::new(next()?).ok()?;
        let mut number = || i64::from_str_radix(next()?, 16).ok().filter(|number| *number >= 0);
        let moment = ListMoment { start: number()?, xid: number()?, at: number()? };
        let whole = match next()? {
            "w" => true,
            "p" => false,
            _ => return None,
        };
        next().is_none().then_some(Self { tenant, moment, whole })
    }

    /// Returns true if all changes since this position can be found in the list of `now`.
    #[must_use]
    pub fn is_usable(&self, tenant: &Token, now: &ListMoment) -> bool {
        let ListMoment { start, xid, at } = self.moment;
        self.whole
            && self.tenant == *tenant
            && start == now.start
            && xid <= now.xid
            && (now.at - MAX_AGE..=now.at).contains(&at)
    }

    /// Returns true if an order may have changed since. A row has the lower 32 bits of its
    /// transaction: of two that are less than 2^31 apart the later one is known, and ten minutes
    /// are less. One that is much older may be repeated; none is left out. The clock is for a
    /// Postgres that crashed and gives the number of a transaction that was rolled back a second
    /// time.
    #[must_use]
    pub fn precedes(&self, order: &SnapshotOrder) -> bool {
        let ListMoment { xid, at, .. } = self.moment;
        (order.xid.wrapping_sub(xid)) & 0xffff_ffff < 1 << 31 || order.at >= at
    }
}

impl HasTenant for ListPosition {
    fn tenant(&self) -> &str {
        self.tenant.as_str()
    }
}

impl fmt::Display for ListPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListMoment { start, xid, at } = self.moment;
        let whole = if self.whole { 'w' } else { 'p' };
        write!(f, "{FORM}.{}.{start:x}.{xid:x}.{at:x}.{whole}", self.tenant)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant() -> Token {
        Token::new("t1").unwrap()
    }

    fn position(start: i64, xid: i64, at: i64) -> ListPosition {
        ListPosition { tenant: tenant(), moment: ListMoment { start, xid, at }, whole: true }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            tenant in "[A-Za-z0-9_-]{1,64}",
            numbers in prop::array::uniform3(0..i64::MAX),
            whole: bool,
        ) {
            let [start, xid, at] = numbers;
            let tenant = Token::new(&tenant).unwrap();
            let position = ListPosition { tenant, moment: ListMoment { start, xid, at }, whole };
            prop_assert_eq!(ListPosition::parse(&position.to_string()), Some(position));
        }

        #[test]
        fn anything_is_borne(text in "\\PC{0,80}", tail in "[a-z0-9.-]{0,40}") {
            let _ = (ListPosition::parse(&text), ListPosition::parse(&format!("a1.t1.{tail}")));
        }

        #[test]
        fn no_later_transaction_is_left_out(xid in 0..1_i64 << 40, later in 0..1_i64 << 31) {
            let order = SnapshotOrder { xid: (xid + later) & 0xffff_ffff, ..SnapshotOrder::of_versions("o1", 1, 1) };
            prop_assert!(position(7, xid, 100).precedes(&order));
        }

        #[test]
        fn an_earlier_one_is_not_told_again(xid in 0..1_i64 << 40, earlier in 1..1_i64 << 31) {
            let order = SnapshotOrder { xid: (xid - earlier) & 0xffff_ffff, ..SnapshotOrder::of_versions("o1", 1, 1) };
            prop_assert!(!position(7, xid, 100).precedes(&order));
            prop_assert!(position(7, xid, 0).precedes(&order));
        }
    }

    #[test]
    fn what_is_not_a_position_is_none() {
        let good = position(7, 8, 9).to_string();
        assert_eq!(good, "a1.t1.7.8.9.w");
        let bad = [
            "",
            "a1",
            "a2.t1.7.8.9.w",
            "a1.t1.7.8.9",
            "a1.t1.7.8.9.x",
            "a1.t1.7.8.9.w.",
            "a1.t1.-7.8.9.w",
        ];
        for bad in bad {
            assert_eq!(ListPosition::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn it_is_of_use_for_its_tenant_to_the_same_postgres_for_ten_minutes() {
        let now = ListMoment { start: 7, xid: 50, at: 2 * MAX_AGE };
        let usable = |position: &ListPosition| position.is_usable(&tenant(), &now);
        assert!(usable(&position(7, 50, now.at)) && usable(&position(7, 1, MAX_AGE)));
        let others = [
            position(8, 50, now.at),
            position(7, 51, now.at),
            position(7, 50, now.at + 1),
            position(7, 50, MAX_AGE - 1),
            ListPosition { tenant: Token::new("t2").unwrap(), ..position(7, 50, now.at) },
            ListPosition { whole: false, ..position(7, 50, now.at) },
        ];
        for other in others {
            assert!(!usable(&other), "{other}");
        }
    }
}
