//! Random sequences of what can be done with sessions, beside a model of them.

use std::time::Duration;

use brigade_contracts::{
    Secret, Timestamp,
    event::EventKind,
    user::{MAX_SESSIONS, Tokens},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::Session,
    fixture::{Answer, Fixture, PASSWORD},
};

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
    Pause,
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
        3 => Just(Step::Pause),
        1 => Just(Step::Wait),
    ]
}

/// A session as it is expected.
struct Live {
    /// All refresh tokens that it ever had.
    every_refresh: Vec<Secret>,
    /// The tokens that are good, the newest last.
    good: Vec<Good>,
    /// The use of a refresh token, with those that were good like it, and its time.
    rotated: Option<(Vec<Secret>, Timestamp)>,
}

struct Good {
    tokens: Tokens,
    by: String,
}

/// The expected state.
#[derive(Default)]
struct Model {
    registered: bool,
    /// In the order of their use.
    sessions: Vec<Live>,
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
    fn issued(&mut self, answer: &Answer, by: &str) {
        let tokens = answer.tokens.clone().unwrap();
        self.every_refresh.push(tokens.refresh_token.clone());
        self.every_access.push(tokens.access_token.clone());
        let session = self.sessions.last_mut().unwrap();
        session.every_refresh.push(tokens.refresh_token.clone());
        session.good.push(Good { tokens, by: by.to_owned() });
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
                    if self.sessions.len() == MAX_SESSIONS {
                        self.sessions.remove(0);
                    }
                    let begun = Live { every_refresh: vec![], good: vec![], rotated: None };
                    self.sessions.push(begun);
                    self.issued(&answer, "");
                } else if answer.outcome.status == 401 {
                    assert!(!self.registered || !*right);
                } else {
                    assert_eq!(answer.outcome.status, 429);
                    assert!(fixture.failures.len() >= 25);
                }
            }
            Step::Refresh { back } => {
                let Some(at) = self.every_refresh.len().checked_sub(back + 1) else { return };
                self.commands += 1;
                self.newest = Some((format!("r{}", self.commands), self.every_refresh[at].clone()));
                self.refresh(fixture);
            }
            Step::Repeat => self.refresh(fixture),
            Step::Logout => {
                let status = fixture.send("ada", "logout", &json!({})).outcome.status;
                let expected = match (self.sessions.is_empty(), self.registered) {
                    (false, _) => 200,
                    (true, true) => 409,
                    (true, false) => 404,
                };
                assert_eq!(status, expected);
                if status == 200 {
                    self.touch(&[0]);
                    self.sessions.clear();
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
            Step::Pause => fixture.now = fixture.now.plus(super::super::session::RACE),
            Step::Wait => fixture.now = fixture.now.plus(super::super::session::ACCESS_LASTS),
        }
    }

    /// Sends the newest refresh, for the first time or again.
    fn refresh(&mut self, fixture: &mut Fixture) {
        let Some((command_id, used)) = self.newest.clone() else { return };
        let answer = fixture.refresh(&command_id, &used);
        let of = self.sessions.iter().position(|session| session.every_refresh.contains(&used));
        let Some(of) = of else { return assert_eq!(answer.result(), (401, "invalid_token")) };
        let mut session = self.sessions.remove(of);
        self.touch(&[0]);
        let is_good = session.good.iter().any(|good| good.tokens.refresh_token == used);
        let own = session.good.iter().position(|good| good.by == command_id);
        let was_good = session.rotated.as_ref().filter(|(tokens, _)| tokens.contains(&used));
        if is_good {
            let tokens = session.good.drain(..).map(|good| good.tokens.refresh_token);
            session.rotated = Some((tokens.collect(), fixture.now));
        } else if let Some(own) = own {
            session.good.remove(own);
        } else if session.good.len() > 4
            || was_good.is_none_or(|(_, at)| at.millis_until(fixture.now) >= 10_000)
        {
            assert_eq!(answer.result(), (401, "token_reused"));
            return assert!(answer.tokens.is_none());
        }
        assert_eq!(answer.result(), (200, "ok"));
        self.sessions.push(session);
        self.issued(&answer, &command_id);
    }

    fn check(&self, fixture: &Fixture) {
        let live: Vec<_> =
            self.every_access.iter().filter(|token| fixture.validates(token)).collect();
        let good = self.sessions.iter().flat_map(|session| &session.good);
        let good: Vec<_> = good.filter(|good| fixture.now < good.tokens.expires_at).collect();
        assert!(good.iter().all(|good| live.contains(&&good.tokens.access_token)));
        assert_eq!(live.len(), good.len(), "nothing else is good");
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
        fixture.now = fixture.now.plus(super::super::session::RACE);
        let answer = fixture.refresh("again", &first);
        assert_eq!(answer.result(), (401, "token_reused"), "{uses}");
        assert_eq!((answer.outcome.version, answer.outcome.effects), (None, vec![]));
        let ended = fixture.events.last().unwrap();
        assert_eq!(ended.kind.name, "logged_out");
        assert!(ended.payload.data.get().starts_with("{\"reason\":\"token_reused\""));
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
    assert!(fixture.user("ada").unwrap().sessions.is_empty());
}

#[test]
fn the_refresh_of_a_tab_that_lost_a_race_is_repeated_too() {
    let mut fixture = Fixture::with_ada();
    let first = fixture.log_ada_in().refresh_token;
    let one = fixture.refresh("r1", &first).tokens.unwrap();
    let other = fixture.refresh("r2", &first).tokens.unwrap();
    fixture.refresh("r3", &other.refresh_token).tokens.unwrap();
    let lost = fixture.refresh("r4", &one.refresh_token).tokens.unwrap();
    fixture.now = fixture.now.plus(super::super::session::RACE);
    let again = fixture.refresh("r4", &one.refresh_token).tokens.unwrap();
    assert!(!fixture.validates(&lost.access_token) && fixture.validates(&again.access_token));
}

#[test]
fn sessions_go_on_beside_each_other_until_one_of_them_ends() {
    let mut fixture = Fixture::with_ada();
    let (phone, tablet) = (fixture.log_ada_in(), fixture.log_ada_in());
    let refreshed = fixture.refresh("r1", &phone.refresh_token).tokens.unwrap();
    for (tokens, is_good) in [(&phone, false), (&tablet, true), (&refreshed, true)] {
        assert_eq!(fixture.validates(&tokens.access_token), is_good);
    }
    let shown = fixture.user("ada").unwrap().sessions.iter().map(Session::shown);
    let shown: Vec<_> = shown.map(|session| session.session).collect();
    let end = json!({ "session": shown[0] });
    assert_eq!(fixture.send("ada", "end_session", &end).result(), (200, "ok"));
    assert_eq!(fixture.send("ada", "end_session", &end).result(), (404, "session_not_found"));
    assert!(!fixture.validates(&tablet.access_token));
    assert!(fixture.validates(&refreshed.access_token));
    // A user logs out of the session that he is in, anybody else logs him out of all.
    fixture.log_ada_in();
    let own = [("Session", shown[1].as_str()), ("Actor", "ada")];
    let logout = |fixture: &mut Fixture, headers: &[(&str, &str)], payload: Value| {
        let answer = fixture.send_with("ada", "logout", &payload, headers);
        (answer.outcome.status, fixture.user("ada").unwrap().sessions.len())
    };
    assert_eq!(logout(&mut fixture, &own, json!({})), (200, 1));
    assert_eq!(logout(&mut fixture, &own, json!({})), (409, 1));
    assert_eq!(logout(&mut fixture, &own, json!({"all": true})), (200, 0));
    fixture.log_ada_in();
    fixture.log_ada_in();
    let managers = [("Session", shown[1].as_str()), ("Actor", "mia")];
    assert_eq!(logout(&mut fixture, &managers, json!({})), (200, 0));
}

#[test]
fn with_a_session_too_many_the_one_that_was_unused_for_longest_ends() {
    let mut fixture = Fixture::with_ada();
    let first = fixture.log_ada_in();
    let second = fixture.log_ada_in();
    for _ in 2..MAX_SESSIONS {
        fixture.log_ada_in();
    }
    let first = fixture.refresh("r1", &first.refresh_token).tokens.unwrap();
    fixture.log_ada_in();
    assert_eq!(fixture.user("ada").unwrap().sessions.len(), MAX_SESSIONS);
    assert!(fixture.validates(&first.access_token) && !fixture.validates(&second.access_token));
}

#[test]
fn a_session_ends_ninety_days_after_its_login_however_often_it_is_refreshed() {
    let mut fixture = Fixture::with_ada();
    let mut tokens = fixture.log_ada_in();
    let end = fixture.now.plus(super::super::session::SESSION_LASTS);
    let day = Duration::from_secs(24 * 60 * 60);
    for n in 0..4 {
        fixture.now = fixture.now.plus(day * if n < 3 { 29 } else { 3 });
        if n == 3 {
            assert_eq!(fixture.now, end);
            let answer = fixture.refresh("last", &tokens.refresh_token);
            assert_eq!(answer.result(), (401, "token_expired"));
        } else {
            tokens = fixture.refresh(&format!("r{n}"), &tokens.refresh_token).tokens.unwrap();
            assert!(tokens.refresh_expires_at <= end && tokens.expires_at <= end);
        }
    }
}

/// Two tabs wake up together; a thief comes later.
#[test]
fn s7_04_refreshes_that_race_are_all_answered_and_a_stolen_token_ends_the_session() {
    let race = super::super::session::RACE;
    let mut fixture = Fixture::with_ada();
    let first = fixture.log_ada_in().refresh_token;
    let one = fixture.refresh("tab-1", &first).tokens.unwrap();
    fixture.now = fixture.now.plus(race - Duration::from_millis(1));
    let two = fixture.refresh("tab-2", &first).tokens.unwrap();
    for tokens in [&one, &two] {
        assert!(fixture.validates(&tokens.access_token), "either tab goes on");
    }
    // Whichever is kept works; what raced it is rotated away with it, and may race once more.
    let kept = fixture.refresh("tab-1b", &one.refresh_token).tokens.unwrap();
    assert!(!fixture.validates(&two.access_token));
    let raced = fixture.refresh("tab-2b", &two.refresh_token).tokens.unwrap();
    assert!(fixture.validates(&kept.access_token) && fixture.validates(&raced.access_token));
    fixture.now = fixture.now.plus(race);
    for stolen in [&first, &one.refresh_token, &two.refresh_token] {
        let mut of_thief = Fixture::new();
        (of_thief.users, of_thief.now) = (fixture.users.clone(), fixture.now);
        assert_eq!(of_thief.refresh("thief", stolen).result(), (401, "token_reused"));
        assert!(
            !of_thief.validates(&kept.access_token) && !of_thief.validates(&raced.access_token)
        );
    }
    // Nor does racing go on for ever.
    let next = fixture.refresh("next", &kept.refresh_token).tokens.unwrap();
    for n in 0..4 {
        assert_eq!(fixture.refresh(&format!("n{n}"), &kept.refresh_token).result(), (200, "ok"));
    }
    assert_eq!(fixture.refresh("n4", &kept.refresh_token).result(), (401, "token_reused"));
    assert!(!fixture.validates(&next.access_token));
}
