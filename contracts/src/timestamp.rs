use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{
    OffsetDateTime,
    format_description::well_known::Rfc3339,
    macros::{datetime, format_description},
};

use crate::Refusal;

/// An instant in UTC, to the millisecond; written as `2026-01-02T03:04:05.678Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999 UTC);

impl Timestamp {
    /// # Errors
    /// `400 malformed` for anything that is not RFC 3339.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            // Not all of the first and last day of RFC 3339 can be written in UTC.
            .and_then(|at| at.checked_to_offset(time::UtcOffset::UTC))
            .filter(|at| (0..=9999).contains(&at.year()))
            .map(Self::from)
            .ok_or_else(|| Refusal::new(400, "malformed", "expected a time as RFC 3339"))
    }

    #[must_use]
    pub fn inner(self) -> OffsetDateTime {
        self.0
    }

    /// So much later, at most the last instant there is.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let later = time::Duration::try_from(duration).ok().and_then(|d| self.0.checked_add(d));
        Self(later.filter(|at| at.year() <= 9999).unwrap_or(LAST))
    }

    /// Milliseconds from `self` to `later`; 0 if `later` is earlier.
    #[must_use]
    pub fn millis_until(self, later: Self) -> u64 {
        u64::try_from((later.0 - self.0).whole_milliseconds()).unwrap_or(0)
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(at: OffsetDateTime) -> Self {
        let at = at.checked_to_offset(time::UtcOffset::UTC).unwrap_or(at);
        // Truncating a nanosecond to its millisecond cannot leave the valid range.
        Self(at.replace_millisecond(at.millisecond()).unwrap_or(at))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        );
        f.write_str(&self.0.format(format).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(Refusal::into_serde)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_in_utc_with_milliseconds() {
        let at = Timestamp::parse("2026-01-02T05:04:05.6789+02:00").unwrap();
        assert_eq!(at.to_string(), "2026-01-02T03:04:05.678Z");
        assert_eq!(Timestamp::parse(&at.to_string()).unwrap(), at);
        assert_eq!(Timestamp::parse("9999-12-31T23:59:59Z").unwrap().to_string().len(), 24);
        assert!(Timestamp::parse("tomorrow").is_err());
        assert!(Timestamp::parse("9999-12-31T23:59:59-01:00").is_err());
        assert!(Timestamp::parse("0000-01-01T00:00:00+01:00").is_err());
    }

    #[test]
    fn a_sum_stays_a_time_that_can_be_written() {
        let at = Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap();
        assert_eq!(at.plus(Duration::from_millis(1_322)).to_string(), "2026-01-02T03:04:07.000Z");
        assert_eq!(at.plus(Duration::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(at.millis_until(at.plus(Duration::from_secs(600))), 600_000);
    }
}
