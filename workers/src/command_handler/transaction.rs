//! One batch of commands, one transaction.
//!
//! Lock and read (`brigade.take_batch`) → decide in memory, in order of arrival → one statement for
//! each kind of aggregate that changed, and one for all that every batch writes → commit. The number
//! of statements does not depend on the number of commands.

use std::collections::{BTreeSet, HashMap};

use brigade_contracts::{
    Address, Aggregate, Body, Command, Outcome, Refusal, Timestamp, Token, cart,
};
use serde::Deserialize;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::{carts, orders};
use crate::{
    domain::{Event, LockPolicy, Mode, Reach, State, World},
    outbox_relay::shard_of,
    runtime::Context,
    store::{carts::from_row as cart_of, orders::from_row as order_of, rows::parse},
};

/// What a batch came to.
pub struct Decided {
    /// One a command.
    pub answers: Vec<Answer>,
    /// Aggregates whose newest state may not stand in KV yet.
    pub to_show: Vec<State>,
    /// Bit mask of the outbox shards that got events.
    pub shards: u16,
}

/// An outcome as it is sent.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// It was decided before; this is a repetition.
    pub again: bool,
    /// Its Command-Id belongs to another command; this is no outcome, and is not stored.
    pub reused: bool,
}

impl Answer {
    /// # Panics
    /// Never: an outcome serialises.
    #[must_use]
    pub fn new(outcome: &Outcome) -> Self {
        let body = serde_json::to_string(outcome).expect("an outcome serialises");
        Self { status: outcome.status, body, again: false, reused: false }
    }
}

/// A stored outcome, and what it was decided for.
struct Before {
    target: String,
    payload_hash: Vec<u8>,
    answer: Answer,
}

type CommandKey = (Token, Token);

/// What is read of a stored outcome; the rest is sent as it is.
#[derive(Deserialize)]
struct Status {
    status: u16,
}

/// Decides a batch and commits. `shown` are versions known to stand in KV, whose notes go.
///
/// # Errors
/// Those of Postgres; then nothing of the batch is decided, or all of it (a lost answer to the
/// commit), which the next try finds in the inbox.
pub async fn decide(
    cx: &Context,
    postgres: &mut PgConnection,
    commands: &[Command],
    shown: &[(Address, u64)],
) -> sqlx::Result<Decided> {
    let mut tx = postgres.begin().await?;
    let Taken { now, mut before, states, unshown } = take(&mut tx, commands).await?;
    let reach = reach(commands, &states);
    let mut world = World::new(states, reach, LockPolicy::default(), []);
    let mut answers = Vec::with_capacity(commands.len());
    let mut fresh: Vec<(&Command, usize)> = Vec::new();
    let mut repeated: BTreeSet<&Address> = BTreeSet::new();
    for command in commands {
        let key = (command.tenant.clone(), command.command_id.clone());
        if let Some(before) = before.get(&key) {
            answers.push(answer_again(command, before));
            repeated.extend(command.request.as_ref().ok().map(|request| &request.address));
            continue;
        }
        let Some(outcome) = world.decide(command, now) else {
            return Err(sqlx::Error::Protocol(format!("out of reach: {:?}", world.wanted())));
        };
        let answer = Answer::new(&outcome);
        before.insert(key, Before::new(command, answer.clone()));
        fresh.push((command, answers.len()));
        answers.push(answer);
    }
    cx.fail.point("command-handler.before_write").await;
    let changed: Vec<State> = world.changed().cloned().collect();
    save(&mut tx, &changed).await?;
    let outcomes = fresh.iter().map(|(command, at)| (*command, answers[*at].body.as_str()));
    record(&mut tx, now, &outcomes.collect::<Vec<_>>(), world.events(), &changed, shown).await?;
    cx.fail.point("command-handler.before_commit").await;
    tx.commit().await?;
    let shards = world.events().iter().fold(0, |mask, e| mask | 1 << shard_of(&e.address));
    // A repeated command may be one whose handler died before it showed anything.
    let noted = |address: &&&Address| unshown.contains(**address);
    let again = repeated.iter().filter(noted).filter_map(|address| world.unchanged(address));
    let to_show = again.cloned().chain(changed.iter().cloned()).collect();
    Ok(Decided { answers, to_show, shards })
}

/// What is locked: the aggregates that are asked for. No lock of an owner is read yet, so none is
/// taken either: that needs the owner exclusively.
fn reach(commands: &[Command], loaded: &[State]) -> Reach {
    let lock = |tenant: &Token, owner: &Token| Address {
        tenant: tenant.clone(),
        aggregate: Aggregate::Lock,
        id: owner.clone(),
    };
    let carts = loaded.iter().filter_map(State::cart);
    let mut owners: HashMap<_, _> =
        carts.map(|cart| (lock(&cart.head.address.tenant, &cart.owner), Mode::Shared)).collect();
    let requests = || commands.iter().filter_map(|command| command.request.as_ref().ok());
    for request in requests() {
        if let Body::Cart(cart::Verb::Open(open)) = &request.body {
            owners.insert(lock(&request.address.tenant, &open.owner), Mode::Shared);
        }
    }
    let addresses = requests().map(|request| request.address.clone()).collect();
    Reach { addresses, owners, ..Reach::default() }
}

async fn save(tx: &mut Transaction<'_, Postgres>, changed: &[State]) -> sqlx::Result<()> {
    let all: Vec<_> = changed.iter().filter_map(State::cart).collect();
    carts::save(tx, &all).await?;
    let all: Vec<_> = changed.iter().filter_map(State::order).collect();
    orders::save(tx, &all).await
}

impl Before {
    fn new(command: &Command, answer: Answer) -> Self {
        Self {
            target: command.target.clone(),
            payload_hash: command.payload_hash.to_vec(),
            answer: Answer { again: true, ..answer },
        }
    }

    fn stored(row: OutcomeRow) -> Self {
        // The door does not count: `<door>.<target>`.
        let target = row.subject.split_once('.').map_or("", |(_, target)| target).to_owned();
        let status = serde_json::from_str(&row.outcome).map_or(500, |Status { status }| status);
        let answer = Answer { status, body: row.outcome, again: true, reused: false };
        let payload_hash = hex::decode(row.payload_hash).unwrap_or_default();
        Self { target, payload_hash, answer }
    }

    /// Whether it is the outcome of this very command, whichever door it takes now.
    fn is_of(&self, command: &Command) -> bool {
        self.target == command.target && self.payload_hash == command.payload_hash
    }
}

fn answer_again(command: &Command, before: &Before) -> Answer {
    if before.is_of(command) {
        return before.answer.clone();
    }
    let message = "this Command-Id was used for another command";
    let refusal = Refusal::new(409, "command_id_reused", message);
    Answer { reused: true, ..Answer::new(&Outcome::refused(command, refusal, None)) }
}

/// What a batch begins with.
struct Taken {
    /// The database's clock.
    now: Timestamp,
    /// Stored outcomes of these commands.
    before: HashMap<CommandKey, Before>,
    /// The aggregates that the commands name, locked.
    states: Vec<State>,
    /// Of the aggregates of commands that were decided before those that KV may not show.
    unshown: BTreeSet<Address>,
}

/// A stored outcome, as `brigade.take_batch` tells it.
#[derive(Deserialize)]
struct OutcomeRow {
    tenant: Token,
    command_id: Token,
    subject: String,
    /// In hexadecimal digits.
    payload_hash: String,
    outcome: String,
}

#[derive(Deserialize)]
struct UnshownRow {
    tenant: Token,
    aggregate: Aggregate,
    id: Token,
}

/// Locks and reads what the commands name, in one round trip; see `migrations/0006_batches.sql`.
async fn take(tx: &mut Transaction<'_, Postgres>, commands: &[Command]) -> sqlx::Result<Taken> {
    let text = |f: fn(&Command) -> &str| commands.iter().map(f).collect::<Vec<_>>();
    let requests = commands.iter().filter_map(|command| command.request.as_ref().ok());
    let named: BTreeSet<&Address> = requests.map(|request| &request.address).collect();
    let part = |f: fn(&Address) -> &str| named.iter().map(|a| f(a)).collect::<Vec<_>>();
    let rows = sqlx::query!(
        r#"select kind as "kind!", body as "body!" from brigade.take_batch($1, $2, $3, $4, $5)"#,
        &text(|c| c.tenant.as_str()) as _,
        &text(|c| c.command_id.as_str()) as _,
        &part(|a| a.tenant.as_str()) as _,
        &part(|a| a.aggregate.as_str()) as _,
        &part(|a| a.id.as_str()) as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut now = None;
    let (mut before, mut states) = (HashMap::new(), Vec::with_capacity(rows.len()));
    let mut unshown = BTreeSet::new();
    for row in &rows {
        match row.kind.as_str() {
            "clock" => now = Some(parse(&row.body)?),
            "outcome" => {
                let row: OutcomeRow = parse(&row.body)?;
                before.insert((row.tenant.clone(), row.command_id.clone()), Before::stored(row));
            }
            "unshown" => {
                let UnshownRow { tenant, aggregate, id } = parse(&row.body)?;
                unshown.insert(Address { tenant, aggregate, id });
            }
            "cart" => states.push(State::Cart(cart_of(&row.body)?)),
            "order" => states.push(State::Order(order_of(&row.body)?)),
            other => return Err(sqlx::Error::Decode(format!("a row of kind {other:?}").into())),
        }
    }
    Ok(Taken { now: now.ok_or(sqlx::Error::RowNotFound)?, before, states, unshown })
}

/// Whether a command has its outcome, whichever door it took.
///
/// # Errors
/// Those of Postgres.
pub async fn is_decided(postgres: &PgPool, command: &Command) -> sqlx::Result<bool> {
    let mut tx = postgres.begin().await?;
    let taken = take(&mut tx, std::slice::from_ref(command)).await?;
    Ok(taken.before.values().any(|before| before.is_of(command)))
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
    let event = |f: fn(&Event) -> &str| events.iter().map(f).collect::<Vec<_>>();
    let event_ids: Vec<Uuid> = events.iter().map(|_| Uuid::now_v7()).collect();
    let event_versions: Vec<i64> = events.iter().map(|e| e.version.cast_signed()).collect();
    let payloads: Vec<String> =
        events.iter().map(|e| serde_json::to_string(&e.payload).unwrap_or_default()).collect();
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
        "src/command_handler/record.sql",
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
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
