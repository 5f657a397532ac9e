//! Failed logins are counted, and stop further ones.

use std::time::Duration;

use serde_json::json;

use super::{
    super::MOST_FAILURES,
    fixture::{Fixture, PASSWORD, command},
};

#[test]
fn ten_failures_in_a_quarter_of_an_hour_stop_even_the_right_password() {
    // What the failed logins have in common with the right one that comes after them.
    for (what, id, email, from) in [
        ("user", "ada", "eve@example.org", "192.0.2.2"),
        ("email", "eve", "ada@example.org", "192.0.2.2"),
        ("source", "eve", "eve@example.org", "192.0.2.1"),
        ("nothing", "eve", "eve@example.org", "192.0.2.2"),
    ] {
        let mut fixture = Fixture::with_ada();
        let wrong = json!({"email": email, "password": "wrong"});
        for _ in 0..MOST_FAILURES {
            let answer = fixture.send_with(id, "login", &wrong, &[("Source", from)]);
            assert_eq!(answer.result(), (401, "wrong_credentials"), "{what}");
            fixture.now = fixture.now.plus(Duration::from_secs(60));
        }
        let right = json!({"email": "ada@example.org", "password": PASSWORD});
        let login = |fixture: &mut Fixture| {
            fixture.send_with("ada", "login", &right, &[("Source", "192.0.2.1")])
        };
        let answer = login(&mut fixture);
        if what == "nothing" {
            assert_eq!(answer.result(), (200, "ok"));
            continue;
        }
        assert_eq!(answer.result(), (429, "too_many_attempts"), "{what}");
        // The first was ten minutes ago. What is refused for this does not count.
        assert_eq!(answer.outcome.retry_after_ms, Some(5 * 60 * 1000), "{what}");
        assert_eq!((answer.outcome.version, fixture.failures.len()), (None, 30), "{what}");
        fixture.now = fixture.now.plus(Duration::from_millis(5 * 60 * 1000 - 1));
        assert_eq!(login(&mut fixture).outcome.retry_after_ms, Some(1), "{what}");
        fixture.now = fixture.now.plus(Duration::from_millis(1));
        assert_eq!(login(&mut fixture).result(), (200, "ok"), "{what}");
    }
}

#[test]
fn success_forgets_the_failures_of_the_user_but_not_of_the_source() {
    let mut fixture = Fixture::with_ada();
    let login = |password: &str| json!({"email": "ada@example.org", "password": password});
    let from = [("Source", "192.0.2.1")];
    for _ in 0..MOST_FAILURES - 1 {
        fixture.send_with("ada", "login", &login("wrong"), &from);
    }
    assert_eq!(fixture.send_with("ada", "login", &login(PASSWORD), &from).result(), (200, "ok"));
    let kinds: Vec<_> = fixture.failures.iter().map(|(key, _)| key.kind.as_str()).collect();
    assert_eq!(kinds, ["source"; 9]);
    assert_eq!(fixture.send_with("ada", "login", &login("wrong"), &from).outcome.status, 401);
    assert_eq!(fixture.send_with("ada", "login", &login(PASSWORD), &from).outcome.status, 429);
    assert_eq!(fixture.send("ada", "login", &login(PASSWORD)).result(), (200, "ok"));
}

#[test]
fn failures_of_one_batch_count_for_the_next_command_of_it() {
    let mut fixture = Fixture::with_ada();
    let wrong = json!({"email": "ada@example.org", "password": "wrong"});
    let wrong = command("ada", "login", &wrong, &[("Command-Id", "k")]);
    let checked = fixture.check(&wrong);
    let mut batch = fixture.batch(&wrong);
    let mut decide = || {
        let decided = batch.decide_checked(&wrong, fixture.now, checked.as_ref());
        decided.unwrap().0.status
    };
    assert!((0..MOST_FAILURES).all(|_| decide() == 401));
    assert_eq!(decide(), 429);
    assert_eq!(batch.throttle().added().len(), 20);
}
