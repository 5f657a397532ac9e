use brigade_contracts::Part;
use serde_json::value::RawValue;

use super::{Cart, Head, Lock, Order, Payment, Table, User, raw};

/// An aggregate of any kind, or a lock.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Cart(Cart),
    Payment(Payment),
    Order(Order),
    Table(Table),
    User(User),
    Lock(Lock),
}

impl State {
    #[must_use]
    pub fn head(&self) -> &Head {
        match self {
            Self::Cart(cart) => &cart.head,
            Self::Payment(payment) => &payment.head,
            Self::Order(order) => &order.head,
            Self::Table(table) => &table.head,
            Self::User(user) => &user.head,
            Self::Lock(lock) => &lock.head,
        }
    }

    pub(super) fn head_mut(&mut self) -> &mut Head {
        match self {
            Self::Cart(cart) => &mut cart.head,
            Self::Payment(payment) => &mut payment.head,
            Self::Order(order) => &mut order.head,
            Self::Table(table) => &mut table.head,
            Self::User(user) => &mut user.head,
            Self::Lock(lock) => &mut lock.head,
        }
    }

    /// A part as it is shown: in KV, in queries, in outcomes and in events, all alike. `null` for a
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
            (Self::Lock(lock), Part::Core) => lock.value(),
            (Self::Payment(_) | Self::Table(_) | Self::Lock(_), _) => raw(&()),
        }
    }

    /// What is due less what is paid is only computed where the two parts meet; 0 of what has no
    /// such parts.
    #[must_use]
    pub fn due(&self) -> i64 {
        match self {
            Self::Cart(cart) => cart.due().minor_units(),
            Self::Order(order) => order.due().minor_units(),
            Self::Payment(_) | Self::Table(_) | Self::User(_) | Self::Lock(_) => 0,
        }
    }

    /// Whether its keys may expire. What the gateway says late still changes a payment that has
    /// ended, and what is shown of it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Cart(cart) => cart.status != brigade_contracts::cart::Status::Open,
            Self::Payment(payment) => !payment.status.is_open(),
            Self::Order(order) => !order.status.is_active(),
            Self::Table(_) | Self::User(_) => false,
            Self::Lock(lock) => !lock.is_held(),
        }
    }

    #[must_use]
    pub fn cart(&self) -> Option<&Cart> {
        if let Self::Cart(cart) = self { Some(cart) } else { None }
    }

    #[must_use]
    pub fn payment(&self) -> Option<&Payment> {
        if let Self::Payment(payment) = self { Some(payment) } else { None }
    }

    #[must_use]
    pub fn order(&self) -> Option<&Order> {
        if let Self::Order(order) = self { Some(order) } else { None }
    }

    #[must_use]
    pub fn table(&self) -> Option<&Table> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    #[must_use]
    pub fn user(&self) -> Option<&User> {
        if let Self::User(user) = self { Some(user) } else { None }
    }

    #[must_use]
    pub fn lock(&self) -> Option<&Lock> {
        if let Self::Lock(lock) = self { Some(lock) } else { None }
    }
}

impl From<Cart> for State {
    fn from(cart: Cart) -> Self {
        Self::Cart(cart)
    }
}

impl From<Payment> for State {
    fn from(payment: Payment) -> Self {
        Self::Payment(payment)
    }
}

impl From<Order> for State {
    fn from(order: Order) -> Self {
        Self::Order(order)
    }
}

impl From<Table> for State {
    fn from(table: Table) -> Self {
        Self::Table(table)
    }
}

impl From<User> for State {
    fn from(user: User) -> Self {
        Self::User(user)
    }
}
