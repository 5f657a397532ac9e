/// A difference between a key and SQL; see `audit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDiscrepancy {
    Missing,
    Stale,
    Ahead,
    Different,
}

impl KeyDiscrepancy {
    pub const ALL: [Self; 4] = [Self::Missing, Self::Stale, Self::Ahead, Self::Different];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Ahead => "ahead",
            Self::Different => "different",
        }
    }
}
