use std::collections::BTreeMap;

use brigade_contracts::{Address, Part, PartVersions, Timestamp, event};

/// The address of an aggregate, its version and the versions of its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub address: Address,
    /// 0 before the first change.
    pub version: u64,
    pub at: Timestamp,
    /// Version and time of the last change that touched each part.
    pub parts: BTreeMap<Part, (u64, Timestamp)>,
}

impl Head {
    /// Returns the head of an aggregate that nothing has happened to yet.
    #[must_use]
    pub fn unborn(address: Address, now: Timestamp) -> Self {
        Self { address, version: 0, at: now, parts: BTreeMap::new() }
    }

    /// Counts one change.
    pub fn touch(&mut self, kind: &event::EventKind, now: Timestamp) {
        self.version += 1;
        self.at = now;
        for part in kind.touches {
            self.parts.insert(*part, (self.version, now));
        }
    }

    /// Returns version and time of a part; of one that was never touched, those of the aggregate.
    #[must_use]
    pub fn part(&self, part: Part) -> (u64, Timestamp) {
        self.parts.get(&part).copied().unwrap_or((self.version, self.at))
    }

    #[must_use]
    pub fn part_versions(&self) -> PartVersions {
        self.parts.iter().map(|(part, (version, _))| (*part, *version)).collect()
    }

    /// Returns the time of the last change that touched each part.
    #[must_use]
    pub fn part_times(&self) -> BTreeMap<Part, Timestamp> {
        self.parts.iter().map(|(part, (_, at))| (*part, *at)).collect()
    }
}
