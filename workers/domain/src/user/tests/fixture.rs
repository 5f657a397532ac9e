//! A batch in which users are decided as messages would ask for it, with passwords that are checked
//! the way command-handler does it: against what the user had when the command was taken.

use brigade_contracts::{
    Address, Aggregate, Command, Email, NewPassword, Outcome, Secret, Timestamp, Token,
    user::{Status, Tokens},
};
use serde_json::{Value, json};

use super::super::{
    super::{BatchState, Event, Hook, LockPolicy, LockSet, SecurityEntry, State, User},
    AuthInputs, Checked, Count, FailureKey, Throttle, Verified, keys_of,
};

pub const PASSWORD: &str = "correct horse battery";

/// A hash that only tests would use.
pub fn hash_of(password: &str) -> Secret {
    Secret::new(format!("$hash${}", Secret::new(password.to_owned()).unwrap().sha256())).unwrap()
}

pub fn longest_email() -> String {
    format!("{}@x.org", "e".repeat(Email::MAX_LEN - 6))
}

pub fn user_address(id: &str) -> Address {
    Address::new("t1", Aggregate::User, id).unwrap()
}

pub struct Fixture {
    pub now: Timestamp,
    pub users: Vec<User>,
    pub failures: Vec<(FailureKey, Timestamp)>,
    pub events: Vec<Event>,
    pub security: Vec<SecurityEntry>,
    pub hooks: Vec<Hook>,
    /// Debug and JSON of everything that may be stored or logged.
    pub output: String,
    randoms: u64,
    commands: u64,
}

/// An answer: the outcome that is stored, and the tokens that only the sender gets.
pub struct Answer {
    pub outcome: Outcome,
    pub tokens: Option<Tokens>,
}

impl Answer {
    pub fn result(&self) -> (u16, &str) {
        (self.outcome.status, &self.outcome.code)
    }

    pub fn data(&self) -> Value {
        serde_json::from_str(self.outcome.data.get()).unwrap()
    }
}

impl Fixture {
    pub fn new() -> Self {
        Self {
            now: Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap(),
            users: Vec::new(),
            failures: Vec::new(),
            events: Vec::new(),
            security: Vec::new(),
            hooks: Vec::new(),
            output: String::new(),
            randoms: 0,
            commands: 0,
        }
    }

    /// A fixture with the user `ada`.
    pub fn with_ada() -> Self {
        let mut fixture = Self::new();
        assert_eq!(fixture.register("ada", "Ada@Example.org").result(), (201, "created"));
        fixture
    }

    pub fn user(&self, id: &str) -> Option<&User> {
        self.users.iter().find(|user| user.head.address.id.as_str() == id)
    }

    pub fn register(&mut self, id: &str, email: &str) -> Answer {
        self.send(
            id,
            "register",
            &json!({"email": email, "profile_id": "p1", "password": PASSWORD}),
        )
    }

    pub fn login(&mut self, id: &str, email: &str, password: &str) -> Answer {
        self.send(id, "login", &json!({"email": email, "password": password}))
    }

    pub fn log_ada_in(&mut self) -> Tokens {
        self.login("ada", "ada@example.org", PASSWORD).tokens.unwrap()
    }

    pub fn refresh(&mut self, command_id: &str, token: &Secret) -> Answer {
        let payload = json!({"refresh_token": token.expose()});
        self.decide(&command("ada", "refresh", &payload, &[("Command-Id", command_id)]))
    }

    pub fn send(&mut self, id: &str, verb: &str, payload: &Value) -> Answer {
        self.send_with(id, verb, payload, &[])
    }

    pub fn send_with(
        &mut self,
        id: &str,
        verb: &str,
        payload: &Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        self.commands += 1;
        let command_id = format!("k{}", self.commands);
        let headers: Vec<_> =
            [("Command-Id", &*command_id)].into_iter().chain(headers.iter().copied()).collect();
        self.decide(&command(id, verb, payload, &headers))
    }

    /// One batch of one command, with everything loaded that it may need.
    pub fn decide(&mut self, command: &Command) -> Answer {
        let checked = self.check(command);
        let mut batch = self.batch(command);
        let (outcome, tokens) =
            batch.decide_checked(command, self.now, checked.as_ref()).unwrap_or_else(|| {
                panic!("{command:?} is out of reach: {:?}", batch.missing());
            });
        self.output += &format!("{command:?} {checked:?} {batch:?} {outcome:?} {tokens:?}\n");
        self.output += &serde_json::to_string(&outcome).unwrap();
        self.absorb(&batch);
        Answer { outcome, tokens }
    }

    /// Checks the password of a command, as command-handler does before the batch.
    pub fn check(&self, command: &Command) -> Option<Checked> {
        use brigade_contracts::{Body, user::Verb};
        let request = command.request.as_ref().ok()?;
        let Body::User(verb) = &request.body else { return None };
        let user = self.user(request.address.id.as_str());
        let verify = |user: Option<&User>, password: &Secret| {
            let seen = user.map(|user| user.password_hash.clone());
            let ok = seen.as_ref() == Some(&hash_of(password.expose()));
            Verified { password_hash_seen: seen, ok }
        };
        let hashed = |new: &NewPassword| Some(hash_of(new.secret().expose()));
        let checked = match verb {
            Verb::Register(register) => {
                Checked { hashed: hashed(&register.password), ..Checked::default() }
            }
            Verb::Login(login) => {
                let is_found = |user: &&User| {
                    let email = user.email.folded();
                    user.status != Status::Erased && email == login.email.folded()
                };
                let user = user.filter(is_found);
                Checked { verified: Some(verify(user, &login.password)), hashed: None }
            }
            Verb::ChangePassword(change) => Checked {
                verified: Some(verify(user, &change.password)),
                hashed: hashed(&change.new_password),
            },
            Verb::ChangeEmail(change) => Checked {
                verified: change.password.as_ref().map(|password| verify(user, password)),
                hashed: None,
            },
            Verb::Erase(erase) => Checked {
                verified: erase.password.as_ref().map(|password| verify(user, password)),
                hashed: None,
            },
            Verb::ResetPassword(reset) => {
                Checked { hashed: hashed(&reset.new_password), ..Checked::default() }
            }
            _ => return None,
        };
        Some(checked)
    }

    pub fn batch(&mut self, command: &Command) -> BatchState {
        let mut reach = LockSet::default();
        reach.addresses.extend(command.request.as_ref().ok().map(|r| r.address.clone()));
        let longest = longest_email();
        let emails = ["ada", "bob", "eve", "new"].map(|name| format!("{name}@example.org"));
        let emails = emails.iter().map(String::as_str).chain([longest.as_str()]);
        for email in emails {
            let owner = self.users.iter().find(|user| user.email.folded() == email);
            let owner = owner.map(|user| user.head.address.clone());
            reach.emails.insert((Token::new("t1").unwrap(), email.to_owned()), owner);
        }
        let managers = self.users.iter().filter(|user| user.is_manager());
        let managers: Vec<_> = managers.map(|user| user.head.address.clone()).collect();
        reach.addresses.extend(managers.iter().cloned());
        reach.managers.insert(Token::new("t1").unwrap(), managers);
        let since = self.now.inner() - super::super::WINDOW;
        let count = |key: FailureKey| {
            let times = self.failures.iter().filter(|(k, at)| *k == key && at.inner() > since);
            let times: Vec<_> = times.map(|(_, at)| *at).collect();
            let failures = u32::try_from(times.len()).unwrap();
            let (oldest, latest) = (times.iter().min().copied(), times.iter().max().copied());
            (key, Count { failures, oldest, latest })
        };
        let throttle = Throttle::new(keys_of(command).into_iter().map(count));
        let mut random = || {
            self.randoms += 1;
            let mut random = [0; 32];
            // Different in each of the bytes that name a session, and in the rest.
            random.chunks_mut(8).for_each(|c| c.copy_from_slice(&self.randoms.to_le_bytes()));
            random
        };
        let supplies = AuthInputs { randoms: vec![random(), random()], throttle };
        let users = self.users.iter().cloned().map(State::User);
        BatchState::new(users, reach, LockPolicy::default(), []).with_users(supplies)
    }

    pub fn absorb(&mut self, batch: &BatchState) {
        for user in batch.changed().filter_map(State::user) {
            self.users.retain(|known| known.head.address != user.head.address);
            self.users.push(user.clone());
        }
        for event in batch.events() {
            self.output += &serde_json::to_string(&event.payload).unwrap();
        }
        self.events.extend(batch.events().iter().cloned());
        self.security.extend(batch.security().iter().cloned());
        self.hooks.extend(batch.hooks().iter().cloned());
        let cleared = batch.throttle().cleared();
        self.failures.retain(|(key, _)| !cleared.contains(key));
        self.failures.extend(batch.throttle().added().iter().cloned());
    }

    /// Returns whether an access token is valid now.
    pub fn validates(&self, token: &Secret) -> bool {
        let sessions = self.user("ada").map(|user| &user.sessions[..]).unwrap_or_default();
        sessions.iter().any(|session| session.valid_until(token, self.now).is_some())
    }
}

pub fn command(id: &str, verb: &str, payload: &Value, headers: &[(&str, &str)]) -> Command {
    let subject = format!("req.t1.user.{id}.{verb}");
    Command::decode(&subject, headers.iter().copied(), payload.to_string().as_bytes()).unwrap()
}
