//! One batch of commands, one transaction.
//!
//! Lock and load (`brigade.load_batch`) → decide in memory, in order of arrival → one statement for
//! each kind of aggregate that changed, and one for all that every batch writes → commit. The
//! number of statements does not depend on the number of commands.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use brigade_contracts::{
    Address, Command, Outcome, Refusal, Timestamp, Token, Via, shard_of,
    tenant::{self, TenantState},
};
use brigade_domain::{BatchState, LockMetric, LockPolicy, Missing, State, user::Checked};
use sqlx::{Connection, PgConnection, PgPool};

use super::{
    answer::Answer,
    auth_inputs::load_auth_inputs,
    load_batch::{LoadedBatch, OutcomeRow, before_spaces, load_batch},
    record::{Record, record},
};
use crate::{
    infra::{Context, postgres::bounded},
    store::{self, states::StatesByKind},
};

/// The result of a batch.
pub struct Decided {
    /// One a command; `None` if it is decided in the next batch, which has to load what is missing.
    pub answers: Vec<Option<Answer>>,
    pub missing: BTreeSet<Missing>,
    /// Aggregates whose newest state may not stand in KV yet.
    pub to_project: Vec<State>,
    /// Aggregates that are projected again, whatever KV is believed to hold.
    pub to_reproject: Vec<State>,
    /// Decisions about locks, to be counted.
    pub lock_metrics: Vec<LockMetric>,
    /// Bit mask of the outbox shards that got events.
    pub shards: u16,
}

/// The outcomes that are stored of the commands of a batch, and those that it adds.
struct Inbox<'a> {
    /// The stored outcomes, by tenant and key.
    stored: HashMap<(Token, String), StoredOutcome>,
    /// The states of the tenants.
    tenants: HashMap<Token, Option<TenantState>>,
    /// The commands that the batch has decided, each with its place in it.
    decided: Vec<(&'a Command, usize)>,
    /// The aggregates of commands that were decided before.
    repeated: BTreeSet<&'a Address>,
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

/// Begins a transaction with the session's `lock_timeout` (500 ms).
pub const BEGIN: &str = "BEGIN";
/// Begins one that waits for a lock only briefly, since something is known to be locked: a lock of
/// another handler is gone within some milliseconds, and any other may stay.
pub const BEGIN_BRIEF: &str = "BEGIN; set local lock_timeout = '50ms'";

/// The commands that are decided in one transaction.
pub struct CommandBatch<'a> {
    /// Each with the check of its password.
    pub commands: &'a [(&'a Command, Option<&'a Checked>)],
    /// Everything that the commands lacked when they were decided before.
    pub missing: &'a BTreeSet<Missing>,
    /// Versions that are known to be projected, whose backlog entries are deleted.
    pub projected: &'a [(Address, u64)],
}

/// Decides a batch and commits.
///
/// # Errors
/// If Postgres refuses a statement; then nothing of the batch is decided, or all of it (a lost
/// answer to the commit), which the next try finds in the inbox.
pub async fn decide(
    cx: &Context,
    lock_policy: &LockPolicy,
    postgres: &mut PgConnection,
    batch: &CommandBatch<'_>,
    begin: &'static str,
) -> sqlx::Result<Decided> {
    let mut tx = postgres.begin_with(begin).await?;
    let commands: Vec<&Command> = batch.commands.iter().map(|(command, _)| *command).collect();
    let mut loaded = load_batch(&mut tx, &commands, batch.missing).await?;
    let inputs = load_auth_inputs(&mut tx, &commands, batch.missing, &mut loaded).await?;
    let LoadedBatch { now, outcomes, states, locked, fencing_tokens, backlog, .. } = loaded;
    let mut inbox = Inbox::new(outcomes, loaded.tenants);
    let mut state =
        BatchState::new(states, locked, lock_policy.clone(), fencing_tokens).with_users(inputs);
    let answers = inbox.decide(&mut state, batch.commands, now);
    cx.fail.point("command-handler.before_write").await;
    let changed: Vec<State> = state.changed().cloned().collect();
    save(&mut tx, &changed, &state).await?;
    let outcomes = inbox.decided.iter();
    let outcomes = outcomes.filter_map(|(command, at)| Some((*command, answers[*at].as_ref()?)));
    let written = Record {
        now,
        outcomes: outcomes.map(|(command, answer)| (command, answer.body.as_str())).collect(),
        events: state.events(),
        changed: &changed,
        projected: batch.projected,
    };
    record(&mut tx, written).await?;
    cx.fail.point("command-handler.before_commit").await;
    tx.commit().await?;
    let repeats = state.repeat_events().iter().map(|(address, _)| shard_of(address));
    let shards = state.events().iter().map(|event| shard_of(&event.address)).chain(repeats);
    // A repeated command may be one whose handler died before it projected anything.
    let repeated = inbox.repeated.iter().filter(|address| backlog.contains(**address));
    let unprojected = repeated.filter_map(|address| state.unchanged(address));
    Ok(Decided {
        missing: state.missing().clone(),
        to_project: unprojected.cloned().chain(changed.iter().cloned()).collect(),
        to_reproject: state.reprojected().cloned().collect(),
        lock_metrics: state.metrics().to_vec(),
        shards: shards.fold(0, |mask, shard| mask | 1 << shard),
        answers,
    })
}

/// Saves everything that changed; one statement for each kind.
async fn save(
    connection: &mut PgConnection,
    changed: &[State],
    state: &BatchState,
) -> sqlx::Result<()> {
    // An aggregate that nothing saves is a field that nothing uses, and does not compile.
    let StatesByKind { carts, orders, payments, tables, users, locks } = changed.into();
    store::locks::save(connection, &locks).await?;
    store::locks::save_history(connection, state.history()).await?;
    store::tables::save(connection, &tables).await?;
    store::tables::save_turns(connection, &state.turns().collect::<Vec<_>>()).await?;
    store::carts::save(connection, &carts).await?;
    store::orders::save(connection, &orders).await?;
    store::payments::save(connection, &payments).await?;
    let refund_tasks: Vec<_> = state.refund_tasks().collect();
    store::payments::save_refund_tasks(connection, &refund_tasks).await?;
    store::users::save(connection, &users).await?;
    store::login_failures::save(connection, state.throttle()).await?;
    store::security_log::save(connection, state.security()).await?;
    store::outbox::repeat_parts(connection, state.repeat_events()).await?;
    Ok(())
}

impl<'a> Inbox<'a> {
    fn new(
        rows: HashMap<(Token, String), OutcomeRow>,
        tenants: HashMap<Token, Option<TenantState>>,
    ) -> Self {
        let stored = rows.into_iter().map(|(key, row)| (key, StoredOutcome::from(row))).collect();
        Self { stored, tenants, decided: Vec::new(), repeated: BTreeSet::new() }
    }

    /// Returns the refusal of a command whose tenant is not registered or suspended. What a worker
    /// sends is decided all the same, so that nothing is stuck: a deadline passes, a lock ends.
    fn refusal_of_tenant(&self, command: &Command) -> Option<Refusal> {
        let state = self.tenants.get(&command.tenant).copied().flatten();
        tenant::admit(state).err().filter(|_| !command.is_of_worker)
    }

    /// Decides commands in their order, but for those that have their outcome and those of tenants
    /// that are not served. Returns an answer for each; `None` if it lacks something.
    fn decide(
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
                answers.push(Some(repeated_answer(command, stored)));
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
            if let Some(answer) = answer.as_ref().filter(|answer| answer.is_final()) {
                self.stored.insert(key, StoredOutcome::new(command, answer.clone()));
                self.decided.push((command, answers.len()));
            }
            answers.push(answer);
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
