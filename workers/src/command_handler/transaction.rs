//! One batch of commands, one transaction.
//!
//! Lock the aggregates, sorted → read inbox and clock, in a statement that starts after the
//! locks are held (what another handler has just decided is seen) → decide in memory, in order of
//! arrival → one statement a table → commit. The number of statements does not depend on the
//! number of commands.

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
    let addresses: BTreeSet<&Address> = commands
        .iter()
        .filter_map(|command| command.request.as_ref().ok())
        .map(|request| &request.address)
        .collect();
    let mut tx = postgres.begin().await?;
    let loaded = lock(&mut tx, &addresses).await?;
    let (now, mut before) = decided_before(&mut tx, commands).await?;
    let reach = reach(commands, &addresses, &loaded);
    let mut world = World::new(loaded, reach, LockPolicy::default(), []);
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
    if !fresh.is_empty() {
        let outcomes = fresh.iter().map(|(command, at)| (*command, answers[*at].body.as_str()));
        store_outcomes(&mut tx, outcomes, now).await?;
    }
    let changed: Vec<State> = world.changed().cloned().collect();
    if !changed.is_empty() {
        save(&mut tx, &changed).await?;
        store_events(&mut tx, world.events()).await?;
        note_unshown(&mut tx, &changed, now).await?;
    }
    // A repeated command may be one whose handler died before it showed anything.
    let mut to_show = unshown_of(&mut tx, &world, &repeated).await?;
    super::notes::delete(&mut tx, shown).await?;
    cx.fail.point("command-handler.before_commit").await;
    tx.commit().await?;
    let shards = world.events().iter().fold(0, |mask, e| mask | 1 << shard_of(&e.address));
    to_show.extend(changed);
    Ok(Decided { answers, to_show, shards })
}

/// Locks and reads, kind after kind and each by key: the order in which everybody locks.
async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    addresses: &BTreeSet<&Address>,
) -> sqlx::Result<Vec<State>> {
    let carts = carts::lock(tx, addresses).await?.into_iter().map(State::Cart);
    let orders = orders::lock(tx, addresses).await?.into_iter().map(State::Order);
    Ok(carts.chain(orders).collect())
}

/// What is locked: the aggregates that are asked for. No lock of an owner is read yet, so none is
/// taken either: that needs the owner exclusively.
fn reach(commands: &[Command], addresses: &BTreeSet<&Address>, loaded: &[State]) -> Reach {
    let lock = |tenant: &Token, owner: &Token| Address {
        tenant: tenant.clone(),
        aggregate: Aggregate::Lock,
        id: owner.clone(),
    };
    let carts = loaded.iter().filter_map(State::cart);
    let mut owners: HashMap<_, _> =
        carts.map(|cart| (lock(&cart.head.address.tenant, &cart.owner), Mode::Shared)).collect();
    for request in commands.iter().filter_map(|command| command.request.as_ref().ok()) {
        if let Body::Cart(cart::Verb::Open(open)) = &request.body {
            owners.insert(lock(&request.address.tenant, &open.owner), Mode::Shared);
        }
    }
    let addresses = addresses.iter().map(|address| (*address).clone()).collect();
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

/// The database's clock, and the stored outcomes of these commands.
async fn decided_before(
    tx: &mut Transaction<'_, Postgres>,
    commands: &[Command],
) -> sqlx::Result<(Timestamp, HashMap<CommandKey, Before>)> {
    let tenants: Vec<&str> = commands.iter().map(|c| c.tenant.as_str()).collect();
    let ids: Vec<&str> = commands.iter().map(|c| c.command_id.as_str()).collect();
    // The left join gives the clock also where nothing was decided before.
    let rows = sqlx::query!(
        r#"select clock.now as "now!", i.tenant as "tenant?", i.command_id as "command_id?",
                  i.subject as "subject?", i.payload_hash as "payload_hash?",
                  i.outcome::text as "outcome?"
           from (select clock_timestamp() as now) clock
           left join (
               select inbox.* from unnest($1::text[], $2::text[]) as asked (tenant, command_id)
               join brigade.command_inbox inbox using (tenant, command_id)
           ) i on true"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut now = None;
    let mut before = HashMap::new();
    for row in rows {
        now = Some(Timestamp::from(row.now));
        let (Some(tenant), Some(id), Some(subject), Some(payload_hash), Some(body)) =
            (row.tenant, row.command_id, row.subject, row.payload_hash, row.outcome)
        else {
            continue;
        };
        let (Ok(tenant), Ok(id)) = (Token::new(&tenant), Token::new(&id)) else { continue };
        // The door does not count: `<door>.<target>`.
        let target = subject.split_once('.').map_or("", |(_, target)| target).to_owned();
        let status = serde_json::from_str::<Status>(&body).map_or(500, |outcome| outcome.status);
        let answer = Answer { status, body, again: true, reused: false };
        before.insert((tenant, id), Before { target, payload_hash, answer });
    }
    Ok((now.ok_or(sqlx::Error::RowNotFound)?, before))
}

/// Whether a command has its outcome, whichever door it took.
///
/// # Errors
/// Those of Postgres.
pub async fn is_decided(postgres: &PgPool, command: &Command) -> sqlx::Result<bool> {
    let mut tx = postgres.begin().await?;
    let (_, before) = decided_before(&mut tx, std::slice::from_ref(command)).await?;
    Ok(before.values().any(|before| before.is_of(command)))
}

async fn store_outcomes<'a>(
    tx: &mut Transaction<'_, Postgres>,
    outcomes: impl Iterator<Item = (&'a Command, &'a str)>,
    now: Timestamp,
) -> sqlx::Result<()> {
    let mut sorted: Vec<_> = outcomes.collect();
    // Two handlers that get the same commands wait for each other instead of deadlocking.
    sorted.sort_by_key(|(command, _)| (&command.tenant, &command.command_id));
    let column =
        |f: fn(&'a Command) -> &'a str| sorted.iter().map(|(c, _)| f(c)).collect::<Vec<_>>();
    let subjects: Vec<String> =
        sorted.iter().map(|(c, _)| format!("{}.{}", c.door.prefix(), c.target)).collect();
    let hashes: Vec<&[u8]> = sorted.iter().map(|(c, _)| &c.payload_hash[..]).collect();
    let bodies: Vec<&str> = sorted.iter().map(|(_, body)| *body).collect();
    sqlx::query!(
        "insert into brigade.command_inbox
             (tenant, command_id, subject, payload_hash, outcome, decided_at)
         select tenant, command_id, subject, payload_hash, outcome::json, $6
         from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[])
              as new (tenant, command_id, subject, payload_hash, outcome)",
        &column(|c| c.tenant.as_str()) as _,
        &column(|c| c.command_id.as_str()) as _,
        &subjects,
        &hashes as _,
        &bodies as _,
        now.inner(),
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Events and their outbox rows. The sequence is drawn while the aggregates are locked, so
/// within an aggregate it grows in the order of commits.
async fn store_events(tx: &mut Transaction<'_, Postgres>, events: &[Event]) -> sqlx::Result<()> {
    let text = |f: fn(&Event) -> &str| events.iter().map(f).collect::<Vec<_>>();
    let ids: Vec<Uuid> = events.iter().map(|_| Uuid::now_v7()).collect();
    let versions: Vec<i64> = events.iter().map(|e| e.version.cast_signed()).collect();
    let payloads: Vec<String> =
        events.iter().map(|e| serde_json::to_string(&e.payload).unwrap_or_default()).collect();
    let times: Vec<_> = events.iter().map(|e| e.at.inner()).collect();
    let traces: Vec<_> = events.iter().map(|e| e.traceparent.as_deref()).collect();
    let shards: Vec<i16> = events.iter().map(|e| i16::from(shard_of(&e.address))).collect();
    sqlx::query_file!(
        "src/command_handler/store_events.sql",
        &ids,
        &text(|e| e.address.tenant.as_str()) as _,
        &text(|e| e.address.aggregate.as_str()) as _,
        &text(|e| e.address.id.as_str()) as _,
        &versions,
        &text(|e| e.kind.name) as _,
        &payloads,
        &times,
        &text(|e| e.command_id.as_str()) as _,
        &traces as _,
        &shards,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes what has to be shown. Sorted, as everything that takes locks.
async fn note_unshown(
    tx: &mut Transaction<'_, Postgres>,
    changed: &[State],
    now: Timestamp,
) -> sqlx::Result<()> {
    let text =
        |f: fn(&Address) -> &str| changed.iter().map(|s| f(&s.head().address)).collect::<Vec<_>>();
    let versions: Vec<i64> = changed.iter().map(|s| s.head().version.cast_signed()).collect();
    sqlx::query!(
        "insert into brigade.unshown as note (tenant, aggregate, id, version, at)
         select tenant, aggregate, id, version, $5
         from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
              as new (tenant, aggregate, id, version)
         on conflict (tenant, aggregate, id)
         do update set version = greatest(note.version, excluded.version), at = excluded.at",
        &text(|a| a.tenant.as_str()) as _,
        &text(|a| a.aggregate.as_str()) as _,
        &text(|a| a.id.as_str()) as _,
        &versions,
        now.inner(),
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Of the aggregates of repeated commands those that are noted as not shown, and that this batch
/// does not show anyway.
async fn unshown_of(
    tx: &mut Transaction<'_, Postgres>,
    world: &World,
    repeated: &BTreeSet<&Address>,
) -> sqlx::Result<Vec<State>> {
    if repeated.is_empty() {
        return Ok(Vec::new());
    }
    let text = |f: fn(&Address) -> &str| repeated.iter().map(|a| f(a)).collect::<Vec<_>>();
    let rows = sqlx::query!(
        "select note.id, note.tenant, note.aggregate
         from unnest($1::text[], $2::text[], $3::text[]) as asked (tenant, aggregate, id)
         join brigade.unshown note using (tenant, aggregate, id)",
        &text(|a| a.tenant.as_str()) as _,
        &text(|a| a.aggregate.as_str()) as _,
        &text(|a| a.id.as_str()) as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    let noted: BTreeSet<String> =
        rows.iter().map(|row| format!("{}.{}.{}", row.tenant, row.aggregate, row.id)).collect();
    let states = repeated.iter().filter_map(|address| world.unchanged(address));
    Ok(states.filter(|s| noted.contains(&s.head().address.to_string())).cloned().collect())
}
