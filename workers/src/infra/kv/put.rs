//! Values as they stand in a bucket, and as they are to be written.

use std::{cmp::Ordering, time::Duration};

use brigade_contracts::{Era, planted::PlantedBug};
use bytes::Bytes;

/// A value as it is stored.
#[derive(Clone, Debug)]
pub struct KvEntry {
    pub revision: u64,
    pub era: Era,
    pub version: u64,
    /// Without its era.
    pub value: Bytes,
    /// True if it was written with a time to live.
    pub expires: bool,
}

/// A value to be written.
#[derive(Clone, Debug)]
pub struct Put {
    pub key: String,
    /// The version inside the value.
    pub version: u64,
    pub value: Bytes,
    /// Whole seconds; the server cuts off fractions.
    pub ttl: Option<Duration>,
}

impl Put {
    /// Returns true if a stored value makes this put needless: one of a newer version, or of this
    /// one that expires if it has to. An aggregate's end may let a part expire that it does not
    /// touch.
    pub(super) fn is_covered_by(&self, version: u64, expires: bool) -> bool {
        version > self.version || version == self.version && (expires || self.ttl.is_none())
    }

    /// Returns true if an entry makes this put of an era needless. One version has one content: an
    /// entry of the same version with another content is corrupt, and is written again.
    pub(super) fn is_covered_by_entry(&self, era: Era, entry: &KvEntry) -> bool {
        let corrupt = entry.version == self.version && entry.value != self.value;
        match entry.era.cmp(&era) {
            Ordering::Less if !PlantedBug::EraIgnored.is_planted() => false,
            Ordering::Less | Ordering::Equal => {
                !corrupt && self.is_covered_by(entry.version, entry.expires)
            }
            Ordering::Greater => true,
        }
    }
}

/// The action where no value is found although an earlier version must have been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAbsent {
    /// Report [`PutResult::Absent`]: the caller has to find out if its version is still the newest.
    /// A late writer would otherwise restore a value that has expired.
    Ask,
    /// Write: the caller knows that its version is the newest.
    Write,
}

/// The result of a [`Put`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutResult {
    /// This version, or a newer one, stands in the bucket.
    UpToDate,
    /// There is no value; see [`WhenAbsent::Ask`].
    Absent,
    /// The bucket refused it, or did not respond.
    Failed(String),
}
