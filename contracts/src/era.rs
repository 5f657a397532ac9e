//! Eras of the database: versions count within one.
//!
//! A new era begins where SQL may have lost commits: after a failover or a restore, which both show
//! as another timeline or another system identifier of Postgres. A version of an earlier era may
//! name something else by now, or nothing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::planted::PlantedBug;

/// An era of the database. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Era(u64);

impl Era {
    /// The one that a database begins with. It is written nowhere.
    pub const FIRST: Self = Self(1);

    /// Returns the era of this number: that of its row in `brigade.eras`.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number as SQL has it.
    #[must_use]
    pub fn as_sql(self) -> i64 {
        self.0.cast_signed()
    }

    #[must_use]
    pub fn is_first(&self) -> bool {
        *self == Self::FIRST
    }

    /// Returns a version of this era.
    #[must_use]
    pub fn at(self, version: u64) -> EraVersion {
        EraVersion { era: self, version }
    }
}

impl Default for Era {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A version and its era: `7` in the first era, `7-<era>` in later ones. That of a later era is
/// greater, whatever its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EraVersion {
    pub era: Era,
    pub version: u64,
}

impl EraVersion {
    /// Returns the strong ETag: the version and its era in quotation marks.
    #[must_use]
    pub fn etag(self) -> String {
        if PlantedBug::EraIgnored.is_planted() {
            return format!("\"{}\"", self.version);
        }
        format!("\"{self}\"")
    }

    /// Reads an ETag, with or without its quotation marks; `None` if it is not of a version.
    #[must_use]
    pub fn of_etag(etag: &str) -> Option<Self> {
        etag.trim_matches('"').parse().ok()
    }

    /// Returns true if a sender who expects this version means the present one. A number alone is
    /// that of any era: senders may know no more than the `version` of an outcome.
    #[must_use]
    pub fn names(self, present: Self) -> bool {
        self == present || self.era.is_first() && self.version == present.version
    }
}

impl From<u64> for EraVersion {
    /// A version of the first era.
    fn from(version: u64) -> Self {
        Era::FIRST.at(version)
    }
}

impl fmt::Display for EraVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { era, version } = self;
        if era.is_first() { write!(f, "{version}") } else { write!(f, "{version}-{era}") }
    }
}

impl Serialize for EraVersion {
    /// As a number in the first era, else as text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.era {
            Era::FIRST => serializer.serialize_u64(self.version),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for EraVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(version) => Ok(Era::FIRST.at(version)),
            Written::Text(text) => text.parse().map_err(|_| D::Error::custom("no version")),
        }
    }
}

/// The text is neither a version nor a version and an era.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoVersion;

impl FromStr for EraVersion {
    type Err = NoVersion;

    /// Reads digits alone: no sign, no blank.
    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let number = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u64>().ok().filter(|_| is_number).ok_or(NoVersion)
        };
        match text.split_once('-') {
            None => Ok(Era::FIRST.at(number(text)?)),
            Some((version, era)) => match Era(number(era)?) {
                era if era > Era::FIRST => Ok(era.at(number(version)?)),
                _ => Err(NoVersion),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_era_is_written_nowhere() {
        assert_eq!(Era::FIRST.at(7).etag(), "\"7\"");
        assert_eq!(Era(1_732_000_000).at(7).etag(), "\"7-1732000000\"");
        assert_eq!(EraVersion::of_etag("\"7-9\""), Some(Era(9).at(7)));
        for bad in ["", "-", "7-", "-9", "7-1", "7-0", "+7", "7-+9", "7-9-9", "a", "7 "] {
            assert_eq!(bad.parse::<EraVersion>(), Err(NoVersion), "{bad:?}");
        }
        let names = |version: EraVersion| version.names(Era(9).at(7));
        assert!(names(Era(9).at(7)) && names(7.into()));
        assert!(!names(Era(8).at(7)) && !names(Era(9).at(6)) && !names(6.into()));
        assert!(Era(9).at(1) > Era(8).at(1000));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(era in 1..u64::MAX, version: u64) {
            let version = Era(era).at(version);
            prop_assert_eq!(version.to_string().parse(), Ok(version));
            prop_assert_eq!(EraVersion::of_etag(&version.etag()), Some(version));
            let json = serde_json::to_string(&version).unwrap();
            prop_assert_eq!(serde_json::from_str::<EraVersion>(&json).unwrap(), version);
        }
    }
}
