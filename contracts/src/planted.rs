//! Bugs that are planted on purpose, to show that `brigade chaos` would find them. Each is a few
//! lines at its place in the code, behind [`PlantedBug::is_planted`], which is `false` at compile
//! time without the feature `planted-bugs`: no production build has the feature, or any of them.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    AnswerBeforeCommit,
    AnswerBeforeProjection,
    AcknowledgeBeforeDecision,
    RelayDeletesFirst,
    RelayOutOfOrder,
    WriteWithoutVersion,
    UnconfirmedFromMemory,
    OldSnapshot,
    LockWithoutFencing,
    LockWithoutFreezing,
    EarlyExpiry,
    RefundTaskDropped,
    NothingHealed,
    ListFromMemory,
    DeadLetterReplayedTwice,
    LeaseNotGivenUp,
    EraIgnored,
}

impl PlantedBug {
    pub const ALL: [Self; 17] = [
        Self::AnswerBeforeCommit,
        Self::AnswerBeforeProjection,
        Self::AcknowledgeBeforeDecision,
        Self::RelayDeletesFirst,
        Self::RelayOutOfOrder,
        Self::WriteWithoutVersion,
        Self::UnconfirmedFromMemory,
        Self::OldSnapshot,
        Self::LockWithoutFencing,
        Self::LockWithoutFreezing,
        Self::EarlyExpiry,
        Self::RefundTaskDropped,
        Self::NothingHealed,
        Self::ListFromMemory,
        Self::DeadLetterReplayedTwice,
        Self::LeaseNotGivenUp,
        Self::EraIgnored,
    ];

    /// The variable of the environment that names the bugs of a process, separated by commas.
    pub const VARIABLE: &str = "BRIGADE_PLANTED_BUG";

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AnswerBeforeCommit => "answer_before_commit",
            Self::AnswerBeforeProjection => "answer_before_projection",
            Self::AcknowledgeBeforeDecision => "acknowledge_before_decision",
            Self::RelayDeletesFirst => "relay_deletes_first",
            Self::RelayOutOfOrder => "relay_out_of_order",
            Self::WriteWithoutVersion => "write_without_version",
            Self::UnconfirmedFromMemory => "unconfirmed_from_memory",
            Self::OldSnapshot => "old_snapshot",
            Self::LockWithoutFencing => "lock_without_fencing",
            Self::LockWithoutFreezing => "lock_without_freezing",
            Self::EarlyExpiry => "early_expiry",
            Self::RefundTaskDropped => "refund_task_dropped",
            Self::NothingHealed => "nothing_healed",
            Self::ListFromMemory => "list_from_memory",
            Self::DeadLetterReplayedTwice => "dead_letter_replayed_twice",
            Self::LeaseNotGivenUp => "lease_not_given_up",
            Self::EraIgnored => "era_ignored",
        }
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.as_str() == name)
    }

    /// Returns true if bugs can be planted in this build.
    #[must_use]
    pub const fn are_possible() -> bool {
        cfg!(feature = "planted-bugs")
    }

    /// Returns true if this process has the bug.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "one hook for all crates; in no production build"
    )]
    pub fn is_planted(self) -> bool {
        static BUGS: std::sync::OnceLock<Vec<PlantedBug>> = std::sync::OnceLock::new();
        let bugs = || {
            let names = std::env::var(Self::VARIABLE).unwrap_or_default();
            names.split(',').filter_map(Self::parse).collect()
        };
        BUGS.get_or_init(bugs).contains(&self)
    }

    /// Returns true if this process has the bug: never, in this build.
    #[cfg(not(feature = "planted-bugs"))]
    #[must_use]
    #[inline]
    pub const fn is_planted(self) -> bool {
        false
    }
}
