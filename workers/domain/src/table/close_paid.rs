//! The one rule: when a turn has orders and none of them is unpaid, it is closed and its table is
//! available.

use std::collections::BTreeSet;

use brigade_contracts::{Aggregate, table::CloseReason};

use super::{bill::bill, change::close_turn};
use crate::{
    outcome::Result,
    state::{Order, State, Table},
    unit_of_work::UnitOfWork,
};

/// Closes the turns of the orders that were unpaid before the command and are not any more, where
/// the one rule holds.
pub(crate) fn close_paid_turns(work: &mut UnitOfWork<'_>) -> Result<()> {
    let before = |order: &Order| work.before(&order.head.address).and_then(State::order);
    let is_newly_paid =
        |order: &&Order| !order.is_unpaid() && before(order).is_none_or(Order::is_unpaid);
    let orders = work.changed().filter_map(State::order).filter(is_newly_paid);
    let turns: BTreeSet<_> = orders
        .filter_map(|order| Some((order.table_id.clone()?, order.turn_id.clone()?)))
        .collect();
    for (table, turn_id) in turns {
        let address = work.address(Aggregate::Table, &table);
        let Some(table) = work.load::<Table>(&address)? else { continue };
        let turn = work[table].open_turn().filter(|turn| turn.id == turn_id);
        let Some(turn) = turn.cloned() else { continue };
        if bill(work, table)?.is_settled() {
            close_turn(work, table, turn, CloseReason::Paid);
        }
    }
    Ok(())
}
