//! Inputs that decisions about users get from their caller.

use std::fmt;

use brigade_contracts::{Secret, user::Random};

use crate::throttle::Throttle;

/// The result of a password check that was made before the batch. It belongs to its command, never
/// to a Command-Id: two messages of the same id may hold different passwords.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// The hash of the password that is to be the user's from now on, in PHC form. Of a `login`
    /// that of the same password, where it was hashed with weaker parameters than today's.
    pub hashed: Option<Secret>,
    /// The password that has to be the user's present one.
    pub verified: Option<Verified>,
}

/// A password that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The hash that it was verified against: that of the addressed user, if the user has the email
    /// in the payload. `None`: there was no such user, and the password was verified against a hash of
    /// nobody, which takes the same time.
    pub password_hash_seen: Option<Secret>,
    pub ok: bool,
}

/// Random numbers, and the failures of the last quarter of an hour.
#[derive(Default)]
pub struct AuthInputs {
    /// Two for each `login` and `refresh`, one for a reset. Each goes into one token.
    pub randoms: Vec<Random>,
    pub throttle: Throttle,
}

/// Without the random numbers, which are tokens in another form.
impl fmt::Debug for AuthInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (randoms, throttle) = (self.randoms.len(), &self.throttle);
        write!(f, "AuthInputs {{ randoms: {randoms}, throttle: {throttle:?} }}")
    }
}
