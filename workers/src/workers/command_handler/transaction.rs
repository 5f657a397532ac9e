//! One batch of commands, one transaction.
//!
//! Lock and read (`brigade.take_batch`) → decide in memory, in order of arrival → one statement for
//! each kind of aggregate that changed, and one for all that every batch writes → commit. The
//! number of statements does not depend on the number of commands.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use brigade_contracts::{Address, Command, Outcome, Refusal, Timestamp, Token, shard_of};
use brigade_domain::{BatchState, Event, LockMetric, LockPolicy, Missing, State, user::Checked};
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::{
    answer::Answer,
    auth_inputs::load_auth_inputs,
    carts, locks, orders, payments, tables,
    take::{OutcomeRow, take},
    users,
};
use crate::{
    infra::{Context, postgres::bounded},
    store::outbox::repeat_parts,
};

/// What a batch came to.
pub struct Decided {
    /// One a command; `None`: it is decided in the next batch, which has to take what is wanted.
    pub answers: Vec<Option<Answer>>,
    pub wanted: BTreeSet<Missing>,
    /// Aggregates whose newest state may not stand in KV yet.
    pub to_show: Vec<State>,
    /// Those of which nothing that KV is believed to hold counts.
    pub show_again: Vec<State>,
    /// Decisions about locks, to be counted.
    pub lock_metrics: Vec<LockMetric>,
    /// Bit mask of the outbox shards that got events.
    pub shards: u16,
}

/// A stored outcome, and what it was decided for.
struct Before {
    target: String,
    payload_hash: Vec<u8>,
    answer: Answer,
}

/// Begins a transaction that waits for a lock as long as the session does.
pub const PATIENT: &str = "BEGIN";
/// Begins one that hardly waits for a lock, since something is known to be locked: a lock of
/// another handler is gone within some milliseconds, and any other may stay.
pub const HURRIED: &str = "BEGIN; set local lock_timeout = '50ms'";

/// What is decided in one transaction.
pub struct Batch<'a> {
    /// Each command, and beside it what its password came to.
    pub asked: &'a [(&'a Command, Option<&'a Checked>)],
    /// What its commands lacked when they were tried before.
    pub wanted: &'a BTreeSet<Missing>,
    /// Versions known to stand in KV, whose notes go.
    pub shown: &'a [(Address, u64)],
}

/// Decides a batch and commits.
///
/// # Errors
/// Those of Postgres; then nothing of the batch is decided, or all of it (a lost answer to the
/// commit), which the next try finds in the inbox.
pub async fn decide(
    cx: &Context,
    lock_policy: &LockPolicy,
    postgres: &mut PgConnection,
    batch: &Batch<'_>,
    begin: &'static str,
) -> sqlx::Result<Decided> {
    let &Batch { asked, wanted, shown } = batch;
    let mut tx = postgres.begin_with(begin).await?;
    let commands: Vec<&Command> = asked.iter().map(|(command, _)| *command).collect();
    let mut taken = take(&mut tx, &commands, wanted).await?;
    let inputs = load_auth_inputs(&mut tx, &commands, wanted, &mut taken).await?;
    let now = taken.now;
    let mut before: HashMap<_, _> =
        taken.outcomes.into_iter().map(|(key, row)| (key, Before::stored(row))).collect();
    let mut world =
        BatchState::new(taken.states, taken.reach, lock_policy.clone(), taken.fencing_tokens)
            .with_users(inputs);
    let mut answers: Vec<Option<Answer>> = Vec::with_capacity(commands.len());
    let mut fresh: Vec<(&Command, usize)> = Vec::new();
    let mut repeated: BTreeSet<&Address> = BTreeSet::new();
    for &(command, checked) in asked {
        let key = (command.tenant.clone(), command.command_id.clone());
        let anew = |before: &&Before| command.is_decided_anew() && before.is_of(command);
        if let Some(before) = before.get(&key).filter(|before| !anew(before)) {
            answers.push(Some(answer_again(command, before)));
            repeated.extend(command.request.as_ref().ok().map(|request| &request.address));
            continue;
        }
        let decided = world.decide_checked(command, now, checked);
        let answer =
            decided.map(|(outcome, tokens)| Answer::with_tokens(&outcome, tokens.as_ref()));
        if let Some(answer) = answer.as_ref().filter(|answer| answer.is_final()) {
            before.insert(key, Before::new(command, answer.clone()));
            fresh.push((command, answers.len()));
        }
        answers.push(answer);
    }
    cx.fail.point("command-handler.before_write").await;
    let changed: Vec<State> = world.changed().cloned().collect();
    save(&mut tx, &changed, &world).await?;
    let outcomes = fresh
        .iter()
        .filter_map(|(command, at)| Some((*command, answers[*at].as_ref()?.body.as_str())));
    let (anew, outcomes): (Vec<_>, Vec<_>) = outcomes.partition(|(c, _)| c.is_decided_anew());
    record_anew(&mut tx, now, &anew).await?;
    record(&mut tx, now, &outcomes, world.events(), &changed, shown).await?;
    cx.fail.point("command-handler.before_commit").await;
    tx.commit().await?;
    let repeats = world.repeat_events().iter().map(|(address, _)| shard_of(address));
    let shards = world.events().iter().map(|event| shard_of(&event.address)).chain(repeats);
    // A repeated command may be one whose handler died before it showed anything.
    let noted = |address: &&&Address| taken.unshown.contains(**address);
    let again = repeated.iter().filter(noted).filter_map(|address| world.unchanged(address));
    Ok(Decided {
        wanted: world.missing().clone(),
        to_show: again.cloned().chain(changed.iter().cloned()).collect(),
        show_again: world.reprojected().cloned().collect(),
        lock_metrics: world.metrics().to_vec(),
        shards: shards.fold(0, |mask, shard| mask | 1 << shard),
        answers,
    })
}

/// One statement for each kind that changed.
async fn save(
    tx: &mut Transaction<'_, Postgres>,
    changed: &[State],
    world: &BatchState,
) -> sqlx::Result<()> {
    let all: Vec<_> = changed.iter().filter_map(State::lock).collect();
    locks::save(tx, &all).await?;
    locks::record(tx, world.history()).await?;
    let all: Vec<_> = changed.iter().filter_map(State::table).collect();
    tables::save(tx, &all).await?;
    let all: Vec<_> = world.turns().collect();
    tables::save_turns(tx, &all).await?;
    let all: Vec<_> = changed.iter().filter_map(State::cart).collect();
    carts::save(tx, &all).await?;
    let all: Vec<_> = changed.iter().filter_map(State::order).collect();
    orders::save(tx, &all).await?;
    let all: Vec<_> = changed.iter().filter_map(State::payment).collect();
    payments::save(tx, &all).await?;
    let tasks: Vec<_> = world.refund_tasks().collect();
    payments::save_tasks(tx, &tasks).await?;
    let all: Vec<_> = changed.iter().filter_map(State::user).collect();
    users::save(tx, &all).await?;
    users::save_failures(tx, world.throttle()).await?;
    repeat_parts(tx, world.repeat_events()).await?;
    Ok(())
}

impl Before {
    fn new(command: &Command, answer: Answer) -> Self {
        Self {
            target: command.target.clone(),
            payload_hash: command.payload_hash.to_vec(),
            answer: answer.repeated(),
        }
    }

    fn stored(row: OutcomeRow) -> Self {
        let payload_hash = hex::decode(row.payload_hash).unwrap_or_default();
        let target = target(&row.subject).to_owned();
        Self { target, payload_hash, answer: Answer::stored(row.outcome) }
    }

    /// Whether it is the outcome of this very command, whichever door it takes now.
    fn is_of(&self, command: &Command) -> bool {
        is_of(command, &self.target, &self.payload_hash)
    }
}

/// What a stored command was sent to. The door does not count: `<door>.<target>`.
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

fn answer_again(command: &Command, before: &Before) -> Answer {
    if before.is_of(command) {
        return before.answer.clone();
    }
    let message = "this Command-Id was used for another command";
    let refusal = Refusal::new(409, "command_id_reused", message);
    let mut answer = Answer::new(&Outcome::refused(command, refusal, None));
    answer.reused = true;
    answer
}

/// Whether a command has its outcome, whichever door it took. Takes no locks: this is asked when
/// something is wrong, and must not wait for the same.
///
/// # Errors
/// Those of Postgres.
pub async fn is_decided(postgres: &PgPool, command: &Command) -> sqlx::Result<bool> {
    let found = bounded(postgres, async |connection| {
        sqlx::query!(
            "select subject, payload_hash from brigade.command_inbox
             where (tenant, command_id) = ($1, $2)",
            command.tenant.as_str(),
            command.command_id.as_str(),
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
/// Those of Postgres.
pub async fn decided_since<'a>(
    postgres: &PgPool,
    commands: &'a [(u64, Command)],
    since: Duration,
) -> sqlx::Result<Vec<&'a (u64, Command)>> {
    let tenants: Vec<_> = commands.iter().map(|(_, command)| command.tenant.as_str()).collect();
    let ids: Vec<_> = commands.iter().map(|(_, command)| command.command_id.as_str()).collect();
    let found = bounded(postgres, async |connection| {
        sqlx::query!(
            "select i.tenant, i.command_id, i.subject, i.payload_hash
             from unnest($1::text[], $2::text[]) as asked (tenant, command_id)
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
        found.iter().map(|row| ((row.tenant.as_str(), row.command_id.as_str()), row)).collect();
    let is_decided = |(_, command): &&(u64, Command)| {
        let row = found.get(&(command.tenant.as_str(), command.command_id.as_str()));
        !command.is_decided_anew()
            && row.is_some_and(|row| is_of(command, target(&row.subject), &row.payload_hash))
    };
    Ok(commands.iter().filter(is_decided).collect())
}

/// Writes the outcomes of commands that are decided anew each time, over earlier ones. Where the id
/// was given to another command meanwhile, nothing is written, and the next try finds that.
async fn record_anew(
    tx: &mut Transaction<'_, Postgres>,
    now: Timestamp,
    outcomes: &[(&Command, &str)],
) -> sqlx::Result<()> {
    // Sorted like all that takes locks, and of each the last.
    let outcomes: BTreeMap<_, _> =
        outcomes.iter().map(|(c, body)| ((&c.tenant, &c.command_id), (*c, *body))).collect();
    if outcomes.is_empty() {
        return Ok(());
    }
    let column = |f: fn(&Command) -> &str| outcomes.values().map(|(c, _)| f(c)).collect::<Vec<_>>();
    let subjects: Vec<String> =
        outcomes.values().map(|(c, _)| format!("{}.{}", c.door.prefix(), c.target)).collect();
    let hashes: Vec<&[u8]> = outcomes.values().map(|(c, _)| &c.payload_hash[..]).collect();
    let bodies: Vec<&str> = outcomes.values().map(|(_, body)| *body).collect();
    let actors: Vec<_> =
        outcomes.values().map(|(c, _)| c.actor.as_ref().map(Token::as_str)).collect();
    let written = sqlx::query!(
        "insert into brigade.command_inbox as inbox
             (tenant, command_id, subject, payload_hash, outcome, actor, decided_at)
         select tenant, command_id, subject, payload_hash, outcome::json, actor, $1
         from unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[])
              as new (tenant, command_id, subject, payload_hash, outcome, actor)
         on conflict (tenant, command_id)
         do update set outcome = excluded.outcome, decided_at = excluded.decided_at
         where inbox.subject = excluded.subject",
        now.inner(),
        &column(|c| c.tenant.as_str()) as _,
        &column(|c| c.command_id.as_str()) as _,
        &subjects,
        &hashes as _,
        &bodies as _,
        &actors as _,
    )
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if written < outcomes.len() as u64 {
        return Err(sqlx::Error::RowNotFound);
    }
    Ok(())
}

/// Writes outcomes, events with their outbox rows, and the notes of what has to be shown. The
/// sequence of events is drawn while the aggregates are locked, so within an aggregate it grows
/// in the order of commits.
async fn record(
    tx: &mut Transaction<'_, Postgres>,
    now: Timestamp,
    outcomes: &[(&Command, &str)],
    events: &[Event],
    changed: &[State],
    shown: &[(Address, u64)],
) -> sqlx::Result<()> {
    let outcome = |f: fn(&Command) -> &str| outcomes.iter().map(|o| f(o.0)).collect::<Vec<_>>();
    let subjects: Vec<String> =
        outcomes.iter().map(|(c, _)| format!("{}.{}", c.door.prefix(), c.target)).collect();
    let hashes: Vec<&[u8]> = outcomes.iter().map(|(c, _)| &c.payload_hash[..]).collect();
    let bodies: Vec<&str> = outcomes.iter().map(|(_, body)| *body).collect();
    let actors: Vec<_> =
        outcomes.iter().map(|(c, _)| c.actor.as_ref().map(Token::as_str)).collect();
    let event = |f: fn(&Event) -> &str| events.iter().map(f).collect::<Vec<_>>();
    let event_ids: Vec<Uuid> = events.iter().map(|_| Uuid::now_v7()).collect();
    let event_versions: Vec<i64> = events.iter().map(|e| e.version.cast_signed()).collect();
    let payloads: Vec<String> = events
        .iter()
        .map(|e| serde_json::to_string(&e.payload).expect("payloads serialise"))
        .collect();
    let traces: Vec<_> = events.iter().map(|e| e.traceparent.as_deref()).collect();
    let shards: Vec<i16> = events.iter().map(|e| i16::from(shard_of(&e.address))).collect();
    let raised =
        |f: fn(&Address) -> &str| changed.iter().map(|s| f(&s.head().address)).collect::<Vec<_>>();
    let versions: Vec<i64> = changed.iter().map(|s| s.head().version.cast_signed()).collect();
    let anew: BTreeSet<_> = changed.iter().map(|state| &state.head().address).collect();
    let gone: Vec<_> = shown.iter().filter(|(address, _)| !anew.contains(address)).collect();
    let shown = |f: fn(&Address) -> &str| gone.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
    let shown_versions: Vec<i64> = gone.iter().map(|(_, v)| v.cast_signed()).collect();
    sqlx::query_file!(
        "src/workers/command_handler/record.sql",
        now.inner(),
        &outcome(|c| c.tenant.as_str()) as _,
        &outcome(|c| c.command_id.as_str()) as _,
        &subjects,
        &hashes as _,
        &bodies as _,
        &event_ids,
        &event(|e| e.address.tenant.as_str()) as _,
        &event(|e| e.address.aggregate.as_str()) as _,
        &event(|e| e.address.id.as_str()) as _,
        &event_versions,
        &event(|e| e.kind.name) as _,
        &payloads,
        &event(|e| e.command_id.as_str()) as _,
        &traces as _,
        &shards,
        &raised(|a| a.tenant.as_str()) as _,
        &raised(|a| a.aggregate.as_str()) as _,
        &raised(|a| a.id.as_str()) as _,
        &versions,
        &shown(|a| a.tenant.as_str()) as _,
        &shown(|a| a.aggregate.as_str()) as _,
        &shown(|a| a.id.as_str()) as _,
        &shown_versions,
        &actors as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
