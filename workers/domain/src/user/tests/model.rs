//! Random sequences of what can be done with a session, beside a model of it.

use brigade_contracts::{Secret, event::EventKind};
use proptest::prelude::*;
use serde_json::json;

use super::fixture::{Answer, Fixture, PASSWORD};

#[derive(Clone, Debug)]
enum Step {
    Register,
    Login {
        right: bool,
    },
    /// With the refresh token so many before the newest one, under a new Command-Id.
    Refresh {
        back: usize,
    },
    /// The newest `refresh` again, under its own Command-Id.
    Repeat,
    Logout,
    ChangeRoles,
    Subscribe,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Register),
        4 => any::<bool>().prop_map(|right| Step::Login { right }),
        6 => prop_oneof![3 => Just(0), 1 => 1..4usize].prop_map(|back| Step::Refresh { back }),
        3 => Just(Step::Repeat),
        1 => Just(Step::Logout),
        1 => Just(Step::ChangeRoles),
        1 => Just(Step::Subscribe),
        1 => Just(Step::Wait),
    ]
}

/// The expected state.
#[derive(Default)]
struct Model {
    registered: bool,
    /// All refresh tokens that the live session ever had, the newest last.
    session: Option<Vec<Secret>>,
    /// The refresh tokens of sessions that ended.
    ended: Vec<Secret>,
    access: Option<Secret>,
    every_access: Vec<Secret>,
    every_refresh: Vec<Secret>,
    /// The newest refresh: its Command-Id and the token that it used.
    newest: Option<(String, Secret)>,
    commands: usize,
    /// Versions of the parts auth, subscription, roles.
    parts: [u64; 3],
    version: u64,
    subscribed: bool,
}

impl Model {
    fn end(&mut self) {
        self.ended.extend(self.session.take().unwrap_or_default());
        self.access = None;
    }

    fn issued(&mut self, answer: &Answer, begins: bool) {
        let tokens = answer.tokens.clone().unwrap();
        if begins {
            self.end();
        }
        self.session.get_or_insert_default().push(tokens.refresh_token.clone());
        self.every_refresh.push(tokens.refresh_token);
        self.every_access.push(tokens.access_token.clone());
        self.access = Some(tokens.access_token);
    }

    fn touch(&mut self, parts: &[usize]) {
        self.version += 1;
        for part in parts {
            self.parts[*part] = self.version;
        }
    }

    fn step(&mut self, fixture: &mut Fixture, step: &Step) {
        match step {
            Step::Register => {
                let answer = fixture.register("ada", "Ada@Example.org");
                if self.registered {
                    assert_eq!(answer.result(), (409, "already_exists"));
                } else {
                    assert_eq!(answer.result(), (201, "created"));
                    self.registered = true;
                    self.touch(&[0, 1, 2]);
                }
            }
            Step::Login { right } => {
                let password = if *right { PASSWORD } else { "wrong horse" };
                let answer = fixture.login("ada", "ADA@example.org", password);
                if answer.outcome.status == 200 {
                    assert!(self.registered && *right);
                    self.touch(&[0]);
                    self.issued(&answer, true);
                    self.newest = None;
                } else if answer.outcome.status == 401 {
                    assert!(!self.registered || !*right);
                } else {
                    assert_eq!(answer.outcome.status, 429);
                    assert!(fixture.failures.len() >= 20);
                }
            }
            Step::Refresh { back } => self.refresh(fixture, *back),
            Step::Repeat => self.repeat(fixture),
            Step::Logout => {
                let status = fixture.send("ada", "logout", &json!({})).outcome.status;
                let expected = match (&self.session, self.registered) {
                    (Some(_), _) => 200,
                    (None, true) => 409,
                    (None, false) => 404,
                };
                assert_eq!(status, expected);
                if status == 200 {
                    self.touch(&[0]);
                    self.end();
                }
            }
            Step::ChangeRoles => {
                let answer = fixture.send("ada", "change_roles", &json!({"roles": ["staff"]}));
                assert_eq!(answer.outcome.status, if self.registered { 200 } else { 404 });
                if self.registered {
                    self.touch(&[2]);
                }
            }
            Step::Subscribe => {
                let payload = json!({"subscription_id": "s1"});
                let answer = fixture.send("ada", "register_subscription", &payload);
                let done = self.registered && !self.subscribed;
                assert_eq!(answer.outcome.status == 200, done);
                if done {
                    self.subscribed = true;
                    self.touch(&[1]);
                }
            }
            Step::Wait => {
                fixture.now = fixture.now.plus(super::super::session::ACCESS_LASTS);
                self.access = None;
            }
        }
    }

    fn refresh(&mut self, fixture: &mut Fixture, back: usize) {
        let Some(at) = self.every_refresh.len().checked_sub(back + 1) else { return };
        let used = self.every_refresh[at].clone();
        self.commands += 1;
        let command_id = format!("r{}", self.commands);
        let answer = fixture.refresh(&command_id, &used);
        let of_session = self.session.as_ref().and_then(|s| s.iter().position(|t| *t == used));
        match (of_session, &self.session) {
            (Some(place), Some(session)) if place + 1 == session.len() => {
                assert_eq!(answer.result(), (200, "ok"));
                self.touch(&[0]);
                self.issued(&answer, false);
                self.newest = Some((command_id, used));
            }
            (Some(_), _) => {
                assert_eq!(answer.result(), (401, "token_reused"));
                assert!(answer.tokens.is_none());
                self.touch(&[0]);
                self.end();
            }
            (None, _) => assert_eq!(answer.result(), (401, "invalid_token")),
        }
    }

    fn repeat(&mut self, fixture: &mut Fixture) {
        let Some((command_id, used)) = self.newest.clone() else { return };
        let answer = fixture.refresh(&command_id, &used);
        if self.session.is_some() {
            assert_eq!(answer.result(), (200, "ok"), "nothing newer was issued");
            self.touch(&[0]);
            self.issued(&answer, false);
        } else {
            assert_eq!(answer.result(), (401, "invalid_token"));
        }
    }

    fn check(&self, fixture: &Fixture) {
        let live: Vec<_> =
            self.every_access.iter().filter(|token| fixture.validates(token)).collect();
        assert_eq!(live, self.access.iter().collect::<Vec<_>>(), "the newest of the session");
        let versions: Vec<_> = fixture.events.iter().map(|event| event.version).collect();
        assert_eq!(versions, (1..=self.version).collect::<Vec<_>>());
        let Some(ada) = fixture.user("ada") else { return assert!(!self.registered) };
        assert_eq!(ada.head.version, self.version);
        let parts: Vec<_> = ada.head.part_versions().into_values().collect();
        assert_eq!(parts, self.parts, "auth, subscription, roles");
        assert_eq!(ada.subscription.is_some(), self.subscribed);
        for part in ["auth", "subscription", "roles"] {
            let last =
                |kind: &EventKind| kind.touches.iter().any(|touched| touched.as_str() == part);
            let last = fixture.events.iter().rev().find(|event| last(&event.kind)).unwrap();
            let shown = ada.public_parts();
            let (_, shown) = shown.iter().find(|(name, _)| *name == part).unwrap();
            let version = format!("{{\"version\":{},", last.version);
            assert!(shown.get().starts_with(&version), "{part}: {shown}");
        }
    }
}

proptest! {
    #[test]
    fn a_session_is_what_the_model_says(steps in proptest::collection::vec(step(), 1..60)) {
        let mut fixture = Fixture::new();
        let mut model = Model::default();
        for step in &steps {
            model.step(&mut fixture, step);
            model.check(&fixture);
        }
        let tokens = model.every_access.iter().chain(&model.every_refresh).map(Secret::expose);
        let kept = format!("{:?} {:?}", fixture.users, fixture.events);
        for secret in tokens.chain([PASSWORD, "wrong horse"]) {
            prop_assert!(!fixture.output.contains(secret), "{} was put out", secret);
            prop_assert!(!kept.contains(secret), "{} was kept", secret);
        }
    }
}

#[test]
fn a_rotated_token_ends_the_session_however_old_it_is() {
    for uses in 1..5 {
        let mut fixture = Fixture::with_ada();
        let first = fixture.log_ada_in().refresh_token;
        let mut newest = first.clone();
        for n in 0..uses {
            newest = fixture.refresh(&format!("r{n}"), &newest).tokens.unwrap().refresh_token;
        }
        let answer = fixture.refresh("again", &first);
        assert_eq!(answer.result(), (401, "token_reused"), "{uses}");
        assert_eq!((answer.outcome.version, answer.outcome.effects), (None, vec![]));
        let ended = fixture.events.last().unwrap();
        assert_eq!(ended.kind.name, "logged_out");
        assert_eq!(ended.payload.data.get(), "{\"reason\":\"token_reused\"}");
        assert_eq!(fixture.refresh("new", &newest).result(), (401, "invalid_token"));
    }
}

#[test]
fn a_refresh_is_repeated_only_while_nothing_newer_was_issued() {
    let mut fixture = Fixture::with_ada();
    let first = fixture.log_ada_in().refresh_token;
    let lost = fixture.refresh("r1", &first).tokens.unwrap();
    let second = fixture.refresh("r1", &first).tokens.unwrap();
    assert_ne!(lost, second);
    assert!(!fixture.validates(&lost.access_token) && fixture.validates(&second.access_token));
    fixture.refresh("r2", &second.refresh_token).tokens.unwrap();
    assert_eq!(fixture.refresh("r1", &first).result(), (401, "token_reused"));
    assert!(fixture.user("ada").unwrap().session.is_none());
}

#[test]
fn a_login_ends_the_session_before_it_and_tokens_of_that_do_not_harm_the_new_one() {
    let mut fixture = Fixture::with_ada();
    let before = fixture.log_ada_in();
    let after = fixture.log_ada_in();
    assert!(!fixture.validates(&before.access_token));
    assert_eq!(fixture.refresh("r1", &before.refresh_token).result(), (401, "invalid_token"));
    assert!(fixture.validates(&after.access_token));
    let refreshed = fixture.refresh("r2", &after.refresh_token).tokens.unwrap();
    assert!(fixture.validates(&refreshed.access_token) && !fixture.validates(&after.access_token));
}
