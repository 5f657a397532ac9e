//! command-handler: decides commands.
//!
//! Takes commands from both doors in batches, in equal shares of all sources that have work (each
//! subject of requests, each lane of the stream). A batch is decided in one transaction: inbox,
//! aggregates, events and outbox commit together ([`transaction`]). Then the changed aggregates are
//! projected into KV ([`project`]), and only then is any command answered. The same transaction
//! enters the changed aggregates into the projection backlog ([`projection_backlog`]), so a crash
//! at any point heals although nobody repeats a command.
//!
//! A command that carries a password is decided beside the batches, by itself, when the password
//! is hashed ([`passwords`]): no other command waits for that. Commands of other tenants overtake a
//! flood that one tenant has put into the stream ([`overtaking`]).
//!
//! Guarantees: a command has one effect and one outcome, however often it is sent; an answer is
//! given after its effect is durable. It is the only writer of domain tables, inbox and events,
//! of `versions` and of the parts `core` and `auth`.

mod answer;
mod auth_inputs;
mod batch;
mod circuit_breaker;
mod credentials;
mod guarded_bucket;
mod held_up;
mod hooks;
pub mod housekeeping;
mod inbox;
mod load_batch;
mod lock_plan;
mod metrics;
mod money_pushes;
mod overtaking;
mod passwords;
mod project;
mod projected_keys;
mod projection_backlog;
mod record;
mod respond;
mod secret_key;
mod sub_batch;
mod tenants;
mod transaction;
mod with_password;

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Instant,
};

use brigade_contracts::{
    Command, Outcome, Refusal, Via, header,
    subject::{REQUESTS, SECRET_VERBS_ON_DURABLE_DOOR},
    topology::OVERTAKING,
};
use brigade_domain::LockPolicy;
use futures::future::join_all;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use self::{
    answer::Answer,
    held_up::HeldAggregates,
    passwords::Passwords,
    project::ProjectionWriter,
    projection_backlog::ProjectedVersions,
    respond::{ReplyTo, busy, not_decided, too_many},
    secret_key::KnownSecretKey,
    tenants::KnownTenants,
    with_password::{WaitingPasswords, begun_at_once},
};
pub use self::{inbox::is_outcome_of, metrics::CommandHandlerMetrics};
use crate::{
    infra::{Context, Lease},
    runtime::{
        BatchPermit, Delivery, Handler, RefusalReason, Source, Verdict,
        consume::{Lane, REQUEST_WAITS, consume},
        delivery::Origin,
    },
};

#[derive(Clone)]
struct CommandHandler {
    cx: Context,
    /// The lifetimes of locks.
    lock_policy: LockPolicy,
    metrics: Arc<CommandHandlerMetrics>,
    secret_key: Arc<KnownSecretKey>,
    writer: Arc<ProjectionWriter>,
    projected: Arc<ProjectedVersions>,
    passwords: Passwords,
    held_up: Arc<HeldAggregates>,
    tenants: Arc<KnownTenants>,
    /// The tasks that decide commands with a password beside the batches.
    beside: TaskTracker,
    /// The commands that these tasks have not begun yet.
    with_password: Arc<Mutex<WaitingPasswords>>,
    /// Has one permit for each of these tasks that may begin.
    begun: Arc<Semaphore>,
}

/// A command with the way of its outcome to the sender.
struct IncomingCommand {
    /// The outcome if the message is no command.
    command: Result<Command, Box<Outcome>>,
    reply: ReplyTo,
    received: Instant,
}

/// The result of a batch for one command.
#[derive(Clone, Debug)]
enum Disposition {
    Decided(Answer),
    /// It cannot be decided now, since Postgres is not available.
    Unavailable(String),
    /// It waits for a lock of somebody else. Named is the locked aggregate or, where that is
    /// unknown, the command's own.
    Held(String),
    /// It could not be decided, although it was tried alone.
    Failed(String),
}

/// Decides commands until the drain. Beside its own duties it has another one, which stands above
/// it in the order of modules: jobs of operators.
///
/// # Errors
/// If NATS cannot be used.
pub async fn run(
    cx: Context,
    lock_policy: LockPolicy,
    jobs: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let messages = cx.health.duty("messages");
    let metrics: Arc<CommandHandlerMetrics> = cx.metrics.group();
    let writer = Arc::new(ProjectionWriter::open(&cx).await?);
    let projected = Arc::new(ProjectedVersions::default());
    let held_up = Arc::new(HeldAggregates::default());
    let tenants = Arc::new(KnownTenants::default());
    let lanes = Lane::chain("COMMANDS", cx.worker.as_str(), &OVERTAKING);
    let overtaking =
        overtaking::keep(cx.clone(), lanes.clone(), tenants.clone(), metrics.overtaking.clone());
    let backlog =
        projection_backlog::keep(cx.clone(), writer.clone(), projected.clone(), metrics.clone());
    let duties = [
        spawn(held_up::keep(cx.clone(), held_up.clone(), metrics.held_up.clone())),
        spawn(backlog),
        spawn(housekeeping::keep(cx.clone())),
        spawn(overtaking),
        spawn(jobs),
    ];
    let beside = TaskTracker::new();
    let passwords = spawn_blocking(|| Passwords::new(None)).await??;
    let handler = CommandHandler {
        cx: cx.clone(),
        lock_policy,
        metrics,
        secret_key: Arc::default(),
        writer,
        projected: projected.clone(),
        held_up,
        tenants,
        beside: beside.clone(),
        with_password: Arc::default(),
        begun: Arc::new(Semaphore::new(begun_at_once(passwords.at_once()))),
        passwords,
    };
    let mut doors = vec![Source::Requests(REQUESTS)];
    doors.extend(SECRET_VERBS_ON_DURABLE_DOOR.map(Source::Requests));
    doors.extend(lanes.into_iter().map(Source::Lane));
    // A duty ends with the drain; before that it can only have panicked, and the worker with it.
    let duties = async {
        for duty in join_all(duties).await {
            duty?;
        }
        anyhow::ensure!(cx.drain.is_cancelled(), "a duty of the worker ended by itself");
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        consumed = consume(&cx, messages, &doors, handler) => consumed?,
        ended = duties => ended?,
    }
    beside.close();
    beside.wait().await;
    // Best effort: an entry that stays is projected again, and a lease that is not given back ends.
    let _flushed = projection_backlog::flush(&cx.postgres, &projected).await;
    let _given_back = Lease::give_back(&cx.postgres, &cx.instance).await;
    Ok(())
}

fn spawn(duty: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(duty))
}

impl Handler for CommandHandler {
    /// One batch in its transaction, and one that is projected and answered.
    const AT_ONCE: usize = 2;
    type Message = IncomingCommand;

    fn decode(&self, delivery: &Delivery) -> Result<IncomingCommand, String> {
        let (command, received) = (command(delivery), delivery.received);
        match (&delivery.origin, command) {
            (Origin::Request, command) => {
                let reply = ReplyTo::Reply(delivery.reply().cloned());
                Ok(IncomingCommand { command, reply, received })
            }
            (Origin::Stored { .. }, Ok(command)) => {
                Ok(IncomingCommand { command: Ok(command), reply: ReplyTo::Outcome, received })
            }
            // There is nobody whom an outcome could be sent to.
            (Origin::Stored { .. }, Err(outcome)) => {
                Err(format!("{}: {}", outcome.code, outcome.message))
            }
        }
    }

    async fn handle(&self, batch: Vec<IncomingCommand>, permit: BatchPermit) -> Vec<Verdict> {
        let mut commands = Vec::with_capacity(batch.len());
        let mut replies = Vec::with_capacity(batch.len());
        let mut verdicts = Vec::with_capacity(batch.len());
        for IncomingCommand { command, reply, received } in batch {
            match command {
                Ok(command) if credentials::needs_password(&command) => {
                    self.decide_beside(command, reply).await;
                    verdicts.push(Some(Verdict::Done));
                }
                Ok(command) => {
                    commands.push(command);
                    replies.push((reply, received));
                    verdicts.push(None);
                }
                Err(outcome) => {
                    self.reply(&reply, None, &Answer::new(&outcome)).await;
                    verdicts.push(Some(Verdict::Done));
                }
            }
        }
        let checked = vec![None; commands.len()];
        let dispositions = self.decide(&commands, checked, Some(permit)).await;
        self.cx.fail.point("command-handler.before_answer").await;
        let mut decided = Vec::with_capacity(dispositions.len());
        for ((command, (reply, received)), disposition) in
            commands.iter().zip(&replies).zip(dispositions)
        {
            decided.push(match (reply, disposition) {
                (ReplyTo::Reply(_), Disposition::Held(name))
                    if received.elapsed() < REQUEST_WAITS =>
                {
                    Verdict::Held(name)
                }
                (_, disposition) => self.respond(command, reply, disposition).await,
            });
        }
        let mut decided = decided.into_iter();
        verdicts.into_iter().filter_map(|done| done.or_else(|| decided.next())).collect()
    }

    fn is_locked(&self, name: &str) -> bool {
        self.held_up.is_locked(name)
    }

    async fn refuse(&self, request: &Delivery, reason: RefusalReason) {
        let refusal = match reason {
            RefusalReason::Busy => busy(),
            RefusalReason::TooMany => too_many(),
            RefusalReason::Panicked | RefusalReason::Drained => not_decided(),
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
            Ok(command) => Ok(inbox::is_decided(&self.cx.postgres, &command).await?),
            Err(_) => Ok(false),
        }
    }
}

/// Decodes the command of a message.
///
/// # Errors
/// The outcome, if the message cannot be a command.
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
    // The part of the headers that was not read may hold what makes it a command.
    match command {
        // Without all headers nobody knows that no tenant's program has sent it.
        Ok(command) if command.via == Via::Http => Err(unaddressed(header::too_large())),
        Ok(command) => {
            let request = Err(header::too_large());
            Ok(Command { request, via: Via::Nats, is_of_worker: false, ..command })
        }
        Err(refusal) if refusal.code == "missing_command_id" => {
            Err(unaddressed(header::too_large()))
        }
        Err(refusal) => Err(unaddressed(refusal)),
    }
}
