//! Passwords that are changed and chosen anew, and users who are suspended.

use std::time::Duration;

use brigade_contracts::Secret;
use serde_json::json;

use super::{
    super::passwords::RESET_LASTS,
    fixture::{Fixture, PASSWORD, hash_of},
};

const NEW: &str = "staple battery horse";

fn ask(fixture: &mut Fixture) -> Secret {
    let email = json!({"email": "ADA@example.org"});
    assert_eq!(fixture.send("ada", "request_password_reset", &email).outcome.status, 202);
    fixture.hooks.last().expect("a hook").token.clone()
}

fn choose(fixture: &mut Fixture, token: &Secret) -> (u16, String) {
    let payload = json!({"reset_token": token.expose(), "new_password": NEW});
    let answer = fixture.send("ada", "reset_password", &payload);
    (answer.outcome.status, answer.outcome.code.into_owned())
}

#[test]
fn s7_06_a_password_is_changed_with_the_one_before_and_other_sessions_end() {
    let mut fixture = Fixture::with_ada();
    let (phone, tablet) = (fixture.log_ada_in(), fixture.log_ada_in());
    let session = fixture.user("ada").unwrap().sessions[0].id().to_string();
    let headers = [("Actor", "ada"), ("Session", session.as_str())];
    let mut change = |old: &str| {
        let payload = json!({"password": old, "new_password": NEW});
        fixture.send_with("ada", "change_password", &payload, &headers).outcome.status
    };
    assert_eq!((change("wrong"), change(PASSWORD), change(PASSWORD)), (401, 200, 401));
    assert!(fixture.validates(&phone.access_token) && !fixture.validates(&tablet.access_token));
    assert_eq!(fixture.login("ada", "ada@example.org", PASSWORD).outcome.status, 401);
    assert_eq!(fixture.login("ada", "ada@example.org", NEW).outcome.status, 200);
    assert!(!fixture.output.contains(NEW) && !fixture.output.contains(PASSWORD));
}

#[test]
fn s7_06_a_password_is_chosen_anew_by_a_token_that_works_once_and_for_half_an_hour() {
    let mut fixture = Fixture::with_ada();
    let session = fixture.log_ada_in();
    let (first, second) = (ask(&mut fixture), ask(&mut fixture));
    let refused = (401, "invalid_token".to_owned());
    assert_eq!(choose(&mut fixture, &first), refused, "a newer one was sent");
    fixture.now = fixture.now.plus(RESET_LASTS);
    assert_eq!(choose(&mut fixture, &second), refused);
    let third = ask(&mut fixture);
    fixture.now = fixture.now.plus(RESET_LASTS - Duration::from_millis(1));
    assert_eq!(choose(&mut fixture, &third), (200, "ok".to_owned()));
    assert_eq!(fixture.user("ada").unwrap().password_hash, hash_of(NEW));
    assert!(!fixture.validates(&session.access_token));
    assert_eq!(choose(&mut fixture, &third), refused, "it was used");
    for token in [first, second, third] {
        assert!(!fixture.output.contains(token.expose()), "it is for the hook alone");
    }
}

#[test]
fn s7_06_a_suspended_user_is_out_at_once_until_he_is_resumed() {
    let mut fixture = Fixture::with_ada();
    let session = fixture.log_ada_in();
    let token = ask(&mut fixture);
    let why = json!({"reason": "left"});
    assert_eq!(fixture.send("ada", "suspend", &why).outcome.status, 200);
    assert_eq!(fixture.send("ada", "suspend", &why).result(), (403, "user_suspended"));
    assert!(!fixture.validates(&session.access_token));
    assert_eq!(fixture.refresh("r", &session.refresh_token).outcome.status, 401);
    assert_eq!(choose(&mut fixture, &token).0, 401);
    // Only who knows the password is told.
    let login = |fixture: &mut Fixture, password: &str| {
        let answer = fixture.login("ada", "ada@example.org", password);
        (answer.outcome.status, answer.outcome.code.into_owned(), answer.tokens.is_some())
    };
    assert_eq!(login(&mut fixture, "wrong").0, 401);
    assert_eq!(login(&mut fixture, PASSWORD), (403, "user_suspended".to_owned(), false));
    let email = json!({"email": "ada@example.org"});
    assert_eq!(fixture.send("ada", "request_password_reset", &email).outcome.status, 202);
    assert_eq!(fixture.hooks.len(), 1);
    assert_eq!(fixture.send("ada", "resume", &json!({})).outcome.status, 200);
    assert_eq!(login(&mut fixture, PASSWORD), (200, "ok".to_owned(), true));
}

#[test]
fn an_email_is_changed_with_the_password_and_no_event_holds_it() {
    let mut fixture = Fixture::with_ada();
    let change = |password: Option<&str>| json!({"email": "new@example.org", "password": password});
    assert_eq!(fixture.send("ada", "change_email", &change(Some("wrong"))).outcome.status, 401);
    assert_eq!(fixture.send("ada", "change_email", &change(Some(PASSWORD))).outcome.status, 200);
    assert_eq!(fixture.login("ada", "new@example.org", PASSWORD).outcome.status, 200);
    for event in &fixture.events {
        let text = serde_json::to_string(&event.payload).unwrap();
        assert!(!text.contains("example.org"), "{text}");
    }
}

#[test]
fn a_password_is_hashed_again_at_login_when_the_parameters_have_grown() {
    let mut fixture = Fixture::with_ada();
    let login = json!({"email": "ada@example.org", "password": PASSWORD});
    let login = super::fixture::command("ada", "login", &login, &[("Command-Id", "k")]);
    let mut checked = fixture.check(&login).unwrap();
    checked.hashed = Some(hash_of("the same, stronger"));
    let mut batch = fixture.batch(&login);
    let (outcome, _) = batch.decide_checked(&login, fixture.now, Some(&checked)).unwrap();
    assert_eq!(outcome.status, 200);
    fixture.absorb(&batch);
    assert_eq!(fixture.user("ada").unwrap().password_hash, hash_of("the same, stronger"));
}

#[test]
fn s7_06_an_erased_user_is_nobody_and_stays_so() {
    let mut fixture = Fixture::with_ada();
    let session = fixture.log_ada_in();
    let plan = json!({"subscription_id": "s1", "plan": "gold"});
    fixture.send("ada", "register_subscription", &plan);
    let erase = |password: &str| json!({ "password": password });
    assert_eq!(fixture.send("ada", "erase", &erase("wrong")).outcome.status, 401);
    let answer = fixture.send("ada", "erase", &erase(PASSWORD));
    assert_eq!(answer.result(), (200, "ok"));
    assert!(!fixture.validates(&session.access_token));
    let ada = fixture.user("ada").unwrap();
    let kept = format!("{ada:?}");
    assert!(!kept.to_lowercase().contains("example.org") && !kept.contains("gold"), "{kept}");
    for (verb, payload) in [
        ("erase", erase(PASSWORD)),
        ("change_roles", json!({"roles": ["manager"]})),
        ("logout", json!({})),
        ("suspend", json!({"reason": "r"})),
    ] {
        assert_eq!(fixture.send("ada", verb, &payload).result(), (409, "user_erased"), "{verb}");
    }
    assert_eq!(fixture.login("ada", "ada@example.org", PASSWORD).outcome.status, 401);
    assert_eq!(fixture.login("ada", "616461@erased.invalid", "-").outcome.status, 401);
    // The email is free again, the id is not.
    assert_eq!(fixture.register("ada", "ada@example.org").result(), (409, "already_exists"));
    assert_eq!(fixture.register("bob", "ada@example.org").outcome.status, 201);
    // A backend needs no password.
    assert_eq!(fixture.send("bob", "erase", &json!({})).result(), (200, "ok"));
}
