//! The inbox: outcomes by Command-Id, which a repeated command gets again.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use brigade_contracts::{
    Address, Command, Outcome, Refusal, Timestamp, Token, Via,
    cart::SecretKey,
    tenant::{self, TenantState},
};
use brigade_domain::{BatchState, user::Checked};
use sqlx::PgPool;

use super::{
    answer::Answer,
    load_batch::{OutcomeRow, before_spaces},
};
use crate::infra::postgres::bounded;

/// The outcomes that are stored of the commands of a batch, and those that it adds.
pub struct Inbox<'a> {
    /// The stored outcomes, by tenant and key.
    stored: HashMap<(Token, String), StoredOutcome>,
    /// The key from which the secrets are derived that answers tell, each time.
    secret_key: &'a SecretKey,
    /// The states of the tenants.
    tenants: HashMap<Token, Option<TenantState>>,
    /// The commands that the batch has decided, each with its place in it.
    pub decided: Vec<(&'a Command, usize)>,
    /// The aggregates of commands that were decided before.
    pub repeated: BTreeSet<&'a Address>,
}

/// A stored outcome, and the command that it is of.
struct StoredOutcome {
    target: String,
    payload_hash: Vec<u8>,
    actor: Option<Token>,
    /// It may be of HTTP although its key is not: a version without name spaces has taken part.
    may_be_of_http: bool,
    answer: Answer,
}

impl<'a> Inbox<'a> {
    pub fn new(
        rows: HashMap<(Token, String), OutcomeRow>,
        tenants: HashMap<Token, Option<TenantState>>,
        secret_key: &'a SecretKey,
    ) -> Self {
        let stored = rows.into_iter().map(|(key, row)| (key, StoredOutcome::from(row))).collect();
        Self { stored, secret_key, tenants, decided: Vec::new(), repeated: BTreeSet::new() }
    }

    /// Returns the refusal of a command whose tenant is not registered or suspended. What a worker
    /// sends is decided all the same, so that nothing is stuck: a deadline passes, a lock ends.
    fn refusal_of_tenant(&self, command: &Command) -> Option<Refusal> {
        let state = self.tenants.get(&command.tenant).copied().flatten();
        tenant::admit(state).err().filter(|_| !command.is_of_worker)
    }

    /// Decides commands in their order, but for those that have their outcome and those of tenants
    /// that are not served. Returns an answer for each; `None` if it lacks something.
    pub fn decide(
        &mut self,
        state: &mut BatchState,
        commands: &[(&'a Command, Option<&Checked>)],
        now: Timestamp,
    ) -> Vec<Option<Answer>> {
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(commands.len());
        for &(command, checked) in commands {
            let key = (command.tenant.clone(), command.key().to_string());
            let again = |stored: &StoredOutcome| command.is_decided_anew() && stored.is_of(command);
            if let Some(stored) = self.stored(&key, command).filter(|stored| !again(stored)) {
                let answer = repeated_answer(command, stored);
                answers.push(Some(answer.telling(self.secret_key.told(command))));
                self.repeated.extend(command.request.as_ref().ok().map(|request| &request.address));
                continue;
            }
            if let Some(refusal) = self.refusal_of_tenant(command) {
                answers.push(Some(Answer::of_tenant(&Outcome::refused(command, refusal, None))));
                continue;
            }
            let decided = state.decide_checked(command, now, checked);
            let answer =
                decided.map(|(outcome, tokens)| Answer::with_tokens(&outcome, tokens.as_ref()));
            if let Some(answer) = answer.as_ref().filter(|answer| answer.is_stored(command.door)) {
                self.stored.insert(key, StoredOutcome::new(command, answer.clone()));
                self.decided.push((command, answers.len()));
            }
            answers.push(answer.map(|answer| answer.telling(self.secret_key.told(command))));
        }
        answers
    }

    /// Returns what is stored under the key of a command, or of this very command by a version
    /// without name spaces.
    fn stored(&self, key: &(Token, String), command: &Command) -> Option<&StoredOutcome> {
        let earlier = || {
            let stored = self.stored.get(&(command.tenant.clone(), before_spaces(command)?))?;
            let is_sent = stored.may_be_of_http && stored.actor == command.actor;
            (is_sent && stored.is_of(command)).then_some(stored)
        };
        self.stored.get(key).or_else(earlier)
    }
}

impl StoredOutcome {
    fn new(command: &Command, answer: Answer) -> Self {
        Self {
            target: command.target.clone(),
            payload_hash: command.payload_hash.to_vec(),
            actor: command.actor.clone(),
            may_be_of_http: may_be_of_http(Some(command.via.as_str())),
            answer: answer.repeated(),
        }
    }

    /// Returns whether it is the outcome of this very command, whichever door it takes now.
    fn is_of(&self, command: &Command) -> bool {
        is_of(command, &self.target, &self.payload_hash)
    }
}

impl From<OutcomeRow> for StoredOutcome {
    fn from(row: OutcomeRow) -> Self {
        let payload_hash = hex::decode(row.payload_hash).unwrap_or_default();
        let target = target(&row.subject).to_owned();
        Self {
            target,
            payload_hash,
            actor: row.actor,
            may_be_of_http: may_be_of_http(row.via.as_deref()),
            answer: Answer::stored(row.outcome),
        }
    }
}

/// Returns whether a row that stands in the name space of the NATS doors may be of a command over
/// HTTP: an earlier version has written it, or has sent it from within the fleet's account.
fn may_be_of_http(via: Option<&str>) -> bool {
    via.is_none_or(|via| via == Via::Fleet.as_str())
}

/// Returns what a stored command was sent to. The door does not count: `<door>.<target>`.
fn target(subject: &str) -> &str {
    subject.split_once('.').map_or("", |(_, target)| target)
}

fn is_of(command: &Command, target: &str, payload_hash: &[u8]) -> bool {
    command.target == target && command.payload_hash == payload_hash
}

/// Returns whether the outcome that is stored under the Command-Id, with the subject and the hash
/// beside it, is that of this very command.
#[must_use]
pub fn is_outcome_of(command: &Command, subject: &str, payload_hash: &[u8]) -> bool {
    is_of(command, target(subject), payload_hash)
}

fn repeated_answer(command: &Command, stored: &StoredOutcome) -> Answer {
    if stored.is_of(command) {
        return stored.answer.clone();
    }
    let message = "this Command-Id was used for another command";
    let refusal = Refusal::new(409, "command_id_reused", message);
    let mut answer = Answer::new(&Outcome::refused(command, refusal, None));
    answer.reused = true;
    answer
}

/// Returns whether a command has its outcome, whichever door it took. It takes no locks: it is
/// called when something is wrong, and must not wait for the same.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn is_decided(postgres: &PgPool, command: &Command) -> sqlx::Result<bool> {
    let found = bounded(postgres, async |connection| {
        sqlx::query!(
            "select subject, payload_hash from brigade.command_inbox
             where (tenant, command_id) = ($1, $2)",
            command.tenant.as_str(),
            command.key().to_string(),
        )
        .fetch_optional(&mut **connection)
        .await
    });
    let found = found.await?;
    Ok(found.is_some_and(|row| is_outcome_of(command, &row.subject, &row.payload_hash)))
}

/// Returns those of some commands that have had their outcome for so long.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn decided_since<'a>(
    postgres: &PgPool,
    commands: &'a [(u64, Command)],
    since: Duration,
) -> sqlx::Result<Vec<&'a (u64, Command)>> {
    let tenants: Vec<_> = commands.iter().map(|(_, command)| command.tenant.as_str()).collect();
    let ids: Vec<_> = commands.iter().map(|(_, command)| command.key().to_string()).collect();
    let found = bounded(postgres, async |connection| {
        sqlx::query!(
            "select i.tenant, i.command_id, i.subject, i.payload_hash
             from unnest($1::text[], $2::text[]) as requested (tenant, command_id)
             join brigade.command_inbox i using (tenant, command_id)
             where i.decided_at < statement_timestamp() - make_interval(secs => $3)",
            &tenants as _,
            &ids as _,
            since.as_secs_f64(),
        )
        .fetch_all(&mut **connection)
        .await
    });
    let found = found.await?;
    let found: HashMap<_, _> =
        found.iter().map(|row| ((row.tenant.as_str(), row.command_id.clone()), row)).collect();
    let is_decided = |(_, command): &&(u64, Command)| {
        let row = found.get(&(command.tenant.as_str(), command.key().to_string()));
        !command.is_decided_anew()
            && row.is_some_and(|row| is_of(command, target(&row.subject), &row.payload_hash))
    };
    Ok(commands.iter().filter(is_decided).collect())
}
