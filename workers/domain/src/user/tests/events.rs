use brigade_contracts::{
    Aggregate, event,
    user::{MAX_ROLES, MAX_SESSIONS},
};
use serde_json::json;

use super::fixture::{Fixture, PASSWORD, longest_email};
use crate::bounds::weigh;

#[test]
fn the_largest_event_of_every_kind_is_small() {
    let long = |letter: &str, n: usize| format!("{letter}{n:0>63}");
    let (id, text) = (long("a", 1), "\u{1f372}".repeat(200));
    let email = longest_email();
    let roles: Vec<_> = (0..MAX_ROLES).map(|n| long("r", n)).collect();
    let plan = json!({ "subscription_id": long("s", 1), "plan": text,
                       "until": "2027-01-02T03:04:05.678Z" });
    let mut fixture = Fixture::new();
    assert_eq!(fixture.register(&id, &email).outcome.status, 201);
    assert_eq!(fixture.send(&id, "change_roles", &json!({ "roles": roles })).outcome.status, 200);
    assert_eq!(fixture.send(&id, "register_subscription", &plan).outcome.status, 200);
    assert_eq!(fixture.send(&id, "activate_subscription", &plan).outcome.status, 200);
    let tokens = fixture.login(&id, &email, PASSWORD).tokens.expect("tokens");
    let refresh = json!({ "refresh_token": tokens.refresh_token.expose() });
    assert_eq!(fixture.send(&id, "refresh", &refresh).outcome.status, 200);
    let profile = json!({ "profile_id": long("p", 1) });
    assert_eq!(fixture.send(&id, "update_profile", &profile).outcome.status, 200);
    let reset = json!({ "email": email });
    assert_eq!(fixture.send(&id, "request_password_reset", &reset).outcome.status, 202);
    let changed = json!({ "password": PASSWORD, "new_password": PASSWORD });
    assert_eq!(fixture.send(&id, "change_password", &changed).outcome.status, 200);
    assert_eq!(fixture.send(&id, "change_email", &reset).outcome.status, 200);
    for _ in 0..MAX_SESSIONS {
        fixture.login(&id, &email, PASSWORD);
    }
    assert_eq!(fixture.send(&id, "logout", &json!({})).outcome.status, 200);
    fixture.login(&id, &email, PASSWORD);
    let why = json!({ "reason": "\u{1f372}".repeat(500) });
    assert_eq!(fixture.send(&id, "suspend", &why).outcome.status, 200);
    assert_eq!(fixture.send(&id, "resume", &json!({})).outcome.status, 200);
    assert_eq!(fixture.send(&id, "cancel_subscription", &plan).outcome.status, 200);
    assert_eq!(fixture.send(&id, "erase", &json!({})).outcome.status, 200);
    for kind in event::ALL.iter().filter(|kind| kind.aggregate == Aggregate::User) {
        let largest = fixture.events.iter().filter(|event| event.kind == *kind).map(weigh).max();
        let largest = largest.unwrap_or_else(|| panic!("there was no {}", kind.name));
        assert!(largest < 16 * 1024, "{}: {largest}", kind.name);
    }
}
