//! Failed logins, counted so that nobody can guess for long.
//!
//! A failure counts for [`WINDOW`], by the user, the email and the source of the login. With
//! [`MOST_FAILURES`] under any of these nothing is verified until the oldest of them is past: what
//! is refused for that does not count, or a user could be locked out for ever by repeated logins.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use brigade_contracts::{Body, Command, Timestamp, Token, user::Verb};

pub const MOST_FAILURES: u32 = 10;
pub const WINDOW: Duration = Duration::from_secs(15 * 60);

/// A property of a login that failures are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// The id in the subject, whether there is such a user or not.
    User,
    /// The folded email in the payload.
    Email,
    /// The header `Source`.
    Source,
}

impl FailureKind {
    pub const ALL: [Self; 3] = [Self::User, Self::Email, Self::Source];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Email => "email",
            Self::Source => "source",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FailureKey {
    pub tenant: Token,
    pub kind: FailureKind,
    pub key: String,
}

impl FailureKey {
    pub(crate) fn is_of_source(&self) -> bool {
        self.kind == FailureKind::Source
    }
}

/// Returns the keys by which a `login` is counted; none for any other command.
#[must_use]
pub fn keys_of(command: &Command) -> Vec<FailureKey> {
    let Ok(request) = &command.request else { return Vec::new() };
    let Body::User(Verb::Login(login)) = &request.body else { return Vec::new() };
    let key = |kind, key| FailureKey { tenant: command.tenant.clone(), kind, key };
    let source = command.source.map(|source| key(FailureKind::Source, source.to_string()));
    [
        key(FailureKind::User, request.address.id.to_string()),
        key(FailureKind::Email, login.email.folded()),
    ]
    .into_iter()
    .chain(source)
    .collect()
}

/// The failures of a key within the window, and the time of the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub failures: u32,
    /// `None` with no failures.
    pub oldest: Option<Timestamp>,
}

/// The failures that a batch has loaded, and those that it adds.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    counts: HashMap<FailureKey, Count>,
    added: Vec<(FailureKey, Timestamp)>,
    cleared: BTreeSet<FailureKey>,
}

impl Throttle {
    /// Holds the counts of all keys that the batch may look up, those without failures too.
    #[must_use]
    pub fn new(loaded: impl IntoIterator<Item = (FailureKey, Count)>) -> Self {
        Self { counts: loaded.into_iter().collect(), ..Self::default() }
    }

    /// Returns the new failures, to be stored after [`Throttle::cleared`] are deleted.
    #[must_use]
    pub fn added(&self) -> &[(FailureKey, Timestamp)] {
        &self.added
    }

    /// Returns the keys of which all stored failures are to be deleted.
    #[must_use]
    pub fn cleared(&self) -> &BTreeSet<FailureKey> {
        &self.cleared
    }

    pub(crate) fn count(&self, key: &FailureKey) -> Option<Count> {
        self.counts.get(key).copied()
    }

    pub(crate) fn clear(&mut self, key: FailureKey) {
        self.added.retain(|(added, _)| *added != key);
        self.counts.insert(key.clone(), Count::default());
        self.cleared.insert(key);
    }

    pub(crate) fn fail(&mut self, key: FailureKey, now: Timestamp) {
        let count = self.counts.entry(key.clone()).or_default();
        count.failures += 1;
        count.oldest.get_or_insert(now);
        self.added.push((key, now));
    }
}
