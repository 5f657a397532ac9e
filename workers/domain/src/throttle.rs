//! Failed logins, counted so that nobody can guess for long, and nobody keeps others out.
//!
//! | counted by | what waits | from | until |
//! |---|---|---|---|
//! | account and source | the account at that source | 5 failures | 1 s after the last one, doubled with each further one, at most 1 min |
//! | account | it at sources that it has never logged in from | 25 | the oldest is past |
//! | source | all accounts that have never logged in from there | 100 | the oldest is past |
//!
//! A login, and a new password that is chosen by a token, forget those of the account. So whoever
//! shares an address with one who guesses waits there for at most a minute, and not at all with the
//! token from his mail: an address is no device, and guessing has to be bounded there as well.
//!
//! A failure counts for [`WINDOW`]. The account is the email, whether anybody has it or not; a
//! source is an address, of IPv6 its network of 64 bits. So a guest who logs in from where he did
//! before waits for his own failures only, and guessing is bounded by 100 an hour for an account.
//! What has to wait is refused whatever the password is, and does not count: else a user could be
//! kept out for ever by repeated logins.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use brigade_contracts::{Body, Command, Timestamp, Token, user::Verb};

pub const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Failures of an account at one source after which it waits there.
pub const FREE_FAILURES: u32 = 5;
/// The wait after the first failure beyond.
pub const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait of an account at one source after a failure.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Failures of an account after which it waits at sources that it has never logged in from.
pub const MOST_OF_ACCOUNT: u32 = 25;
/// Failures of a source after which all accounts wait that have never logged in from it.
pub const MOST_OF_SOURCE: u32 = 100;

/// Tokens for a new password of one email within [`WINDOW`].
pub const MOST_RESETS: u32 = 3;
/// Tokens for new passwords that are asked for from one source within [`WINDOW`].
pub const MOST_RESETS_OF_SOURCE: u32 = 20;

/// A property of a login that failures are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// Account and source.
    Pair,
    /// The account alone.
    Account,
    Source,
    /// An email that a token for a new password was asked for, whether anybody has it or not.
    Reset,
    /// The source that such a token was asked for from.
    ResetSource,
}

impl FailureKind {
    pub const ALL: [Self; 5] =
        [Self::Pair, Self::Account, Self::Source, Self::Reset, Self::ResetSource];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            // Most accounts are an email here, and a release before knows this word alone.
            Self::Account => "email",
            Self::Source => "source",
            Self::Reset => "reset",
            Self::ResetSource => "reset_source",
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

/// Returns what the failures of a source are counted by.
#[must_use]
pub fn network(source: IpAddr) -> String {
    match source {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            format!("{}/64", Ipv6Addr::from(u128::from(address) & !(u128::MAX >> 64)))
        }
    }
}

/// Returns the keys by which a command that shows a password is counted; none for any other.
#[must_use]
pub fn keys_of(command: &Command) -> Vec<FailureKey> {
    let Ok(request) = &command.request else { return Vec::new() };
    let Body::User(verb) = &request.body else { return Vec::new() };
    let key = |kind, key| FailureKey { tenant: command.tenant.clone(), kind, key };
    let source = command.source.map(network);
    if let Verb::RequestPasswordReset(reset) = verb {
        let email = key(FailureKind::Reset, reset.email.folded());
        let source = source.map(|source| key(FailureKind::ResetSource, source));
        return [Some(email), source].into_iter().flatten().collect();
    }
    let Some(account) = account(&request.address.id, verb) else { return Vec::new() };
    let source = source.map(|source| key(FailureKind::Source, source));
    keys_of_account(&command.tenant, account, command.source).chain(source).collect()
}

/// Returns the keys by which the failures of an account are counted, in all and at a source.
pub(crate) fn keys_of_account(
    tenant: &Token,
    account: String,
    source: Option<IpAddr>,
) -> impl Iterator<Item = FailureKey> {
    let key = |kind, key| FailureKey { tenant: tenant.clone(), kind, key };
    let pair =
        source.map(|source| key(FailureKind::Pair, format!("{account} {}", network(source))));
    [Some(key(FailureKind::Account, account)), pair].into_iter().flatten()
}

/// Returns the account whose password a verb shows.
fn account(id: &Token, verb: &Verb) -> Option<String> {
    // No email begins so.
    let by_id = || Some(format!("#{id}"));
    match verb {
        Verb::Login(login) => Some(login.email.folded()),
        Verb::ChangePassword(_) => by_id(),
        Verb::ChangeEmail(change) if change.password.is_some() => by_id(),
        Verb::Erase(erase) if erase.password.is_some() => by_id(),
        _ => None,
    }
}

/// The failures of a key within the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub failures: u32,
    /// The time of the first of them; `None` with no failures.
    pub oldest: Option<Timestamp>,
    /// The time of the last of them.
    pub latest: Option<Timestamp>,
}

impl Count {
    /// Returns until when a login has to wait for these failures. An account is known at a source
    /// that it has logged in from.
    #[must_use]
    pub fn waits_until(&self, kind: FailureKind, is_known: bool) -> Option<Timestamp> {
        let most = match kind {
            FailureKind::Pair => {
                let beyond = self.failures.checked_sub(FREE_FAILURES)?;
                let wait = FIRST_WAIT * 2_u32.saturating_pow(beyond.min(16));
                return Some(self.latest?.plus(wait.min(LONGEST_WAIT)));
            }
            FailureKind::Account => MOST_OF_ACCOUNT,
            FailureKind::Source => MOST_OF_SOURCE,
            FailureKind::Reset => MOST_RESETS,
            FailureKind::ResetSource => MOST_RESETS_OF_SOURCE,
        };
        if is_known || self.failures < most { None } else { Some(self.oldest?.plus(WINDOW)) }
    }
}

/// Returns how long a login has to wait for its failures, in milliseconds; `None`: it has not to.
#[must_use]
pub fn wait_ms(
    counts: impl IntoIterator<Item = (FailureKind, Count)>,
    is_known: bool,
    now: Timestamp,
) -> Option<u64> {
    let until = counts.into_iter().filter_map(|(kind, count)| count.waits_until(kind, is_known));
    let until = until.max().filter(|until| now < *until)?;
    Some(now.millis_until(until).max(1))
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
        count.latest = Some(now);
        self.added.push((key, now));
    }
}
