//! Each verb, and each refusal, as rows of tables.

use brigade_contracts::{Address, Aggregate, Part, Secret, Token, user::Tokens};
use serde_json::{Value, json};

use super::{
    super::super::{BatchState, LockPolicy, LockSet, Missing, Mode, State},
    fixture::{Fixture, PASSWORD, command, hash_of, user_address},
};

fn subscribe(id: &str) -> Value {
    json!({"subscription_id": id, "plan": "gold", "until": "2027-01-01T00:00:00Z"})
}

fn parts(fixture: &Fixture) -> Vec<u64> {
    let parts = fixture.user("ada").unwrap().head.part_versions();
    [Part::Auth, Part::Subscription, Part::Roles].map(|part| parts[&part]).to_vec()
}

#[test]
fn a_user_is_registered_once_with_the_role_customer_and_no_session() {
    let mut fixture = Fixture::new();
    let answer = fixture.register("ada", "Ada@Example.org");
    assert_eq!(answer.result(), (201, "created"));
    assert_eq!(answer.outcome.effects, ["user.ada@1"]);
    let at = fixture.now.to_string();
    let auth = json!({"version": 1, "at": at, "user": "ada", "profile_id": "p1",
        "status": "active", "access_expires_at": null,
        "refresh_expires_at": null, "last_login_at": null});
    let subscription = json!({"version": 1, "at": at, "subscription_id": null, "plan": null,
        "status": null, "until": null});
    let roles = json!({"version": 1, "at": at, "roles": ["customer"]});
    let expected = json!({"auth": auth, "subscription": subscription, "roles": roles});
    assert_eq!(answer.data(), expected);
    assert_eq!(fixture.user("ada").unwrap().password_hash, hash_of(PASSWORD));
}

#[test]
fn each_verb_makes_its_event_and_touches_its_parts_only() {
    let mut fixture = Fixture::with_ada();
    let login = json!({"email": "ada@example.org", "password": PASSWORD});
    // Verb, payload, event, versions of auth, subscription and roles.
    for (verb, payload, event, expected) in [
        ("login", login.clone(), "logged_in", [2, 1, 1]),
        (
            "change_roles",
            json!({"roles": ["staff", "staff", "manager"]}),
            "roles_changed",
            [2, 1, 3],
        ),
        ("register_subscription", subscribe("s1"), "subscription_registered", [2, 4, 3]),
        ("activate_subscription", subscribe("s1"), "subscription_activated", [2, 5, 3]),
        ("activate_subscription", subscribe("s1"), "subscription_activated", [2, 6, 3]),
        ("login", login, "logged_in", [7, 6, 3]),
        ("update_profile", json!({"profile_id": "p2"}), "profile_updated", [8, 6, 3]),
        ("change_email", json!({"email": "ADA@example.org"}), "email_changed", [9, 6, 3]),
        (
            "cancel_subscription",
            json!({"subscription_id": "s1"}),
            "subscription_cancelled",
            [9, 10, 3],
        ),
        ("logout", json!({}), "logged_out", [11, 10, 3]),
        ("register_subscription", subscribe("s2"), "subscription_registered", [11, 12, 3]),
    ] {
        let answer = fixture.send("ada", verb, &payload);
        assert_eq!(answer.result(), (200, "ok"), "{verb}");
        let made = fixture.events.last().unwrap();
        assert_eq!((made.kind.name, parts(&fixture)), (event, expected.to_vec()), "{verb}");
        assert_eq!(answer.outcome.version, Some(made.version));
        let after = &made.payload.after;
        let carried = [&after.core, &after.payments, &after.subscription, &after.roles];
        let touched =
            [Part::Subscription, Part::Roles].map(|part| made.kind.touches.contains(&part));
        assert_eq!(carried.map(Option::is_some), [false, false, touched[0], touched[1]], "{verb}");
    }
    let ada = fixture.user("ada").unwrap();
    assert_eq!(json!(ada.roles), json!(["staff", "manager"]));
    assert_eq!(
        json!(ada.subscription),
        json!({"subscription_id": "s2", "plan": "gold",
        "status": "registered", "until": "2027-01-01T00:00:00.000Z"})
    );
    assert_eq!((ada.email.as_str(), ada.profile_id.as_str()), ("ADA@example.org", "p2"));
}

#[test]
fn what_is_refused_says_why_and_changes_nothing() {
    let mut fixture = Fixture::with_ada();
    fixture.register("bob", "bob@example.org");
    fixture.send("ada", "register_subscription", &subscribe("s1"));
    let person = |email: &str| json!({"email": email, "profile_id": "p", "password": PASSWORD});
    let roles: Vec<_> = (0..33).map(|n| format!("r{n}")).collect();
    let before = fixture.users.clone();
    let events = fixture.events.len();
    for (id, verb, payload, status, code) in [
        ("ada", "register", person("eve@example.org"), 409, "already_exists"),
        ("eve", "register", person("ADA@example.org"), 409, "email_taken"),
        ("ada", "change_email", json!({"email": "Bob@example.org"}), 409, "email_taken"),
        ("eve", "register", person("ada@Erased.invalid"), 422, "bad_email"),
        ("ada", "change_email", json!({"email": "bob@erased.invalid"}), 422, "bad_email"),
        ("ada", "update_profile", json!({"email": "b@example.org"}), 422, "email_not_here"),
        ("ada", "resume", json!({}), 409, "not_suspended"),
        ("eve", "suspend", json!({"reason": "r"}), 404, "not_found"),
        ("ada", "update_profile", json!({}), 422, "nothing_to_change"),
        ("ada", "change_roles", json!({"roles": roles}), 422, "too_large"),
        ("ada", "logout", json!({}), 409, "not_logged_in"),
        ("ada", "register_subscription", subscribe("s1"), 409, "subscription_exists"),
        ("ada", "register_subscription", subscribe("s2"), 409, "subscription_exists"),
        ("ada", "activate_subscription", subscribe("s2"), 404, "subscription_not_found"),
        ("bob", "cancel_subscription", subscribe("s1"), 404, "subscription_not_found"),
        ("eve", "logout", json!({}), 404, "not_found"),
        ("eve", "update_profile", json!({"profile_id": "p"}), 404, "not_found"),
        ("eve", "change_roles", json!({"roles": []}), 404, "not_found"),
        ("eve", "rebuild_cache", json!({}), 404, "not_found"),
    ] {
        let answer = fixture.send(id, verb, &payload);
        assert_eq!(answer.result(), (status, code), "{id} {verb} {payload}");
        assert_eq!((answer.outcome.effects, answer.tokens), (vec![], None), "{verb}");
        assert_eq!((&fixture.users, fixture.events.len()), (&before, events), "{verb}");
    }
    let renew = json!({"subscription_id": "s1"});
    for (verb, expected) in [
        ("activate_subscription", (200, "ok")),
        ("activate_subscription", (409, "already_active")),
        ("cancel_subscription", (200, "ok")),
        ("cancel_subscription", (409, "subscription_cancelled")),
        ("activate_subscription", (409, "subscription_cancelled")),
        ("register_subscription", (409, "subscription_exists")),
    ] {
        assert_eq!(fixture.send("ada", verb, &renew).result(), expected, "{verb}");
    }
}

#[test]
fn nobody_can_tell_an_unknown_email_from_a_wrong_password() {
    let mut fixture = Fixture::with_ada();
    fixture.register("bob", "bob@example.org");
    let mut answers = Vec::new();
    for (id, email, password) in [
        ("ada", "ada@example.org", "wrong"),
        ("ada", "eve@example.org", PASSWORD),
        ("ada", "bob@example.org", PASSWORD),
        ("ada", "bob@example.org", "wrong"),
    ] {
        for headers in
            [&[("Command-Id", "k")][..], &[("Command-Id", "k"), ("Expected-Version", "9")]]
        {
            let login = json!({"email": email, "password": password});
            let answer = fixture.decide(&command(id, "login", &login, headers));
            assert_eq!(answer.result(), (401, "wrong_credentials"), "{id} {email}");
            answers.push(serde_json::to_string(&answer.outcome).unwrap());
        }
    }
    let unknown = json!({"email": "eve@example.org", "password": "wrong"});
    let answer = fixture.decide(&command("nobody", "login", &unknown, &[("Command-Id", "k")]));
    answers.push(serde_json::to_string(&answer.outcome).unwrap().replace("nobody", "ada"));
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:#?}");
}

#[test]
fn a_session_is_refused_without_a_word_about_the_user() {
    let mut fixture = Fixture::with_ada();
    let of_ada = fixture.log_ada_in();
    let forged = Secret::new(format!("ada.{}", "A".repeat(43))).unwrap();
    let no_token = Secret::new("ada".to_owned()).unwrap();
    for token in [&forged, &no_token, &of_ada.access_token] {
        let answer = fixture.refresh("k", token);
        assert_eq!(answer.result(), (401, "invalid_token"));
        assert_eq!(answer.outcome.version, None);
    }
    assert!(fixture.validates(&of_ada.access_token), "the session goes on");
    let payload = json!({"refresh_token": of_ada.refresh_token.expose()});
    assert_eq!(fixture.send("bob", "refresh", &payload).result(), (401, "invalid_token"));
    let expecting = [("Expected-Version", "1")];
    let answer = fixture.send_with("ada", "refresh", &payload, &expecting);
    assert_eq!(answer.result(), (412, "version_mismatch"));
    fixture.now = fixture.now.plus(super::super::session::REFRESH_LASTS);
    assert_eq!(fixture.send("ada", "refresh", &payload).result(), (401, "token_expired"));
}

#[test]
fn a_login_is_done_only_with_the_password_that_was_verified_against_the_present_hash() {
    let mut fixture = Fixture::with_ada();
    let login = json!({"email": "ada@example.org", "password": PASSWORD});
    let command = command("ada", "login", &login, &[("Command-Id", "k")]);
    let before = fixture.check(&command);
    fixture.users[0].password_hash = hash_of("another by now");
    let wanted = Missing::Password(command.tenant.clone(), command.command_id.clone());
    for checked in [None, before.as_ref()] {
        let mut batch = fixture.batch(&command);
        assert!(batch.decide_checked(&command, fixture.now, checked).is_none());
        assert!(batch.missing().contains(&wanted));
        assert_eq!(batch.changed().count(), 0);
    }
    assert_eq!(fixture.decide(&command).result(), (401, "wrong_credentials"));
    fixture.users[0].password_hash = hash_of(PASSWORD);
    assert_eq!(fixture.decide(&command).result(), (200, "ok"));
}

#[test]
fn s7_06_no_person_takes_the_last_manager_away() {
    let mut fixture = Fixture::with_ada();
    fixture.register("bob", "bob@example.org");
    let managers = json!({"roles": ["customer", "manager"]});
    for user in ["ada", "bob"] {
        fixture.send(user, "change_roles", &managers);
    }
    let mut keys = 0;
    let mut by_ada = |fixture: &mut Fixture, user: &str, verb: &str, payload: Value| {
        keys += 1;
        let key = format!("ada.k{keys}");
        let answer = fixture.decide(&command(user, verb, &payload, &[("Command-Id", &key)]));
        (answer.outcome.status, answer.outcome.code.to_string())
    };
    let ok = || (200, "ok".to_owned());
    let reason = || json!({"reason": "r"});
    let none = || json!({"roles": ["customer"]});
    assert_eq!(by_ada(&mut fixture, "bob", "suspend", reason()), ok());
    let last = (409, "last_manager".to_owned());
    let ways = [("suspend", reason()), ("erase", json!({})), ("change_roles", none())];
    for (verb, payload) in ways {
        assert_eq!(by_ada(&mut fixture, "ada", verb, payload), last, "{verb}");
    }
    // Nobody is lost by these.
    assert_eq!(by_ada(&mut fixture, "ada", "change_roles", managers), ok());
    assert_eq!(by_ada(&mut fixture, "bob", "change_roles", none()), ok());
    assert_eq!(by_ada(&mut fixture, "bob", "resume", json!({})), ok());
    // A program makes another one.
    assert_eq!(fixture.send("ada", "suspend", &reason()).result(), (200, "ok"));

    // Who the others are is looked at with them locked.
    fixture.send("ada", "resume", &json!({}));
    let suspend = command("ada", "suspend", &reason(), &[("Command-Id", "ada.k")]);
    let mut reach = LockSet::default();
    reach.addresses.insert(user_address("ada"));
    let users = fixture.users.iter().cloned().map(State::User);
    let mut batch = BatchState::new(users, reach, LockPolicy::default(), []);
    assert!(batch.decide(&suspend, fixture.now).is_none());
    assert!(batch.missing().contains(&Missing::Managers(suspend.tenant.clone())));
}

#[test]
fn what_was_not_loaded_is_wanted() {
    let mut fixture = Fixture::with_ada();
    let tokens = fixture.log_ada_in();
    let refresh = json!({"refresh_token": tokens.refresh_token.expose()});
    for (verb, payload) in
        [("change_email", json!({"email": "zoe@example.org"})), ("refresh", refresh)]
    {
        let command = command("ada", verb, &payload, &[("Command-Id", "k")]);
        let mut batch = fixture.batch(&command).with_users(super::super::AuthInputs::default());
        assert!(batch.decide(&command, fixture.now).is_none(), "{verb}");
        let expected = match verb {
            "refresh" => Missing::Random,
            _ => Missing::Email(command.tenant.clone(), "zoe@example.org".to_owned()),
        };
        assert!(batch.missing().contains(&expected), "{verb}");
    }
    let login = json!({"email": "ada@example.org", "password": PASSWORD});
    let command = command("ada", "login", &login, &[("Command-Id", "k")]);
    let mut batch = fixture.batch(&command).with_users(super::super::AuthInputs::default());
    assert!(batch.decide(&command, fixture.now).is_none());
    assert!(matches!(batch.missing().first(), Some(Missing::Failures(_))));
}

#[test]
fn later_commands_of_a_batch_see_who_has_an_email_now() {
    let mut fixture = Fixture::with_ada();
    let person = json!({"email": "eve@example.org", "profile_id": "p", "password": PASSWORD});
    let moves = command(
        "ada",
        "change_email",
        &json!({"email": "bob@example.org"}),
        &[("Command-Id", "k1")],
    );
    let taken = json!({"email": "BOB@example.org", "profile_id": "p", "password": PASSWORD});
    let taken = command("bob", "register", &taken, &[("Command-Id", "k2")]);
    let freed = json!({"email": "ada@example.org", "profile_id": "p", "password": PASSWORD});
    let freed = command("bob", "register", &freed, &[("Command-Id", "k3")]);
    let other = command("bob", "register", &person, &[("Command-Id", "k4")]);
    let checked = fixture.check(&other);
    let mut batch = fixture.batch(&taken);
    let codes = [moves, taken, freed].map(|command| {
        let (outcome, _) = batch.decide_checked(&command, fixture.now, checked.as_ref()).unwrap();
        outcome.code.into_owned()
    });
    assert_eq!(codes, ["ok", "email_taken", "created"]);
}

#[test]
fn rebuild_projects_what_command_handler_owns_and_repeats_the_events_of_the_rest() {
    let mut fixture = Fixture::with_ada();
    for (part, projected, repeated) in [
        (json!({}), 1, vec![Part::Subscription, Part::Roles]),
        (json!({"part": "auth"}), 1, vec![]),
        (json!({"part": "roles"}), 0, vec![Part::Roles]),
    ] {
        let command = command("ada", "rebuild_cache", &part, &[("Command-Id", "k")]);
        let mut batch = fixture.batch(&command);
        assert_eq!(batch.decide(&command, fixture.now).unwrap().status, 200);
        assert_eq!(batch.reprojected().count(), projected);
        let expected: Vec<_> =
            repeated.into_iter().map(|part| (user_address("ada"), part)).collect();
        assert_eq!(batch.repeat_events().iter().cloned().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn only_the_sender_gets_the_tokens() {
    let mut fixture = Fixture::with_ada();
    let answer = fixture.login("ada", "ada@example.org", PASSWORD);
    let tokens = answer.tokens.as_ref().unwrap();
    let sent: Value = serde_json::from_str(&tokens.answer(&answer.outcome)).unwrap();
    let received: Tokens = serde_json::from_value(sent["data"].clone()).unwrap();
    assert_eq!(&received, tokens);
    assert!(fixture.validates(&received.access_token));
    let mut stored = serde_json::to_value(&answer.outcome).unwrap();
    for name in ["access_token", "refresh_token", "expires_at", "refresh_expires_at"] {
        assert!(stored["data"][name].is_null(), "{name}");
        stored["data"][name] = sent["data"][name].clone();
    }
    assert_eq!(stored, sent, "the rest of it is the same");
}

#[test]
fn s7_02_no_user_is_called_like_a_worker_an_operator_or_a_role() {
    let mut fixture = Fixture::new();
    for name in ["-", "edge", "Edge", "cart-lock-expiry", "operator", "system", "gateway", "staff"]
    {
        for headers in [&[][..], &[("Actor-Relation", "customer")]] {
            let email =
                json!({"email": "ada@example.org", "profile_id": "p1", "password": PASSWORD});
            let answer = fixture.send_with(name, "register", &email, headers);
            assert_eq!(answer.result(), (422, "reserved_id"), "{name}");
        }
    }
    assert!(fixture.events.is_empty());
}

/// A stranger asks over HTTP, a program over NATS.
#[test]
fn s7_02_a_stranger_takes_no_name_that_a_program_has_given_to_somebody() {
    let payload = json!({"email": "eve@example.org", "profile_id": "p1", "password": PASSWORD});
    let mut fixture = Fixture::new();
    let mut result = |is_named: bool, headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().copied().chain([("Command-Id", "k")]).collect();
        let register = command("cust-17", "register", &payload, &headers);
        let (checked, now) = (fixture.check(&register), fixture.now);
        let mut batch = fixture.batch(&register);
        let decide = |batch: &mut super::super::super::BatchState| {
            let decided = batch.decide_checked(&register, now, checked.as_ref());
            decided.map(|(outcome, _)| (outcome.status, outcome.code.into_owned()))
        };
        if let Some(decided) = decide(&mut batch) {
            return decided;
        }
        // It needs the name, locked as an owner's.
        let t1 = Token::new("t1").unwrap();
        let lock = Address { aggregate: Aggregate::Lock, ..user_address("cust-17") };
        let missing = Missing::Owner(lock.clone(), Mode::Exclusive);
        assert!(batch.missing().contains(&missing), "{:?}", batch.missing());
        let mut batch = fixture.batch(&register);
        let LockSet { owners, named, .. } = &mut batch.loaded.locked;
        owners.insert(lock, Mode::Exclusive);
        named.insert((t1, register.request.as_ref().unwrap().address.id.clone()), is_named);
        decide(&mut batch).expect("in reach")
    };
    let stranger = [("Actor-Relation", "customer")];
    assert_eq!(result(true, &stranger), (409, "already_exists".to_owned()));
    assert_eq!(result(false, &stranger), (201, "created".to_owned()));
    assert_eq!(result(true, &[]), (201, "created".to_owned()));
}
