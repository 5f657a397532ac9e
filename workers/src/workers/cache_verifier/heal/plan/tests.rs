use brigade_contracts::Aggregate::{self, Cart, Lock, Order, Payment, Product, Table, User};

use super::*;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const RANGE: EventRange = EventRange { after: 3, until: 9 };

fn plan(losses: &[(&str, StreamLoss)]) -> HealPlan {
    let mut plan = HealPlan::default();
    for (stream, loss) in losses {
        plan.add_loss(stream, *loss, &ObservedStream::Absent, None, NOW);
    }
    plan
}

fn steps(losses: &[(&str, StreamLoss)]) -> Vec<HealStep> {
    let plan = plan(losses);
    plan.steps(plan.changed_since().map(|_| RANGE), plan.event_replay().map(|_| RANGE))
}

fn of(kind: Aggregate) -> HealScope {
    HealScope::Unexpired { kind, tenant: None }
}

fn project(kinds: &[Aggregate]) -> Vec<HealStep> {
    kinds.iter().map(|kind| HealStep::Project { scope: of(*kind) }).collect()
}

fn republish(kinds: &[Aggregate]) -> Vec<HealStep> {
    kinds.iter().map(|kind| HealStep::Republish { scope: of(*kind) }).collect()
}

#[test]
fn each_bucket_brings_back_the_aggregates_that_it_holds() {
    let purged = |stream| steps(&[(stream, StreamLoss::Purged)]);
    let views = [Cart, Order, Payment, Table, Product];
    let all = [project(&views), republish(&[Cart, Order])].concat();
    assert_eq!(purged("KV_views"), all);
    let versions = [Cart, Order, Payment, Table, Product, User];
    let wait = vec![HealStep::AwaitProjections];
    assert_eq!(purged("KV_versions"), [project(&versions), wait].concat());
    let listed = HealScope::ListedOrders { tenant: None };
    let both = [HealStep::Project { scope: listed.clone() }, HealStep::Republish { scope: listed }];
    assert_eq!(purged("KV_active_orders"), both);
    assert_eq!(purged("KV_cart_locks"), project(&[Lock]));
    assert_eq!(purged("TIMERS"), project(&[Lock]));
    let users = [project(&[User]), republish(&[User])].concat();
    assert_eq!(purged("KV_user_state"), users);
    for nothing in ["KV_attempts", "COMMANDS"] {
        assert_eq!(purged(nothing), []);
    }
    let both = [("KV_active_orders", StreamLoss::Purged), ("KV_views", StreamLoss::Purged)];
    assert_eq!(steps(&both), all, "which covers the listed orders");
}

#[test]
fn every_kind_is_brought_back_with_its_home_bucket() {
    let homes = ["KV_views", "KV_cart_locks", "KV_user_state"];
    for kind in all_kinds() {
        let holds =
            |stream: &&&str| steps(&[(stream, StreamLoss::Purged)]).contains(&project(&[kind])[0]);
        assert_eq!(homes.iter().filter(holds).count(), 1, "{kind}");
    }
}

#[test]
fn a_loss_of_the_newest_brings_back_what_changed_since() {
    let losses = [("KV_views", StreamLoss::Behind), ("KV_cart_locks", StreamLoss::ServerRestarted)];
    assert_eq!(plan(&losses).changed_since(), Some(NOW - CHECKPOINT_MARGIN));
    let scope = HealScope::Changed { events: RANGE };
    let both = [HealStep::Project { scope: scope.clone() }, HealStep::Republish { scope }];
    assert_eq!(steps(&losses), both);
}

#[test]
fn events_are_replayed_as_far_back_as_the_loss_reaches() {
    let replay = |loss| plan(&[("EVENTS", loss)]).events.unwrap();
    assert_eq!(replay(StreamLoss::Behind).since, NOW - CHECKPOINT_MARGIN);
    let absent = EventReplay { since: NOW - EVENTS_RETENTION, under_new_ids: false };
    assert_eq!(replay(StreamLoss::Absent), absent);
    let replayed = HealStep::Replay { events: RANGE, under_new_ids: false };
    assert_eq!(steps(&[("EVENTS", StreamLoss::Absent)]), [replayed]);
    assert_eq!(steps(&[("KV_attempts", StreamLoss::Recreated)]), []);
    assert_eq!(plan(&[("COMMANDS", StreamLoss::Absent)]).reason(), "COMMANDS missing");
}

#[test]
fn a_hole_may_be_anywhere_and_its_ids_are_remembered() {
    let mut plan = HealPlan::default();
    let found = ObservedStream::Present(StreamCheckpoint {
        taken_at: NOW,
        created: "then".to_owned(),
        server_id: "server".to_owned(),
        first_seq: 1,
        last_seq: 20,
        messages: 12,
        first_at: NOW,
        last_at: NOW,
        canary: None,
        max_age: None,
    });
    plan.add_loss("EVENTS", StreamLoss::Holed, &found, None, NOW);
    let whole = EventReplay { since: NOW - EVENTS_RETENTION, under_new_ids: true };
    assert_eq!(plan.events, Some(whole));
}

#[test]
fn a_rebuild_empties_what_it_writes_and_of_a_tenant_alone() {
    let tenant = Token::new("t1").unwrap();
    let scope = HealScope::ListedOrders { tenant: Some(tenant.clone()) };
    let expected = [
        HealStep::DeleteKeys { bucket: Bucket::ActiveOrders, tenant: Some(tenant.clone()) },
        HealStep::Project { scope: scope.clone() },
        HealStep::AwaitProjections,
        HealStep::Republish { scope },
        HealStep::AwaitPublications,
    ];
    assert_eq!(HealPlan::rebuild(&[Bucket::ActiveOrders], Some(&tenant)), expected);
    let locks = [
        vec![HealStep::DeleteKeys { bucket: Bucket::CartLocks, tenant: None }],
        project(&[Lock]),
        vec![HealStep::AwaitProjections],
    ];
    assert_eq!(HealPlan::rebuild(&[Bucket::CartLocks], None), locks.concat());
}
