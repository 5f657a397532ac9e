//! What users leave in the security log.

use serde_json::json;

use super::fixture::{Fixture, PASSWORD};
use crate::throttle::FREE_FAILURES;

/// Returns kind and detail of each row so far.
fn rows(fixture: &Fixture) -> Vec<(&'static str, String)> {
    let row = |entry: &crate::SecurityEntry| (entry.kind.as_str(), entry.detail.to_string());
    fixture.security.iter().map(row).collect()
}

#[test]
fn failed_and_throttled_logins_are_logged_although_they_are_refused() {
    let mut fixture = Fixture::with_ada();
    let from = [("Source", "192.0.2.1")];
    let login = |password: &str| json!({"email": "Ada@example.org", "password": password});
    for _ in 0..FREE_FAILURES {
        fixture.send_with("ada", "login", &login("wrong"), &from);
    }
    fixture.send_with("ada", "login", &login(PASSWORD), &from);
    let rows = rows(&fixture);
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[0], ("login_failed", r#"{"email":"ada@example.org"}"#.to_owned()));
    let throttled = r#"{"email":"ada@example.org","retry_after_ms":1000}"#;
    assert_eq!(rows[5], ("login_throttled", throttled.to_owned()));
    let entry = &fixture.security[5];
    assert_eq!(entry.source.map(|source| source.to_string()).as_deref(), Some("192.0.2.1"));
    assert_eq!((entry.at, entry.subject.to_string()), (fixture.now, "t1.user.ada".to_owned()));
    assert!(!fixture.output.contains(PASSWORD));
}

#[test]
fn a_reused_token_and_changed_roles_are_logged_and_ordinary_use_is_not() {
    let mut fixture = Fixture::with_ada();
    let first = fixture.log_ada_in().refresh_token;
    assert_eq!(fixture.refresh("r1", &first).result(), (200, "ok"));
    assert_eq!(fixture.refresh("r1", &first).result(), (200, "ok"));
    assert_eq!(rows(&fixture), []);
    fixture.now = fixture.now.plus(super::super::session::RACE);
    assert_eq!(fixture.refresh("r2", &first).result(), (401, "token_reused"));
    let roles = json!({"roles": ["staff", "staff"]});
    let headers = [("Actor", "mia"), ("Expected-Version", "9")];
    assert_eq!(fixture.send_with("ada", "change_roles", &roles, &headers).outcome.status, 412);
    fixture.send_with("ada", "change_roles", &roles, &headers[..1]);
    let changed = r#"{"before":["customer"],"roles":["staff"]}"#;
    let expected = [("refresh_token_reused", "{}"), ("roles_changed", changed)];
    assert_eq!(rows(&fixture), expected.map(|(kind, detail)| (kind, detail.to_owned())));
    assert_eq!(fixture.security[1].actor.as_ref().map(|actor| actor.as_str()), Some("mia"));
}
