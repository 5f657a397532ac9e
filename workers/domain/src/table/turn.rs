//! Turns begin and end.

use std::collections::BTreeSet;

use brigade_contracts::{
    Address, Aggregate, MAX_ORDERS_OF_TURN, Refusal, Token,
    event::{TABLE_TURN_CLOSED, TABLE_TURN_OPENED},
    table::{CloseReason, OpenTurn, Status},
};
use serde_json::json;

use super::{
    super::{
        Order, State, Want,
        draft::{Done, Draft, Result, Stop},
        table_not_found,
    },
    Table, Turn, no_open_turn, turn_open, unpaid_order,
};

pub(super) fn open(draft: &mut Draft<'_>, table: Table, said: &OpenTurn) -> Result<Done> {
    if table.turn.as_ref().is_some_and(Turn::is_open) {
        return Err(turn_open().into());
    }
    if table.status == Status::OutOfService {
        let message = "the table is out of service: make it available first";
        return Err(Refusal::new(409, "out_of_service", message).into());
    }
    if draft.table_of_turn(&said.turn_id)?.is_some() {
        return Err(Refusal::new(409, "turn_exists", "there was a turn of this id already").into());
    }
    let turn = Turn {
        id: said.turn_id.clone(),
        version: 0,
        at: draft.now,
        party_size: said.party_size,
        opened_at: draft.now,
        closed_at: None,
        close_reason: None,
    };
    draft.change_table(table, Status::Occupied, Some(turn), TABLE_TURN_OPENED, said);
    Ok(Done::ok())
}

pub(super) fn close(draft: &mut Draft<'_>, table: Table, turn_id: &Token) -> Result<Done> {
    let turn = draft.named(&table, turn_id)?;
    if !draft.bill(&table)?.unpaid.is_empty() {
        return Err(unpaid_order().into());
    }
    draft.close_turn(table, turn, CloseReason::Manual);
    Ok(Done::ok())
}

/// The one rule: when a turn has orders and none of them is unpaid, it is closed and its table is
/// available. It is looked at after every command, for the turns of the orders that were unpaid
/// before it and are no more.
pub(crate) fn settle(draft: &mut Draft<'_>) -> Result<()> {
    let before = |order: &Order| draft.world.states.get(&order.head.address).and_then(State::order);
    let settled = |order: &&Order| !order.is_unpaid() && before(order).is_none_or(Order::is_unpaid);
    let turns: BTreeSet<_> = draft
        .changes
        .states
        .values()
        .filter_map(State::order)
        .filter(settled)
        .filter_map(|order| Some((order.table_id.clone()?, order.turn_id.clone()?)))
        .collect();
    for (table, turn_id) in turns {
        let table = draft.address(Aggregate::Table, &table);
        let Some(table) = draft.table(&table)? else { continue };
        let Some(turn) = table.open_turn().filter(|turn| turn.id == turn_id).cloned() else {
            continue;
        };
        if draft.bill(&table)?.is_settled() {
            draft.close_turn(table, turn, CloseReason::Paid);
        }
    }
    Ok(())
}

/// Where an order is placed: the table, and its open turn.
pub(crate) fn seat(
    draft: &mut Draft<'_>,
    table_id: Option<&Token>,
    turn_id: Option<&Token>,
) -> Result<Option<(Token, Token)>> {
    let table_id = match (table_id, turn_id) {
        (Some(table), _) => table.clone(),
        (None, Some(turn)) => draft.table_of_turn(turn)?.ok_or_else(turn_not_found)?,
        (None, None) => return Ok(None),
    };
    let address = draft.address(Aggregate::Table, &table_id);
    let table = draft.table(&address)?.ok_or_else(table_not_found)?;
    if let Some(asked) = turn_id {
        draft.named(&table, asked)?;
    }
    let turn = table.open_turn().ok_or_else(no_open_turn)?;
    if draft.orders_of(turn, &address)?.len() >= MAX_ORDERS_OF_TURN {
        let message = "a turn has at most 200 orders: open another one";
        return Err(Refusal::new(422, "too_many_orders", message).into());
    }
    Ok(Some((table_id, turn.id.clone())))
}

/// What the orders of a turn say.
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

impl Draft<'_> {
    /// The orders of a table's open or latest turn.
    pub(super) fn bill(&mut self, table: &Table) -> Result<Bill> {
        let Some(turn) = &table.turn else { return Ok(Bill::default()) };
        let addresses = self.orders_of(turn, &table.head.address)?;
        let mut bill = Bill { orders: addresses.len(), unpaid: Vec::new() };
        for address in addresses {
            if self.state(&address)?.and_then(State::order).is_some_and(Order::is_unpaid) {
                bill.unpaid.push(address.id);
            }
        }
        Ok(bill)
    }

    /// All orders of the turn that a table has, those of this command as well.
    fn orders_of(&self, turn: &Turn, table: &Address) -> Result<BTreeSet<Address>> {
        let key = (self.command.tenant.clone(), turn.id.clone());
        let Some(known) = self.world.reach.turn_orders.get(&key) else {
            return Err(Stop::OutOfReach(Some(Want::Aggregate(table.clone()))));
        };
        let placed = self.changes.states.values().filter_map(State::order);
        let placed = placed.filter(|order| order.turn_id.as_ref() == Some(&turn.id));
        Ok(known.iter().chain(placed.map(|order| &order.head.address)).cloned().collect())
    }

    pub(super) fn close_turn(&mut self, table: Table, turn: Turn, reason: CloseReason) -> Table {
        let data = json!({ "turn_id": turn.id, "close_reason": reason });
        let turn = turn.closed(self.now, reason);
        self.change_table(table, Status::Available, Some(turn), TABLE_TURN_CLOSED, &data)
    }

    /// The table's turn of this id, if it is open.
    fn named(&mut self, table: &Table, turn_id: &Token) -> Result<Turn> {
        if let Some(turn) = table.turn.as_ref().filter(|turn| turn.id == *turn_id) {
            let open = turn.is_open().then(|| turn.clone());
            return open.ok_or_else(|| turn_closed().into());
        }
        let here = self.table_of_turn(turn_id)?.is_some_and(|at| at == table.head.address.id);
        Err(if here { turn_closed() } else { turn_not_found() }.into())
    }

    /// The table that a turn is or was at; `None`: there is no such turn.
    fn table_of_turn(&self, turn_id: &Token) -> Result<Option<Token>> {
        let (tenant, turn_id) = (self.command.tenant.clone(), turn_id.clone());
        match self.world.reach.turns.get(&(tenant.clone(), turn_id.clone())) {
            Some(table) => Ok(table.clone()),
            None => Err(Stop::OutOfReach(Some(Want::Turn(tenant, turn_id)))),
        }
    }
}

fn turn_closed() -> Refusal {
    Refusal::new(409, "turn_closed", "this turn is closed")
}

fn turn_not_found() -> Refusal {
    Refusal::new(404, "turn_not_found", "there is no such turn at this table")
}
