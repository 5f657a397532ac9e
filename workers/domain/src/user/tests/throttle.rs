//! Failed logins are counted, and make further ones wait.

use std::time::Duration;

use serde_json::json;

use super::fixture::{Answer, Fixture, PASSWORD, command};
use crate::throttle::{
    FREE_FAILURES, LONGEST_WAIT, MOST_OF_ACCOUNT, MOST_OF_SOURCE, MOST_RESETS, WINDOW,
};

const HOME: &str = "192.0.2.1";
const AWAY: &str = "198.51.100.7";

fn login(fixture: &mut Fixture, email: &str, password: &str, from: &str) -> Answer {
    let payload = json!({"email": email, "password": password});
    fixture.send_with("ada", "login", &payload, &[("Source", from)])
}

fn right(fixture: &mut Fixture, from: &str) -> (u16, Option<u64>) {
    let answer = login(fixture, "ada@example.org", PASSWORD, from);
    (answer.outcome.status, answer.outcome.retry_after_ms)
}

#[test]
fn an_account_waits_at_one_source_for_twice_as_long_after_each_failure() {
    let mut fixture = Fixture::with_ada();
    let wrong =
        |fixture: &mut Fixture| login(fixture, "Ada@example.org", "wrong", HOME).outcome.status;
    for _ in 0..FREE_FAILURES {
        assert_eq!(wrong(&mut fixture), 401);
    }
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(right(&mut fixture, HOME), (429, Some(seconds * 1000)));
        // What is refused for that does not count.
        fixture.now = fixture.now.plus(Duration::from_millis(seconds * 1000 - 1));
        assert_eq!(right(&mut fixture, HOME), (429, Some(1)));
        fixture.now = fixture.now.plus(Duration::from_millis(1));
        assert_eq!(wrong(&mut fixture), 401);
    }
    fixture.now = fixture.now.plus(Duration::from_secs(60));
    assert_eq!(right(&mut fixture, HOME), (200, None));
    assert!(fixture.failures.iter().all(|(key, _)| key.kind.as_str() == "source"));
}

#[test]
fn s7_05_failures_of_others_never_keep_a_user_out_where_he_logged_in_before() {
    let mut fixture = Fixture::with_ada();
    assert_eq!(right(&mut fixture, HOME), (200, None));
    // Of the account, from many sources; of his own source, for many accounts.
    for n in 0..2 * MOST_OF_ACCOUNT {
        let from = format!("203.0.113.{n}");
        assert!(
            [401, 429]
                .contains(&login(&mut fixture, "ada@example.org", "no", &from).outcome.status)
        );
    }
    for n in 0..2 * MOST_OF_SOURCE {
        let email = format!("guest{n}@example.org");
        assert!([401, 429].contains(&login(&mut fixture, &email, "no", HOME).outcome.status));
    }
    assert_eq!(right(&mut fixture, HOME), (200, None));
}

#[test]
fn guessing_is_bounded_for_an_account_and_for_a_source_that_is_new_to_it() {
    let window = u64::try_from(WINDOW.as_millis()).unwrap();
    let mut fixture = Fixture::with_ada();
    let mut tried = 0;
    for n in 0..2 * MOST_OF_ACCOUNT {
        let from = format!("203.0.113.{n}");
        tried +=
            u32::from(login(&mut fixture, "ada@example.org", "no", &from).outcome.status == 401);
    }
    assert_eq!((tried, right(&mut fixture, AWAY)), (MOST_OF_ACCOUNT, (429, Some(window))));
    let mut fixture = Fixture::with_ada();
    for n in 0..MOST_OF_SOURCE {
        let email = format!("guest{n}@example.org");
        assert_eq!(login(&mut fixture, &email, "no", AWAY).outcome.status, 401);
    }
    assert_eq!(right(&mut fixture, AWAY), (429, Some(window)));
    assert_eq!(right(&mut fixture, HOME), (200, None));
    fixture.now = fixture.now.plus(WINDOW);
    assert_eq!(right(&mut fixture, AWAY), (200, None));
}

/// Nobody at his own address keeps a user out for long: a token from his mail lets him in there.
#[test]
fn s7_05_whoever_has_chosen_a_new_password_by_a_token_logs_in_at_once_from_there() {
    for from in [HOME, AWAY] {
        let mut fixture = Fixture::with_ada();
        assert_eq!(right(&mut fixture, HOME), (200, None));
        for _ in 0..FREE_FAILURES {
            login(&mut fixture, "Ada@example.org", "wrong", from);
        }
        for n in 0..MOST_OF_ACCOUNT {
            login(&mut fixture, "ada@example.org", "wrong", &format!("203.0.113.{n}"));
        }
        assert_eq!(right(&mut fixture, from).0, 429);
        let email = json!({ "email": "ada@example.org" });
        fixture.send("ada", "request_password_reset", &email);
        let token = fixture.hooks.last().expect("a hook").token.expose().to_owned();
        let choose = |token: &str| json!({ "reset_token": token, "new_password": PASSWORD });
        let reset = |fixture: &mut Fixture, token: &str| {
            let source = [("Source", from)];
            fixture.send_with("ada", "reset_password", &choose(token), &source).outcome.status
        };
        assert_eq!(reset(&mut fixture, &format!("ada.{}", "A".repeat(43))), 401);
        assert_eq!(right(&mut fixture, from).0, 429, "a wrong token clears nothing");
        assert_eq!(reset(&mut fixture, &token), 200);
        assert_eq!(right(&mut fixture, from), (200, None));
    }
}

/// A source is an address, which a user may share with whoever guesses. So he waits there too, but
/// never for longer than [`LONGEST_WAIT`].
#[test]
fn guessing_is_bounded_where_the_user_has_logged_in_before() {
    let mut fixture = Fixture::with_ada();
    assert_eq!(right(&mut fixture, HOME), (200, None));
    let end = fixture.now.plus(Duration::from_secs(60 * 60));
    let mut tried = 0;
    while fixture.now < end {
        let outcome = login(&mut fixture, "ada@example.org", "no", HOME).outcome;
        let Some(wait) = outcome.retry_after_ms else {
            tried += 1;
            continue;
        };
        let wait = Duration::from_millis(wait);
        assert!(wait <= LONGEST_WAIT, "{wait:?}");
        fixture.now = fixture.now.plus(wait);
    }
    assert!((60..=100).contains(&tried), "{tried}");
}

#[test]
fn addresses_of_one_network_are_one_source() {
    let mut fixture = Fixture::with_ada();
    for n in 0..FREE_FAILURES {
        let from = format!("2001:db8:0:1::{n}");
        assert_eq!(login(&mut fixture, "ada@example.org", "no", &from).outcome.status, 401);
    }
    assert_eq!(right(&mut fixture, "2001:db8:0:1:ffff::1").0, 429);
    assert_eq!(right(&mut fixture, "2001:db8:0:2::1").0, 200);
}

#[test]
fn failures_of_one_batch_count_for_the_next_command_of_it() {
    let mut fixture = Fixture::with_ada();
    let wrong = json!({"email": "ada@example.org", "password": "wrong"});
    let headers = [("Command-Id", "k"), ("Source", HOME)];
    let wrong = command("ada", "login", &wrong, &headers);
    let checked = fixture.check(&wrong);
    let mut batch = fixture.batch(&wrong);
    let mut decide = || {
        let decided = batch.decide_checked(&wrong, fixture.now, checked.as_ref());
        decided.unwrap().0.status
    };
    assert!((0..FREE_FAILURES).all(|_| decide() == 401));
    assert_eq!(decide(), 429);
    assert_eq!(batch.throttle().added().len(), 3 * FREE_FAILURES as usize);
}

#[test]
fn few_tokens_for_a_new_password_are_sent_whoever_there_is() {
    let mut fixture = Fixture::with_ada();
    let mut ask = |id: &str, email: &str| {
        let answer = fixture.send(id, "request_password_reset", &json!({ "email": email }));
        (serde_json::to_string(&answer.outcome.data).unwrap(), answer.outcome.status)
    };
    for n in 0..=MOST_RESETS {
        assert_eq!(ask("ada", "ada@example.org"), ask("-", "nobody@example.org"), "{n}");
    }
    assert_eq!(fixture.hooks.len(), MOST_RESETS as usize);
}
