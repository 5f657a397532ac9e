//! What decisions about users need of their caller.

use std::fmt;

use brigade_contracts::{Address, Email, Secret, user::Random};

use super::{
    super::{
        Want,
        draft::{Draft, Result, Stop},
    },
    Throttle, User,
};

/// What a password came to before the batch. It goes with its command, never with a Command-Id:
/// two messages of the same id may hold different passwords.
#[derive(Clone, Debug, PartialEq)]
pub enum Checked {
    /// Of `register`: the hash of the password, in PHC form.
    Hashed(Secret),
    /// Of `login`.
    Verified(Verified),
}

/// Whether a password was right, and for what.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Of the email in the payload.
    pub email_folded: String,
    /// The hash that it was verified against: that of the addressed user, if the user has this
    /// email. `None`: there was none, and it was verified against nothing, in the same time.
    pub password_hash_seen: Option<Secret>,
    pub ok: bool,
}

/// Random numbers, and the failures of the last quarter of an hour.
#[derive(Default)]
pub struct Supplies {
    /// Two for each `login` and `refresh`. Each goes into one token.
    pub randoms: Vec<Random>,
    pub throttle: Throttle,
}

/// Without the random numbers, which are tokens in another form.
impl fmt::Debug for Supplies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (randoms, throttle) = (self.randoms.len(), &self.throttle);
        write!(f, "Supplies {{ randoms: {randoms}, throttle: {throttle:?} }}")
    }
}

impl Draft<'_> {
    /// A random number that nobody else gets.
    pub(super) fn random(&mut self) -> Result<Random> {
        let randoms = &self.world.supplies.randoms;
        let left = randoms.len().checked_sub(self.changes.randoms + 1);
        let at = left.ok_or(Stop::OutOfReach(Some(Want::Random)))?;
        self.changes.randoms += 1;
        Ok(randoms[at])
    }

    /// Who has an email, in whatever case.
    pub(super) fn owner_of(&self, email: &Email) -> Result<Option<Address>> {
        let key = (self.command.tenant.clone(), email.folded());
        match self.world.reach.emails.get(&key) {
            Some(owner) => Ok(owner.clone()),
            None => Err(Stop::OutOfReach(Some(Want::Email(key.0, key.1)))),
        }
    }

    pub(super) fn hashed_password(&self) -> Result<Secret> {
        match self.checked {
            Some(Checked::Hashed(hash)) => Ok(hash.clone()),
            _ => Err(self.unchecked()),
        }
    }

    /// Whether the password is right, which was found out against the hash that the user has still.
    pub(super) fn verified(&self, email: &str, user: Option<&User>) -> Result<bool> {
        match self.checked {
            Some(Checked::Verified(verified))
                if verified.email_folded == email
                    && verified.password_hash_seen.as_ref()
                        == user.map(|user| &user.password_hash) =>
            {
                Ok(verified.ok)
            }
            _ => Err(self.unchecked()),
        }
    }

    fn unchecked(&self) -> Stop {
        let Self { command, .. } = self;
        Stop::OutOfReach(Some(Want::Password(command.tenant.clone(), command.command_id.clone())))
    }
}
