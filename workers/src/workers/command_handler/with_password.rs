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
/// Most of them that are begun. Each takes some 30 ms of a core: a drain finishes these, and
/// refuses the others as not decided.
pub const PASSWORDS_BEGUN: usize = 64;

/// A command that waits for its password to be hashed.
pub struct WithPassword {
    command: Command,
    reply: ReplyTo,
}

impl HasTenant for WithPassword {
    fn tenant(&self) -> &str {
        self.command.tenant.as_str()
    }
}

impl CommandHandler {
    /// Decides a command of the request door when its password is hashed; tenants take turns.
    pub(super) async fn decide_beside(&self, command: Command, reply: ReplyTo) {
        let refusal = {
            let mut waiting = self.waiting_with_password();
            if waiting.len() >= MAX_PASSWORDS {
                Some(busy())
            } else if waiting.waiting_of(command.tenant.as_str()) >= MAX_PASSWORDS_OF_TENANT {
                Some(too_many())
            } else {
                waiting.push_back(WithPassword { command: command.clone(), reply: reply.clone() });
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

    fn waiting_with_password(&self) -> MutexGuard<'_, FairQueue<WithPassword>> {
        self.with_password.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn decide_with_password(&self, command: &Command) -> Disposition {
        let commands = std::slice::from_ref(command);
        let checked = credentials::check(&self.passwords, &self.cx.postgres, commands).await;
        let checked = match checked {
            Ok(checked) => checked,
            Err(error) => return Disposition::Unavailable(error.to_string()),
        };
        let began = Instant::now();
        loop {
            let disposition = self.decide(commands, checked.clone(), None).await.pop();
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
