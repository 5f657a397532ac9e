//! user-state-projector: projects subscriptions and roles into KV.
//!
//! Writes the parts `subscription` and `roles` of users into `user_state`, and never `auth`, which
//! is command-handler's; see [`projector`].

use brigade_contracts::{
    Address, Part,
    event::After,
    key::{self, Bucket},
};

use crate::{
    infra::Context,
    workers::projector::{self, ProjectedKey, Projection},
};

const PROJECTION: Projection = Projection {
    buckets: &[Bucket::UserState],
    decode,
    before_projection: "user-state-projector.before_projection",
    after_projection: "user-state-projector.after_projection",
};

/// Runs until the drain.
///
/// # Errors
/// If the stream `EVENTS` cannot be consumed.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    projector::run(cx, PROJECTION).await
}

fn decode(address: &Address, after: After) -> Result<Vec<ProjectedKey>, String> {
    let parts = [(Part::Subscription, after.subscription), (Part::Roles, after.roles)];
    let carried = parts.into_iter().filter_map(|(kind, part)| Some((kind, part?)));
    let shown = carried.map(|(kind, part)| {
        let place = (Bucket::UserState, key::user_state(address, kind));
        ProjectedKey::new(address, kind, &part, place, part.clone(), None)
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    #[test]
    fn an_event_projects_the_parts_that_it_carries_and_nothing_else() {
        let user = Address::new("t1", brigade_contracts::Aggregate::User, "ada").unwrap();
        let at = "2026-01-02T03:04:05.678Z";
        let part = |version| Some(to_raw_value(&json!({"version": version, "at": at})).unwrap());
        let after = |subscription, roles| After {
            ended: false,
            core: None,
            payments: None,
            subscription,
            roles,
        };
        let shown = |after| {
            let shown = decode(&user, after).unwrap();
            shown.into_iter().map(|s| (s.put.key, s.put.version, s.put.ttl)).collect::<Vec<_>>()
        };
        let (subscription, roles) = ("t1.ada.subscription".to_owned(), "t1.ada.roles".to_owned());
        assert_eq!(
            shown(after(part(1), part(1))),
            [(subscription.clone(), 1, None), (roles.clone(), 1, None)]
        );
        assert_eq!(shown(after(None, part(7))), [(roles, 7, None)]);
        assert_eq!(shown(after(part(8), None)), [(subscription, 8, None)]);
        assert_eq!(shown(after(None, None)), []);
        let wrong = to_raw_value(&json!({"version": 1})).unwrap();
        assert!(decode(&user, after(Some(wrong), None)).is_err());
    }
}
