//! payment-projector: projects payments into KV.
//!
//! Writes the part `payments` of carts and orders into `views`, and of orders the payment row of
//! `active_orders`; see [`projector`].

use brigade_contracts::{
    Address, Aggregate, Part,
    event::After,
    key::{self, Bucket, ENDED_TTL, REMOVED_TTL},
    order,
};
use brigade_domain::active_payment;

use crate::{
    infra::Context,
    workers::projector::{self, ProjectedKey, Projection},
};

const PROJECTION: Projection = Projection {
    buckets: &[Bucket::Views, Bucket::ActiveOrders],
    decode,
    before_projection: "payment-projector.before_projection",
    after_projection: "payment-projector.after_projection",
};

/// Runs until the drain.
///
/// # Errors
/// If the stream `EVENTS` cannot be consumed.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    projector::run(cx, PROJECTION).await
}

fn decode(address: &Address, after: After) -> Result<Vec<ProjectedKey>, String> {
    let Some(part) = after.payments else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    if address.aggregate == Aggregate::Order {
        let paid: order::Payments =
            serde_json::from_str(part.get()).map_err(|error| error.to_string())?;
        let place = (Bucket::ActiveOrders, key::active_order(address, Part::Payments));
        let ttl = after.ended.then_some(REMOVED_TTL);
        all.push(ProjectedKey::new(
            address,
            Part::Payments,
            &part,
            place,
            active_payment(&paid),
            ttl,
        )?);
    }
    let place = (Bucket::Views, key::view(address, Part::Payments));
    let ttl = after.ended.then_some(ENDED_TTL);
    all.push(ProjectedKey::new(address, Part::Payments, &part, place, part.clone(), ttl)?);
    Ok(all)
}
