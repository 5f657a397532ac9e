//! One batch of commands, one transaction.
//!
//! Lock and load (`brigade.load_batch`) → decide in memory, in order of arrival → one statement for
//! each kind of aggregate that changed, and one for all that every batch writes → commit. The
//! number of statements does not depend on the number of commands.

use std::collections::BTreeSet;

use brigade_contracts::{
    Address, Command, Timestamp, cart::SecretKey, planted::PlantedBug, shard_of,
};
use brigade_domain::{BatchState, Hook, LockMetric, LockPolicy, Missing, State, user::Checked};
use sqlx::{Connection, PgConnection};

use super::{
    answer::Answer,
    auth_inputs::load_auth_inputs,
    inbox::Inbox,
    load_batch::{LoadedBatch, load_batch},
    money_pushes::{self, MoneyPush},
    record::{Record, record},
};
use crate::{
    infra::Context,
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
    pub to_restore: Vec<Address>,
    /// Decisions about locks, to be counted.
    pub lock_metrics: Vec<LockMetric>,
    /// Bit mask of the outbox shards that got events.
    pub shards: u16,
    /// The requests to the tenants' programs.
    pub hooks: Vec<Hook>,
    /// The pushes about money that waits for a person.
    pub pushes: Vec<MoneyPush>,
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
    secret_key: &SecretKey,
    postgres: &mut PgConnection,
    batch: &CommandBatch<'_>,
    begin: &'static str,
) -> sqlx::Result<Decided> {
    let mut tx = postgres.begin_with(begin).await?;
    let commands: Vec<&Command> = batch.commands.iter().map(|(command, _)| *command).collect();
    let mut loaded = load_batch(&mut tx, cx.era, &commands, batch.missing).await?;
    let inputs = load_auth_inputs(&mut tx, &commands, batch.missing, &mut loaded).await?;
    let LoadedBatch { now, outcomes, states, locked, fencing_tokens, backlog, .. } = loaded;
    let mut inbox = Inbox::new(outcomes, loaded.tenants, secret_key);
    let mut state = BatchState::new(states, locked, lock_policy.clone(), fencing_tokens)
        .with_users(inputs)
        .with_secret_key(secret_key.clone())
        .in_era(cx.era);
    let answers = inbox.decide(&mut state, batch.commands, now);
    cx.fail.point("command-handler.before_write").await;
    let changed: Vec<State> = state.changed().cloned().collect();
    save(&mut tx, now, &changed, &state).await?;
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
    if PlantedBug::AnswerBeforeCommit.is_planted() {
        sqlx::query("set local synchronous_commit = off").execute(&mut *tx).await?;
    }
    tx.commit().await?;
    let repeats = state.repeat_events().iter().map(|(address, _)| shard_of(address));
    let shards = state.events().iter().map(|event| shard_of(&event.address)).chain(repeats);
    // A repeated command may be one whose handler died before it projected anything.
    let repeated = inbox.repeated.iter().filter(|address| backlog.contains(**address));
    let unprojected = repeated.filter_map(|address| state.unchanged(address));
    Ok(Decided {
        missing: state.missing().clone(),
        to_project: unprojected.cloned().chain(changed.iter().cloned()).collect(),
        to_restore: state.reprojected().map(|state| state.head().address.clone()).collect(),
        lock_metrics: state.metrics().to_vec(),
        hooks: state.hooks().to_vec(),
        pushes: money_pushes::of(&state),
        shards: shards.fold(0, |mask, shard| mask | 1 << shard),
        answers,
    })
}

/// Saves everything that changed; one statement for each kind.
async fn save(
    connection: &mut PgConnection,
    now: Timestamp,
    changed: &[State],
    state: &BatchState,
) -> sqlx::Result<()> {
    // An aggregate that nothing saves is a field that nothing uses, and does not compile.
    let StatesByKind { carts, orders, payments, tables, users, products, locks } = changed.into();
    store::locks::save(connection, &locks).await?;
    store::locks::save_history(connection, state.history()).await?;
    store::products::save(connection, &products).await?;
    store::tables::save(connection, &tables).await?;
    store::tables::save_turns(connection, &state.turns().collect::<Vec<_>>()).await?;
    store::carts::save(connection, &carts).await?;
    store::orders::save(connection, &orders).await?;
    store::orders::save_people(connection, &carts).await?;
    store::payments::save(connection, &payments).await?;
    let refund_tasks: Vec<_> = state.refund_tasks().collect();
    if !PlantedBug::RefundTaskDropped.is_planted() {
        store::payments::save_refund_tasks(connection, &refund_tasks).await?;
    }
    store::ledger::save(connection, now, state.ledger()).await?;
    store::named_people::save(connection, state.named()).await?;
    store::users::save(connection, &users).await?;
    store::login_failures::save(connection, state.throttle()).await?;
    store::security_log::save(connection, state.security()).await?;
    store::people::erase(connection, state.erased()).await?;
    store::outbox::repeat_parts(connection, state.repeat_events()).await?;
    Ok(())
}
