//! Random sequences of what can be done with a session, beside a model of it.

use brigade_contracts::{Secret, event::Kind};
use proptest::prelude::*;
use serde_json::json;

use super::world::{Answer, PASSWORD, Town};

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

/// What must be the case.
#[derive(Default)]
struct Model {
    registered: bool,
    /// Of the live session: all refresh tokens ever issued, the newest last.
    session: Option<Vec<Secret>>,
    /// Of sessions that ended.
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

    fn step(&mut self, town: &mut Town, step: &Step) {
        match step {
            Step::Register => {
                let answer = town.register("ada", "Ada@Example.org");
                if self.registered {
                    assert_eq!(answer.told(), (409, "already_exists"));
                } else {
                    assert_eq!(answer.told(), (201, "created"));
                    self.registered = true;
                    self.touch(&[0, 1, 2]);
                }
            }
            Step::Login { right } => {
                let password = if *right { PASSWORD } else { "wrong horse" };
                let answer = town.login("ada", "ADA@example.org", password);
                if answer.outcome.status == 200 {
                    assert!(self.registered && *right);
                    self.touch(&[0]);
                    self.issued(&answer, true);
                    self.newest = None;
                } else if answer.outcome.status == 401 {
                    assert!(!self.registered || !*right);
                } else {
                    assert_eq!(answer.outcome.status, 429);
                    assert!(town.failures.len() >= 20);
                }
            }
            Step::Refresh { back } => self.refresh(town, *back),
            Step::Repeat => self.repeat(town),
            Step::Logout => {
                let status = town.send("ada", "logout", &json!({})).outcome.status;
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
                let answer = town.send("ada", "change_roles", &json!({"roles": ["staff"]}));
                assert_eq!(answer.outcome.status, if self.registered { 200 } else { 404 });
                if self.registered {
                    self.touch(&[2]);
                }
            }
            Step::Subscribe => {
                let payload = json!({"subscription_id": "s1"});
                let answer = town.send("ada", "register_subscription", &payload);
                let done = self.registered && !self.subscribed;
                assert_eq!(answer.outcome.status == 200, done);
                if done {
                    self.subscribed = true;
                    self.touch(&[1]);
                }
            }
            Step::Wait => {
                town.now = town.now.plus(super::super::session::ACCESS_LASTS);
                self.access = None;
            }
        }
    }

    fn refresh(&mut self, town: &mut Town, back: usize) {
        let Some(at) = self.every_refresh.len().checked_sub(back + 1) else { return };
        let used = self.every_refresh[at].clone();
        self.commands += 1;
        let command_id = format!("r{}", self.commands);
        let answer = town.refresh(&command_id, &used);
        let of_session = self.session.as_ref().and_then(|s| s.iter().position(|t| *t == used));
        match (of_session, &self.session) {
            (Some(place), Some(session)) if place + 1 == session.len() => {
                assert_eq!(answer.told(), (200, "ok"));
                self.touch(&[0]);
                self.issued(&answer, false);
                self.newest = Some((command_id, used));
            }
            (Some(_), _) => {
                assert_eq!(answer.told(), (401, "token_reused"));
                assert!(answer.tokens.is_none());
                self.touch(&[0]);
                self.end();
            }
            (None, _) => assert_eq!(answer.told(), (401, "invalid_token")),
        }
    }

    fn repeat(&mut self, town: &mut Town) {
        let Some((command_id, used)) = self.newest.clone() else { return };
        let answer = town.refresh(&command_id, &used);
        if self.session.is_some() {
            assert_eq!(answer.told(), (200, "ok"), "nothing newer was issued");
            self.touch(&[0]);
            self.issued(&answer, false);
        } else {
            assert_eq!(answer.told(), (401, "invalid_token"));
        }
    }

    fn check(&self, town: &Town) {
        let live: Vec<_> = self.every_access.iter().filter(|token| town.validates(token)).collect();
        assert_eq!(live, self.access.iter().collect::<Vec<_>>(), "the newest of the session");
        let versions: Vec<_> = town.events.iter().map(|event| event.version).collect();
        assert_eq!(versions, (1..=self.version).collect::<Vec<_>>());
        let Some(ada) = town.user("ada") else { return assert!(!self.registered) };
        assert_eq!(ada.head.version, self.version);
        let parts: Vec<_> = ada.head.part_versions().into_values().collect();
        assert_eq!(parts, self.parts, "auth, subscription, roles");
        assert_eq!(ada.subscription.is_some(), self.subscribed);
        for part in ["auth", "subscription", "roles"] {
            let last = |kind: &Kind| kind.touches.iter().any(|touched| touched.as_str() == part);
            let last = town.events.iter().rev().find(|event| last(&event.kind)).unwrap();
            let shown = ada.shown();
            let (_, shown) = shown.iter().find(|(name, _)| *name == part).unwrap();
            let version = format!("{{\"version\":{},", last.version);
            assert!(shown.get().starts_with(&version), "{part}: {shown}");
        }
    }
}

proptest! {
    #[test]
    fn a_session_is_what_the_model_says(steps in proptest::collection::vec(step(), 1..60)) {
        let mut town = Town::new();
        let mut model = Model::default();
        for step in &steps {
            model.step(&mut town, step);
            model.check(&town);
        }
        let tokens = model.every_access.iter().chain(&model.every_refresh).map(Secret::expose);
        let kept = format!("{:?} {:?}", town.users, town.events);
        for secret in tokens.chain([PASSWORD, "wrong horse"]) {
            prop_assert!(!town.said.contains(secret), "{} was said", secret);
            prop_assert!(!kept.contains(secret), "{} was kept", secret);
        }
    }
}

#[test]
fn a_rotated_token_ends_the_session_however_old_it_is() {
    for uses in 1..5 {
        let mut town = Town::with_ada();
        let first = town.log_ada_in().refresh_token;
        let mut newest = first.clone();
        for n in 0..uses {
            newest = town.refresh(&format!("r{n}"), &newest).tokens.unwrap().refresh_token;
        }
        let answer = town.refresh("again", &first);
        assert_eq!(answer.told(), (401, "token_reused"), "{uses}");
        assert_eq!((answer.outcome.version, answer.outcome.effects), (None, vec![]));
        let ended = town.events.last().unwrap();
        assert_eq!(ended.kind.name, "logged_out");
        assert_eq!(ended.payload.data.get(), "{\"reason\":\"token_reused\"}");
        assert_eq!(town.refresh("new", &newest).told(), (401, "invalid_token"));
    }
}

#[test]
fn a_refresh_is_repeated_only_while_nothing_newer_was_issued() {
    let mut town = Town::with_ada();
    let first = town.log_ada_in().refresh_token;
    let lost = town.refresh("r1", &first).tokens.unwrap();
    let second = town.refresh("r1", &first).tokens.unwrap();
    assert_ne!(lost, second);
    assert!(!town.validates(&lost.access_token) && town.validates(&second.access_token));
    town.refresh("r2", &second.refresh_token).tokens.unwrap();
    assert_eq!(town.refresh("r1", &first).told(), (401, "token_reused"));
    assert!(town.user("ada").unwrap().session.is_none());
}

#[test]
fn a_login_ends_the_session_before_it_and_tokens_of_that_do_not_harm_the_new_one() {
    let mut town = Town::with_ada();
    let before = town.log_ada_in();
    let after = town.log_ada_in();
    assert!(!town.validates(&before.access_token));
    assert_eq!(town.refresh("r1", &before.refresh_token).told(), (401, "invalid_token"));
    assert!(town.validates(&after.access_token));
    let refreshed = town.refresh("r2", &after.refresh_token).tokens.unwrap();
    assert!(town.validates(&refreshed.access_token) && !town.validates(&after.access_token));
}
