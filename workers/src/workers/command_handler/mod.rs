//! command-handler: decides commands.
//!
//! Takes commands from both doors in batches, half from each when both have work. A batch is
//! decided in one transaction: inbox, aggregates, events and outbox commit together
//! ([`transaction`]). Then the changed aggregates are shown in KV ([`show`]), and only then is
//! anything answered. What was committed but perhaps not shown is noted in the same transaction
//! ([`notes`]), so a crash at any point heals although nobody asks again.
//!
//! A command that carries a password is decided beside the batches, by itself, when the password
//! is hashed ([`passwords`]): nobody else waits for that. What one tenant has put into the stream
//! is overtaken by the others ([`overtaking`]).
//!
//! Guarantees: a command has one effect and one outcome, however often it is sent; an answer is
//! given after its effect is durable. It is the only writer of domain tables, inbox and events,
//! of `versions` and of the parts `core` and `auth`.

mod above_floor;
mod answer;
mod batch;
mod credentials;
mod held_up;
pub mod housekeeping;
mod load_batch;
mod lock_plan;
mod notes;
mod old_locks;
mod overtaking;
mod passwords;
mod patient;
mod record;
mod respond;
mod show;
mod sub_batch;
mod supplies;
pub mod tenants;
mod transaction;
mod with_password;

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Instant,
};

use brigade_contracts::{
    Command, Outcome, Refusal, header,
    subject::{REQUESTS, SECRET_VERBS_ON_DURABLE_DOOR},
    topology::OVERTAKING,
};
use brigade_domain::LockPolicy;
use futures::future::join_all;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use self::transaction::is_outcome_of;
use self::{
    answer::Answer,
    held_up::HeldUp,
    notes::Notes,
    passwords::Passwords,
    respond::{ReplyTo, busy, not_decided, too_many},
    show::Show,
    tenants::Tenants,
    with_password::{PASSWORDS_BEGUN, WithPassword},
};
use crate::{
    infra::{Context, Lease},
    runtime::{
        Delivery, Handler, Refused, Source, Turn, Verdict,
        consume::{Lane, REQUEST_WAITS, Shares, consume},
        delivery::Origin,
    },
};

#[derive(Clone)]
struct CommandHandler {
    cx: Context,
    /// How long locks live.
    lock_policy: LockPolicy,
    show: Arc<Show>,
    notes: Arc<Notes>,
    passwords: Passwords,
    held_up: Arc<HeldUp>,
    tenants: Arc<Tenants>,
    /// Commands with a password, which are decided beside the batches.
    beside: TaskTracker,
    with_password: Arc<Mutex<Shares<WithPassword>>>,
    begun: Arc<Semaphore>,
}

/// A message, and how its sender gets the outcome.
struct Asked {
    command: Result<Command, Box<Outcome>>,
    reply: ReplyTo,
    received: Instant,
}

/// What became of a command in a batch.
#[derive(Clone, Debug)]
enum Disposition {
    Decided(Answer),
    /// Nobody decides now, since Postgres is not available.
    Unavailable(String),
    /// Somebody else has locked what it needs, which is named.
    Held(String),
    /// It could not be decided, although it was tried alone.
    Failed(String),
}

/// # Errors
/// Where NATS cannot be used.
pub async fn run(cx: Context, lock_policy: LockPolicy) -> anyhow::Result<()> {
    let messages = cx.health.duty("messages");
    let show = Arc::new(Show::open(&cx).await?);
    let notes = Arc::new(Notes::default());
    let held_up = Arc::new(HeldUp::default());
    let tenants = Arc::new(Tenants::default());
    let lanes = Lane::chain("COMMANDS", cx.worker.as_str(), &OVERTAKING);
    let duties = [
        spawn(held_up::keep(cx.clone(), held_up.clone())),
        spawn(notes::keep(cx.clone(), show.clone(), notes.clone())),
        spawn(housekeeping::keep(cx.clone())),
        spawn(overtaking::keep(cx.clone(), lanes.clone(), tenants.clone())),
    ];
    let beside = TaskTracker::new();
    let handler = CommandHandler {
        cx: cx.clone(),
        lock_policy,
        show,
        notes: notes.clone(),
        passwords: spawn_blocking(|| Passwords::new(None)).await??,
        held_up,
        tenants,
        beside: beside.clone(),
        with_password: Arc::default(),
        begun: Arc::new(Semaphore::new(PASSWORDS_BEGUN)),
    };
    let [register, login, refresh] = SECRET_VERBS_ON_DURABLE_DOOR.map(Source::Requests);
    let mut doors = vec![Source::Requests(REQUESTS), register, login, refresh];
    doors.extend(lanes.into_iter().map(Source::Lane));
    // A duty ends with the drain; before that it can only have panicked, and the worker with it.
    let duties = async {
        for duty in join_all(duties).await {
            duty?;
        }
        anyhow::ensure!(cx.drain.is_cancelled(), "a duty ended by itself");
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        consumed = consume(&cx, messages, &doors, handler) => consumed?,
        ended = duties => ended?,
    }
    beside.close();
    beside.wait().await;
    // Best effort: what stays noted is shown again, and a lease that is not given back runs out.
    let _flushed = notes::flush(&cx.postgres, &notes).await;
    let _given_back = Lease::give_back(&cx.postgres, &cx.instance).await;
    Ok(())
}

fn spawn(duty: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(duty))
}

impl Handler for CommandHandler {
    /// Of large ones one in its transaction, one being shown and answered.
    const AT_ONCE: usize = 2;
    type Message = Asked;

    fn decode(&self, delivery: &Delivery) -> Result<Asked, String> {
        let (command, received) = (command(delivery), delivery.received);
        match (&delivery.origin, command) {
            (Origin::Request, command) => {
                let reply = ReplyTo::Reply(delivery.reply().cloned());
                Ok(Asked { command, reply, received })
            }
            (Origin::Stored { .. }, Ok(command)) => {
                Ok(Asked { command: Ok(command), reply: ReplyTo::Outcome, received })
            }
            // Nobody could be told an outcome.
            (Origin::Stored { .. }, Err(outcome)) => {
                Err(format!("{}: {}", outcome.code, outcome.message))
            }
        }
    }

    async fn handle(&self, batch: Vec<Asked>, turn: Turn) -> Vec<Verdict> {
        let mut commands = Vec::with_capacity(batch.len());
        let mut replies = Vec::with_capacity(batch.len());
        let mut verdicts = Vec::with_capacity(batch.len());
        for asked in batch {
            match asked.command {
                Ok(command) if credentials::needs_password(&command) => {
                    self.decide_beside(command, asked.reply).await;
                    verdicts.push(Some(Verdict::Done));
                }
                Ok(command) => {
                    commands.push(command);
                    replies.push((asked.reply, asked.received));
                    verdicts.push(None);
                }
                Err(outcome) => {
                    self.reply(&asked.reply, None, &Answer::new(&outcome)).await;
                    verdicts.push(Some(Verdict::Done));
                }
            }
        }
        let checked = vec![None; commands.len()];
        let dispositions = self.decide(&commands, checked, Some(turn)).await;
        self.cx.fail.point("command-handler.before_answer").await;
        let mut decided = Vec::with_capacity(dispositions.len());
        for ((command, (reply, received)), disposition) in
            commands.iter().zip(&replies).zip(dispositions)
        {
            decided.push(match (reply, disposition) {
                (ReplyTo::Reply(_), Disposition::Held(key))
                    if received.elapsed() < REQUEST_WAITS =>
                {
                    Verdict::Held(key)
                }
                (_, disposition) => self.respond(command, reply, disposition).await,
            });
        }
        let mut decided = decided.into_iter();
        verdicts.into_iter().filter_map(|done| done.or_else(|| decided.next())).collect()
    }

    fn is_locked(&self, key: &str) -> bool {
        self.held_up.is_locked(key)
    }

    async fn refuse(&self, request: &Delivery, why: Refused) {
        let refusal = match why {
            Refused::Busy => busy(),
            Refused::TooMany => too_many(),
            Refused::Panicked | Refused::Drained => not_decided(),
        };
        let outcome = match command(request) {
            Ok(command) => Outcome::refused(&command, refusal, None),
            Err(outcome) => *outcome,
        };
        let reply = ReplyTo::Reply(request.reply().cloned());
        self.reply(&reply, None, &Answer::new(&outcome)).await;
    }

    async fn is_done(&self, delivery: &Delivery) -> anyhow::Result<bool> {
        match command(delivery) {
            Ok(command) => Ok(transaction::is_decided(&self.cx.postgres, &command).await?),
            Err(_) => Ok(false),
        }
    }
}

/// The command of a message, or the answer to one that cannot be a command.
fn command(delivery: &Delivery) -> Result<Command, Box<Outcome>> {
    let subject = delivery.subject();
    let unaddressed = |refusal| Box::new(Outcome::unaddressed(subject, refusal));
    delivery.readable().map_err(|why| unaddressed(Refusal::new(400, "bad_header", why)))?;
    if delivery.origin == Origin::Request && subject.starts_with("cmd.") {
        // Only the subjects that the stream does not take reach this worker as requests.
        let message = "a verb that carries a secret goes through the request door (req.…): no \
                       stream stores a secret";
        return Err(unaddressed(Refusal::new(400, "secret_on_durable_door", message)));
    }
    let command = Command::decode(subject, delivery.headers(), delivery.payload());
    if !delivery.is_cut() {
        return command.map_err(unaddressed);
    }
    // What makes it a command may stand in what was not read.
    match command {
        Ok(command) => Ok(Command { request: Err(header::too_large()), ..command }),
        Err(refusal) if refusal.code == "missing_command_id" => {
            Err(unaddressed(header::too_large()))
        }
        Err(refusal) => Err(unaddressed(refusal)),
    }
}
