//! The aggregates and locks as SQL keeps them, and the projections of their parts.

mod cart;
pub(crate) mod entry;
mod lock;
mod order;
mod payment;
mod product;
mod session;
mod table;
mod user;

use brigade_contracts::Part;
use serde_json::value::RawValue;

pub use self::{
    cart::Cart,
    entry::Entry,
    lock::Lock,
    order::{Order, active_payment},
    payment::{Capture, Payment},
    product::Product,
    session::{Issued, Rotated, Session},
    table::{Table, Turn},
    user::{Reset, User},
};
use crate::{head::Head, json::raw};

/// An aggregate of any kind, or a lock.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Cart(Cart),
    Payment(Payment),
    Order(Order),
    Table(Table),
    User(User),
    Product(Product),
    Lock(Lock),
}

/// One kind of aggregate, or the lock of an owner; or any of them.
pub(crate) trait Stored: Into<State> {
    fn of(state: &State) -> Option<&Self>;

    fn of_mut(state: &mut State) -> Option<&mut Self>;
}

impl Stored for State {
    fn of(state: &State) -> Option<&Self> {
        Some(state)
    }

    fn of_mut(state: &mut State) -> Option<&mut Self> {
        Some(state)
    }
}

macro_rules! kinds {
    ($($kind:ident $name:ident),*) => {
        impl State {
            #[must_use]
            pub fn head(&self) -> &Head {
                match self {
                    $(Self::$kind(state) => &state.head,)*
                }
            }

            pub(crate) fn head_mut(&mut self) -> &mut Head {
                match self {
                    $(Self::$kind(state) => &mut state.head,)*
                }
            }

            $(
                #[must_use]
                pub fn $name(&self) -> Option<&$kind> {
                    $kind::of(self)
                }
            )*
        }

        $(
            impl From<$kind> for State {
                fn from(state: $kind) -> Self {
                    Self::$kind(state)
                }
            }

            impl Stored for $kind {
                fn of(state: &State) -> Option<&Self> {
                    if let State::$kind(state) = state { Some(state) } else { None }
                }

                fn of_mut(state: &mut State) -> Option<&mut Self> {
                    if let State::$kind(state) = state { Some(state) } else { None }
                }
            }
        )*
    };
}

kinds!(Cart cart, Payment payment, Order order, Table table, User user, Product product, Lock lock);

impl State {
    /// Returns the projection of a part: the same in KV, queries, outcomes and events. `null` for a
    /// part that this kind does not have (`Aggregate::parts`). The core of a lock is its value in
    /// `cart_locks`.
    #[must_use]
    pub fn part(&self, part: Part) -> Box<RawValue> {
        match (self, part) {
            (Self::Cart(cart), part) => cart.part(part),
            (Self::Order(order), part) => order.part(part),
            (Self::User(user), part) => user.part(part),
            (Self::Payment(payment), Part::Core) => payment.core(),
            (Self::Table(table), Part::Core) => table.core(),
            (Self::Product(product), Part::Core) => product.core(),
            (Self::Lock(lock), Part::Core) => lock.value(),
            (Self::Payment(_) | Self::Table(_) | Self::Product(_) | Self::Lock(_), _) => raw(&()),
        }
    }

    /// Returns the total less what is paid: computed here, since it belongs to neither part alone.
    /// 0 for a kind without these parts.
    #[must_use]
    pub fn due(&self) -> i64 {
        match self {
            Self::Cart(cart) => cart.due().minor_units(),
            Self::Order(order) => order.due().minor_units(),
            Self::Payment(_)
            | Self::Table(_)
            | Self::User(_)
            | Self::Product(_)
            | Self::Lock(_) => 0,
        }
    }

    /// Returns whether its keys may expire. A late result of the gateway still changes a payment
    /// that has ended, and its projection; a product that was withdrawn may come back.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Cart(cart) => cart.status != brigade_contracts::cart::Status::Open,
            Self::Payment(payment) => !payment.status.is_open(),
            Self::Order(order) => !order.status.is_active(),
            Self::Table(_) | Self::User(_) => false,
            Self::Product(product) => !product.listed,
            Self::Lock(lock) => !lock.is_held(),
        }
    }
}
