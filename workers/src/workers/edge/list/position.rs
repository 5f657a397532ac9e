//! Positions: what a list was as of, so that its owner can ask for what changed since.
//!
//! A position names the tenant, the start of the Postgres that gave it, the oldest transaction
//! that this Postgres had not ended (numbers of transactions only grow), its clock, and whether
//! the list was the whole one. Clients see one opaque word; any edge understands it.

use std::fmt;

use brigade_contracts::Token;

use super::confirm::Line;
use crate::runtime::consume::HasTenant;

/// A position is of use for so long, in milliseconds of the database's clock.
pub const MAX_AGE: i64 = 10 * 60 * 1000;
/// Of another form: nobody's position.
const FORM: &str = "a1";

/// When a statement looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Moment {
    /// When Postgres was started, in microseconds of the Unix time.
    pub start: i64,
    /// The oldest transaction that had not ended; all that was not seen is of this one or later.
    pub xid: i64,
    /// The database's clock, in milliseconds of the Unix time.
    pub at: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    pub tenant: Token,
    pub moment: Moment,
    /// The list had no older rows than were shown.
    pub whole: bool,
}

impl Position {
    /// `None`: it is not a position of this form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split('.');
        let mut next = || words.next();
        if next()? != FORM {
            return None;
        }
        let tenant = Token::new(next()?).ok()?;
        let mut number = || i64::from_str_radix(next()?, 16).ok().filter(|number| *number >= 0);
        let moment = Moment { start: number()?, xid: number()?, at: number()? };
        let whole = match next()? {
            "w" => true,
            "p" => false,
            _ => return None,
        };
        next().is_none().then_some(Self { tenant, moment, whole })
    }

    /// Whether all changes since this position can be told from what is there now.
    #[must_use]
    pub fn is_of_use(&self, tenant: &Token, now: &Moment) -> bool {
        let Moment { start, xid, at } = self.moment;
        self.whole
            && self.tenant == *tenant
            && start == now.start
            && xid <= now.xid
            && (now.at - MAX_AGE..=now.at).contains(&at)
    }

    /// Whether a row may have changed since. A row tells the lower 32 bits of its transaction: of
    /// two that are less than 2^31 apart the later one is known, and ten minutes are less. One
    /// that is much older may be told again; none is left out. The clock is for a Postgres that
    /// crashed and gives the number of a transaction that was rolled back a second time.
    #[must_use]
    pub fn precedes(&self, line: &Line) -> bool {
        let Moment { xid, at, .. } = self.moment;
        (line.xid.wrapping_sub(xid)) & 0xffff_ffff < 1 << 31 || line.at >= at
    }
}

impl HasTenant for Position {
    fn tenant(&self) -> &str {
        self.tenant.as_str()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moment { start, xid, at } = self.moment;
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

    fn position(start: i64, xid: i64, at: i64) -> Position {
        Position { tenant: tenant(), moment: Moment { start, xid, at }, whole: true }
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
            let position = Position { tenant, moment: Moment { start, xid, at }, whole };
            prop_assert_eq!(Position::parse(&position.to_string()), Some(position));
        }

        #[test]
        fn anything_is_borne(text in "\\PC{0,80}", tail in "[a-z0-9.-]{0,40}") {
            let _ = (Position::parse(&text), Position::parse(&format!("a1.t1.{tail}")));
        }

        #[test]
        fn no_later_transaction_is_left_out(xid in 0..1_i64 << 40, later in 0..1_i64 << 31) {
            let line = Line { xid: (xid + later) & 0xffff_ffff, ..Line::of("o1", 1, 1) };
            prop_assert!(position(7, xid, 100).precedes(&line));
        }

        #[test]
        fn an_earlier_one_is_not_told_again(xid in 0..1_i64 << 40, earlier in 1..1_i64 << 31) {
            let line = Line { xid: (xid - earlier) & 0xffff_ffff, ..Line::of("o1", 1, 1) };
            prop_assert!(!position(7, xid, 100).precedes(&line));
            prop_assert!(position(7, xid, 0).precedes(&line));
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
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn it_is_of_use_for_its_tenant_to_the_same_postgres_for_ten_minutes() {
        let now = Moment { start: 7, xid: 50, at: 2 * MAX_AGE };
        let of_use = |position: &Position| position.is_of_use(&tenant(), &now);
        assert!(of_use(&position(7, 50, now.at)) && of_use(&position(7, 1, MAX_AGE)));
        let others = [
            position(8, 50, now.at),
            position(7, 51, now.at),
            position(7, 50, now.at + 1),
            position(7, 50, MAX_AGE - 1),
            Position { tenant: Token::new("t2").unwrap(), ..position(7, 50, now.at) },
            Position { whole: false, ..position(7, 50, now.at) },
        ];
        for other in others {
            assert!(!of_use(&other), "{other}");
        }
    }
}
