//! What a customer has to be to an aggregate, for his command to be decided.

use std::{fmt, str::FromStr};

use crate::{Refusal, header};

/// The relation of an actor to the aggregate of his command, as it has to be when the command is
/// decided. edge names it of what a customer sends over HTTP, and a backend may of what it sends for
/// one of its own; a command that names none is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// None: what he wants is not there yet.
    Customer,
    /// He shows the secret of the cart.
    Invited,
    /// He shows the secret of the cart's session, or the cart is his already.
    Claimant,
    /// The cart, or that of the order, is his or he is a member of it.
    Participant,
    /// He pays the payment, or owns the cart that it pays.
    Payer,
    /// He owns the cart, or that of the order.
    Owner,
}

impl Relation {
    pub const ALL: [Self; 6] = [
        Self::Customer,
        Self::Invited,
        Self::Claimant,
        Self::Participant,
        Self::Payer,
        Self::Owner,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Invited => "invited",
            Self::Claimant => "claimant",
            Self::Participant => "participant",
            Self::Payer => "payer",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Relation {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let known = Self::ALL.into_iter().find(|relation| relation.as_str() == text);
        known.ok_or_else(|| header::bad(header::RELATION))
    }
}
