//! The batches of a step: what SQL says is to be healed next.

use std::collections::BTreeSet;

use brigade_contracts::{Address, Aggregate, Part, Token};

use super::{
    BATCH,
    events::{self, LoggedEvent},
    scan,
    step::{EventRange, HealPosition, HealScope},
};
use crate::{
    infra::Context,
    workers::cache_verifier::heads::{ExpiryMargin, KeyCursor, load_head_page},
};

/// Some aggregates of a scope.
pub struct AddressBatch {
    pub addresses: Vec<Address>,
    /// Rows of SQL that were read for them.
    pub walked: usize,
    pub next: HealPosition,
}

/// Loads the next aggregates of a scope.
///
/// # Errors
/// If Postgres refuses a statement.
pub async fn load_addresses(
    cx: &Context,
    scope: &HealScope,
    position: &HealPosition,
) -> sqlx::Result<AddressBatch> {
    let or_next_step = |next: Option<HealPosition>| next.unwrap_or_else(|| position.next_step());
    let at_key = |after: KeyCursor| HealPosition { after, ..position.clone() };
    match scope {
        HealScope::Unexpired { kind, tenant } => {
            let (of, margin) = ((*kind, tenant.as_ref()), ExpiryMargin::default());
            let page = load_head_page(cx, of, &position.after, BATCH, margin).await?;
            let kept = page.heads.into_iter().filter(|head| head.kept);
            let addresses = kept.map(|head| head.address).collect();
            let next = or_next_step(page.next.map(at_key));
            Ok(AddressBatch { addresses, walked: page.walked, next })
        }
        HealScope::ListedOrders { tenant } => {
            let mut listed = scan::listed_orders(cx).await?;
            let key = |order: &Address| (order.tenant.to_string(), order.id.to_string());
            let is_of =
                |order: &Address| tenant.as_ref().is_none_or(|of: &Token| *of == order.tenant);
            listed.retain(|order| is_of(order) && key(order) > position.after);
            listed.sort_by_cached_key(key);
            let rest = listed.split_off(listed.len().min(BATCH as usize));
            let last = listed.last().filter(|_| !rest.is_empty());
            let next = or_next_step(last.map(|order| at_key(key(order))));
            Ok(AddressBatch { walked: listed.len(), addresses: listed, next })
        }
        HealScope::Changed { events } => {
            let (batch, next) = load_events(cx, *events, position).await?;
            let changed: BTreeSet<Address> =
                batch.iter().filter_map(LoggedEvent::address).collect();
            let mut addresses: Vec<Address> = changed.into_iter().collect();
            addresses.extend(scan::locks_of_carts(cx, &addresses).await?);
            Ok(AddressBatch { addresses, walked: batch.len(), next })
        }
    }
}

/// Loads the next events of a range.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn load_events(
    cx: &Context,
    range: EventRange,
    position: &HealPosition,
) -> sqlx::Result<(Vec<LoggedEvent>, HealPosition)> {
    let range = EventRange { after: range.after.max(position.seq), ..range };
    let batch = events::load_batch(cx, range, BATCH).await?;
    let last = batch.last().filter(|_| batch.len() as i64 >= BATCH);
    let next = last.map(|event| HealPosition { seq: event.seq, ..position.clone() });
    Ok((batch, next.unwrap_or_else(|| position.next_step())))
}

/// Returns the parts of these aggregates that projectors write.
pub fn projected_parts(addresses: &[Address]) -> Vec<(Address, Part)> {
    let parts = |kind: Aggregate| {
        kind.parts().iter().copied().filter(|part| part.is_written_by_projector())
    };
    let parts_of =
        |a: &Address| parts(a.aggregate).map(|part| (a.clone(), part)).collect::<Vec<_>>();
    addresses.iter().flat_map(parts_of).collect()
}
