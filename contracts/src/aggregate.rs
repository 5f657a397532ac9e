use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Refusal, Token};

/// A kind of thing with an id and a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    Cart,
    Payment,
    Order,
    Table,
    User,
    /// A thing that the restaurant sells; the id is the sku.
    Product,
    /// The lock of an owner over its carts; the id is the owner. It has backlog entries, a
    /// projection and a place among effects like the others, but no events, and nobody can address
    /// it.
    Lock,
}

impl Aggregate {
    /// The kinds that commands, queries and events speak of.
    pub const ALL: [Self; 6] =
        [Self::Cart, Self::Payment, Self::Order, Self::Table, Self::User, Self::Product];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cart => "cart",
            Self::Payment => "payment",
            Self::Order => "order",
            Self::Table => "table",
            Self::User => "user",
            Self::Product => "product",
            Self::Lock => "lock",
        }
    }

    /// The parts that it is published in.
    #[must_use]
    pub fn parts(self) -> &'static [Part] {
        match self {
            Self::Cart | Self::Order => &[Part::Core, Part::Payments],
            Self::User => &[Part::Auth, Part::Subscription, Part::Roles],
            Self::Payment | Self::Table | Self::Product | Self::Lock => &[Part::Core],
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == text)
    }

    /// Like [`Aggregate::parse`], and also accepts `lock`, which stands in the projection backlog.
    #[must_use]
    pub fn parse_with_lock(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| (text == Self::Lock.as_str()).then_some(Self::Lock))
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A piece of an aggregate's projection, which has exactly one writer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Core,
    Payments,
    /// A part of a user, as the two below.
    Auth,
    Subscription,
    Roles,
}

impl Part {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Payments => "payments",
            Self::Auth => "auth",
            Self::Subscription => "subscription",
            Self::Roles => "roles",
        }
    }

    /// Returns true if a projector writes it, from events; command-handler writes the others
    /// itself.
    #[must_use]
    pub fn is_written_by_projector(self) -> bool {
        matches!(self, Self::Payments | Self::Subscription | Self::Roles)
    }
}

/// The version of the last change that touched each part.
pub type PartVersions = BTreeMap<Part, u64>;

/// Events and their way out are cut into this many shards.
pub const SHARDS: u8 = 16;

/// The shard of an aggregate: FNV-1a over its address, which must never change, since rows of the
/// outbox and subjects of events carry it.
#[must_use]
pub fn shard_of(address: &Address) -> u8 {
    let hash = address.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash % u64::from(SHARDS)) as u8
}

/// Which aggregate: its tenant, its kind and its id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    pub tenant: Token,
    pub aggregate: Aggregate,
    pub id: Token,
}

impl Address {
    /// # Errors
    /// `400 bad_token` where the tenant or the id is no Token.
    pub fn new(tenant: &str, aggregate: Aggregate, id: &str) -> Result<Self, Refusal> {
        Ok(Self { tenant: Token::new(tenant)?, aggregate, id: Token::new(id)? })
    }

    /// Returns the name of this aggregate at a version in outcomes: `cart.c1@11`.
    #[must_use]
    pub fn at(&self, version: u64) -> String {
        format!("{}.{}@{version}", self.aggregate, self.id)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.tenant, self.aggregate, self.id)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
