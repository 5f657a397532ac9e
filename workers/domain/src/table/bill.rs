use brigade_contracts::{Address, Token};

use crate::{
    outcome::Result,
    state::{Order, State, Table, Turn},
    unit_of_work::{Handle, UnitOfWork},
};

/// The orders of a turn, and those of them that are unpaid.
#[derive(Debug, Default)]
pub(super) struct Bill {
    pub orders: usize,
    pub unpaid: Vec<Token>,
}

impl Bill {
    pub fn is_settled(&self) -> bool {
        self.orders > 0 && self.unpaid.is_empty()
    }
}

/// Returns the bill of a table's open or latest turn.
pub(super) fn bill(work: &mut UnitOfWork<'_>, table: Handle<Table>) -> Result<Bill> {
    let Some(turn) = &work[table].turn else { return Ok(Bill::default()) };
    let (stored, placed) = orders(work, table, turn)?;
    let mut bill = Bill { orders: stored.len() + placed.len(), unpaid: Vec::new() };
    for address in stored.iter().chain(&placed) {
        if work.find::<Order>(address)?.is_some_and(Order::is_unpaid) {
            bill.unpaid.push(address.id.clone());
        }
    }
    bill.unpaid.sort_unstable();
    Ok(bill)
}

/// Returns how many orders the turn of a table has.
pub(super) fn count(work: &UnitOfWork<'_>, table: Handle<Table>, turn: &Turn) -> Result<usize> {
    let (stored, placed) = orders(work, table, turn)?;
    Ok(stored.len() + placed.len())
}

/// Returns the orders that the turn had before the command, and those that the command places.
fn orders<'b>(
    work: &UnitOfWork<'b>,
    table: Handle<Table>,
    turn: &Turn,
) -> Result<(&'b [Address], Vec<Address>)> {
    let stored = work.orders_of_turn(&turn.id, &work[table].head.address)?;
    let placed = work.changed().filter_map(State::order);
    let placed = placed.filter(|order| order.turn_id.as_ref() == Some(&turn.id));
    let placed = placed.map(|order| &order.head.address);
    let placed = placed.filter(|address| !stored.contains(address)).cloned().collect();
    Ok((stored, placed))
}
