//! The place of an order: a table and its turn.

use brigade_contracts::{Aggregate, MAX_ORDERS_OF_TURN, Refusal, Token};

use super::{bill, change::no_open_turn};
use crate::{
    outcome::Result,
    relation::require_turn,
    state::{Table, Turn},
    unit_of_work::{Handle, UnitOfWork},
};

/// Returns the table and its open turn, by the table, the turn or both. A customer has to name the
/// turn.
pub(crate) fn seat(
    work: &mut UnitOfWork<'_>,
    table_id: Option<&Token>,
    turn_id: Option<&Token>,
) -> Result<Option<(Token, Token)>> {
    require_turn(work, table_id, turn_id)?;
    let table_id = match (table_id, turn_id) {
        (Some(table), _) => table,
        (None, Some(turn)) => work.table_of_turn(turn)?.ok_or_else(turn_not_found)?,
        (None, None) => return Ok(None),
    };
    let address = work.address(Aggregate::Table, table_id);
    let table = work.load::<Table>(&address)?.ok_or_else(table_not_found)?;
    if let Some(turn_id) = turn_id {
        require_open(work, table, turn_id)?;
    }
    let turn = work[table].open_turn().ok_or_else(no_open_turn)?;
    if bill::count(work, table, turn)? >= MAX_ORDERS_OF_TURN {
        let message = "a turn has at most 200 orders: open another one";
        return Err(Refusal::new(422, "too_many_orders", message).into());
    }
    Ok(Some((table_id.clone(), turn.id.clone())))
}

/// Returns the table's turn of this id, which has to be open.
pub(super) fn require_open<'w>(
    work: &'w UnitOfWork<'_>,
    table: Handle<Table>,
    turn_id: &Token,
) -> Result<&'w Turn> {
    let Table { head, turn, .. } = &work[table];
    if let Some(turn) = turn.as_ref().filter(|turn| turn.id == *turn_id) {
        return if turn.is_open() { Ok(turn) } else { Err(turn_closed().into()) };
    }
    let here = work.table_of_turn(turn_id)? == Some(&head.address.id);
    Err(if here { turn_closed() } else { turn_not_found() }.into())
}

fn turn_closed() -> Refusal {
    Refusal::new(409, "turn_closed", "this turn is closed")
}

fn turn_not_found() -> Refusal {
    Refusal::new(404, "turn_not_found", "there is no such turn at this table")
}

fn table_not_found() -> Refusal {
    Refusal::new(404, "table_not_found", "there is no such table")
}
