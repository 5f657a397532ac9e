//! Decides commands that carry a password, each by itself beside the batches, since hashing takes
//! 30 ms of a core.

use std::{
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use brigade_contracts::{Command, Outcome};
use tokio::time::sleep;

use super::{
    CommandHandler, Disposition,
    answer::Answer,
    credentials,
    respond::{ReplyTo, busy, not_decided, too_many},
};
use crate::runtime::consume::{FairQueue, HasTenant};

/// Longest time for which a command with a password is retried while its user is locked.
const LOCKED_USER: Duration = Duration::from_secs(3);
/// Pause before each of these retries.
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// Most commands with a password that may wait; more are refused as `busy`.
const MAX_PASSWORDS: usize = 10_000;
/// Most of them of one tenant; more are refused as `too_many`.
const MAX_PASSWORDS_OF_TENANT: usize = MAX_PASSWORDS / 4;
/// So many logins are begun, at most, before a registration that waits.
const LOGINS_IN_A_ROW: u8 = 8;

/// Returns how many of them are begun, where so many are hashed at once. Each takes some 30 ms of a
/// core: a login that comes waits for these, and a drain finishes them and refuses the others as
/// not decided. More than are hashed, since each is read and written in SQL as well.
#[must_use]
pub fn begun_at_once(hashed_at_once: usize) -> usize {
    2 * hashed_at_once + 2
}

/// A command that waits for its password to be hashed.
pub struct WithPassword {
    command: Command,
    reply: ReplyTo,
}

/// The commands that wait for that. Users who are there come before those who want to be: it costs
/// nothing to register. Within each kind tenants take turns.
#[derive(Default)]
pub struct WaitingPasswords {
    logins: FairQueue<WithPassword>,
    registrations: FairQueue<WithPassword>,
    logins_in_a_row: u8,
}

impl WaitingPasswords {
    fn len(&self) -> usize {
        self.logins.len() + self.registrations.len()
    }

    fn waiting_of(&self, tenant: &str) -> usize {
        self.logins.waiting_of(tenant) + self.registrations.waiting_of(tenant)
    }

    fn push(&mut self, waiting: WithPassword) {
        match credentials::is_registration(&waiting.command) {
            true => self.registrations.push_back(waiting),
            false => self.logins.push_back(waiting),
        }
    }

    /// Takes the command whose turn it is.
    fn pop(&mut self) -> Option<WithPassword> {
        let is_due = self.logins_in_a_row >= LOGINS_IN_A_ROW && !self.registrations.is_empty();
        let login = if is_due { None } else { self.logins.pop() };
        self.logins_in_a_row =
            if login.is_some() { self.logins_in_a_row.saturating_add(1) } else { 0 };
        login.or_else(|| self.registrations.pop())
    }
}

impl HasTenant for WithPassword {
    fn tenant(&self) -> &str {
        self.command.tenant.as_str()
    }
}

impl CommandHandler {
    /// Decides a command of the request door when its password is hashed.
    pub(super) async fn decide_beside(&self, command: Command, reply: ReplyTo) {
        let refusal = {
            let mut waiting = self.waiting_with_password();
            if waiting.len() >= MAX_PASSWORDS {
                Some(busy())
            } else if waiting.waiting_of(command.tenant.as_str()) >= MAX_PASSWORDS_OF_TENANT {
                Some(too_many())
            } else {
                waiting.push(WithPassword { command: command.clone(), reply: reply.clone() });
                None
            }
        };
        if let Some(refusal) = refusal {
            let outcome = Outcome::refused(&command, refusal, None);
            return self.reply(&reply, Some(&command), &Answer::new(&outcome)).await;
        }
        let this = self.clone();
        self.beside.spawn(async move {
            let begun = tokio::select! {
                biased;
                () = this.cx.drain.cancelled() => None,
                begun = this.begun.acquire() => begun.ok(),
            };
            // Not the command that the task was spawned for, but the one whose turn it is.
            let next = this.waiting_with_password().pop();
            let Some(WithPassword { command, reply }) = next else { return };
            if begun.is_none() {
                let outcome = Outcome::refused(&command, not_decided(), None);
                return this.reply(&reply, Some(&command), &Answer::new(&outcome)).await;
            }
            let disposition = this.decide_with_password(&command).await;
            this.cx.fail.point("command-handler.before_answer").await;
            this.respond(&command, &reply, disposition).await;
        });
    }

    fn waiting_with_password(&self) -> MutexGuard<'_, WaitingPasswords> {
        self.with_password.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn decide_with_password(&self, command: &Command) -> Disposition {
        let mut commands = [command.clone()];
        let check = credentials::check(&self.passwords, &self.cx.postgres, &commands).await;
        let check = match check {
            Ok(mut checks) => checks.pop().unwrap_or_default(),
            Err(error) => return Disposition::Unavailable(error.to_string()),
        };
        check.address(&mut commands[0]);
        let began = Instant::now();
        loop {
            let disposition = self.decide(&commands, vec![check.checked.clone()], None).await.pop();
            match disposition {
                // Nobody but its sender waits for it here.
                Some(Disposition::Held(_)) if began.elapsed() < LOCKED_USER => {
                    sleep(LOCKED_PAUSE).await;
                }
                other => {
                    return other
                        .unwrap_or_else(|| Disposition::Failed("no disposition".to_owned()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(verb: &str, id: &str) -> WithPassword {
        let payload = match verb {
            "register" => r#"{"email":"a@example.org","profile_id":"p","password":"pass-word"}"#,
            _ => r#"{"email":"a@example.org","password":"pass-word"}"#,
        };
        let subject = format!("req.{id}.{verb}");
        let headers = [("Command-Id", "k")].into_iter();
        let command = Command::decode(&subject, headers, payload.as_bytes()).unwrap();
        WithPassword { command, reply: ReplyTo::Reply(None) }
    }

    #[test]
    fn logins_come_before_registrations_and_tenants_take_turns() {
        let mut all = WaitingPasswords::default();
        for n in 0..100 {
            all.push(waiting("register", &format!("t1.user.eve{n}")));
        }
        all.push(waiting("register", "t2.user.dan"));
        for n in 0..20 {
            all.push(waiting("login", &format!("t1.user.ada{n}")));
        }
        all.push(waiting("login", "t2.user.bob"));
        assert_eq!((all.len(), all.waiting_of("t2")), (122, 2));
        let mut taken = || all.pop().map(|next| next.command.target).expect("one");
        assert_eq!([taken(), taken()], ["t1.user.ada0.login", "t2.user.bob.login"]);
        let next: Vec<_> = (0..9).map(|_| taken()).collect();
        // Eight logins in all, then one of the others, whose tenants take turns as well.
        let registered: Vec<_> =
            next.iter().enumerate().filter(|(_, target)| target.ends_with("register")).collect();
        assert_eq!(registered, [(6, &"t1.user.eve0.register".to_owned())]);
        let rest: Vec<_> = (0..30).map(|_| taken()).collect();
        let dan = rest.iter().position(|target| target == "t2.user.dan.register");
        let logins = rest.iter().rposition(|target| target.ends_with("login"));
        assert!(dan.is_some() && dan < logins, "{rest:?}");
        while all.pop().is_some() {}
        assert_eq!(all.len(), 0);
    }
}
