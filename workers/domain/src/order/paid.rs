use brigade_contracts::{Money, event::ORDER_PAID};
use serde_json::json;

use crate::{
    changes::Fact,
    state::Order,
    unit_of_work::{Handle, UnitOfWork},
};

/// Records that an order is paid, once: with the change after which nothing is due.
pub(crate) fn record_paid(work: &mut UnitOfWork<'_>, order: Handle<Order>) {
    let Order { paid, paid_at, .. } = work[order];
    if work[order].due() > Money::ZERO || paid_at.is_some() {
        return;
    }
    work[order].paid_at = Some(work.now);
    work.record(order, Fact::new(ORDER_PAID, &json!({ "paid": paid })));
}
