//! The day close: the money of a tenant in a time, by method and currency, which balances.

use std::{ops::RangeInclusive, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Currency, Refusal, Timestamp,
    header::{FROM, TO, bad, once},
    payment::Method,
};

/// The longest time of one close, in days.
pub const MAX_DAYS: u64 = 31;
/// The years in which a close begins and ends.
const YEARS: RangeInclusive<i32> = 1970..=9998;

/// The time that a close is about, as it is asked for. What is left out is a day: without either
/// the present one, from midnight in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DayCloseRange {
    pub from: Option<Timestamp>,
    /// The first moment that is not part of it.
    pub to: Option<Timestamp>,
}

impl DayCloseRange {
    /// Reads `From` and `To`, headers over NATS and parameters of the URL over HTTP.
    ///
    /// # Errors
    /// `400 bad_header` for one that is repeated or malformed, for a time that does not begin before
    /// it ends, and for more than [`MAX_DAYS`]. Others are left alone.
    pub fn parse<'a>(
        named: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self, Refusal> {
        let time = |name| {
            let value = once(named.clone(), name)?;
            value.map(|value| Timestamp::parse(value).map_err(|_| bad(name))).transpose()
        };
        let (from, to) = (time(FROM)?, time(TO)?);
        // A day after or before it there is still a time that can be written.
        for (name, at) in [(FROM, from), (TO, to)] {
            if at.is_some_and(|at| !YEARS.contains(&at.inner().year())) {
                let (first, last) = (YEARS.start(), YEARS.end());
                let message = format!("a day close lies in the years {first} to {last}");
                return Err(Refusal { message: message.into(), ..bad(name) });
            }
        }
        if let (Some(from), Some(to)) = (from, to) {
            let latest = from.plus(Duration::from_secs(MAX_DAYS * 24 * 60 * 60));
            if to <= from || to > latest {
                let message =
                    format!("a day close ends after it begins, and at most {MAX_DAYS} days later");
                return Err(Refusal { message: message.into(), ..bad(TO) });
            }
        }
        Ok(Self { from, to })
    }
}

/// The money that came in from `from` on and before `to`, and what became of it, with what became
/// in this time of money that had come in before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DayClose {
    pub from: Timestamp,
    pub to: Timestamp,
    /// One line for each currency and method by which money moved.
    pub lines: Vec<DayCloseLine>,
    /// True if the balance of each line is 0, as it always is.
    pub balanced: bool,
}

/// The money of a method in a currency, in its minor unit. An amount is negative where more was taken
/// away than was added, such as what a refund takes of what was applied the day before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DayCloseLine {
    pub method: Method,
    pub currency: Currency,
    /// The money that came in.
    pub captured: i64,
    /// The money that pays carts and orders, less what has gone back of that.
    pub applied: i64,
    /// The money that has gone back.
    pub refunded: i64,
    /// The money that open refund tasks owe.
    pub owed: i64,
    /// The money that a person settled.
    pub settled: i64,
    /// `captured` less the other four.
    pub balance: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(named: &[(&str, &str)]) -> Result<DayCloseRange, Refusal> {
        DayCloseRange::parse(named.iter().copied())
    }

    #[test]
    fn a_time_has_a_beginning_and_an_end_or_is_a_day() {
        let time = |text| Some(Timestamp::parse(text).unwrap());
        assert_eq!(parse(&[("X-Other", "x")]).unwrap(), DayCloseRange::default());
        let both = [("from", "2026-01-02T05:00:00+01:00"), ("To", "2026-02-02T04:00:00Z")];
        let range = parse(&both).unwrap();
        assert_eq!(range.from, time("2026-01-02T04:00:00Z"));
        assert_eq!(range.to, time("2026-02-02T04:00:00Z"));
        let bad: &[&[(&str, &str)]] = &[
            &[("From", "2026-01-02")],
            &[("From", "")],
            &[("To", "today")],
            &[("From", "9999-12-31T12:00:00Z")],
            &[("To", "0000-01-01T00:00:00Z")],
            &[("From", "2026-01-02T04:00:00Z"), ("from", "2026-01-02T04:00:00Z")],
            &[("From", "2026-01-02T04:00:00Z"), ("To", "2026-01-02T04:00:00Z")],
            &[("From", "2026-01-02T04:00:00Z"), ("To", "2026-01-01T04:00:00Z")],
            &[("From", "2026-01-02T04:00:00Z"), ("To", "2026-02-02T04:00:00.001Z")],
        ];
        for named in bad {
            assert_eq!(parse(named).unwrap_err().code, "bad_header", "{named:?}");
        }
    }

    #[test]
    fn a_time_that_is_well_written_and_cannot_be_closed_is_not_called_malformed() {
        let begin = ("From", "2026-01-02T04:00:00Z");
        for (named, param, says) in [
            (&[("From", "9999-12-31T12:00:00Z")][..], "From", "in the years 1970 to 9998"),
            (&[begin, ("To", "1969-01-01T04:00:00Z")], "To", "in the years 1970 to 9998"),
            (&[begin, ("To", "2026-01-02T04:00:00Z")], "To", "ends after it begins"),
            (&[begin, ("To", "2026-02-03T04:00:00Z")], "To", "at most 31 days later"),
            (&[("From", "2026-01-02")], "From", "the header From is repeated or malformed"),
        ] {
            let refusal = parse(named).unwrap_err();
            assert_eq!(refusal.param.as_deref(), Some(param), "{named:?}");
            assert!(refusal.message.contains(says), "{named:?}: {}", refusal.message);
        }
    }
}
