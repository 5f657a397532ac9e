//! command-handler: decides commands.
//!
//! Takes commands from both doors in batches, half from each when both have work. A batch is decided in one transaction:
//! inbox, aggregates, events and outbox commit together ([`transaction`]). Then the changed
//! aggregates are shown in KV ([`show`]), and only then is anything answered. What was committed
//! but perhaps not shown is noted in the same transaction ([`notes`]), so a crash at any point
//! heals although nobody asks again.
//!
//! A command that carries a password is decided beside the batches, by itself, when the password
//! is hashed ([`passwords`]): nobody else waits for that.
//!
//! Guarantees: a command has one effect and one outcome, however often it is sent; an answer is
//! given after its effect is durable. It is the only writer of domain tables, inbox and events,
//! of `versions` and of the parts `core` and `auth`.

mod answer;
mod carts;
mod columns;
mod credentials;
pub mod housekeeping;
mod locks;
mod notes;
mod orders;
mod passwords;
mod patient;
mod payments;
mod show;
mod supplies;
mod tables;
mod take;
mod transaction;
mod users;

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    sync::Arc,
    time::Duration,
};

use async_nats::{HeaderMap, Subject};
use brigade_contracts::{
    Command, Outcome, Refusal, header,
    subject::{self, REQUESTS, SECRET_VERBS_ON_DURABLE_DOOR},
};
use bytes::Bytes;
use futures::future::join_all;
use tokio::{sync::Semaphore, task::spawn_blocking, time::sleep};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use self::{answer::Answer, notes::Notes, passwords::Passwords, show::Show};
use crate::{
    domain::{Want, user::Checked},
    runtime::{
        Context, Delivery, Handler, Refused, Source, Turn, Verdict, consume, delivery::Origin,
    },
    store::{
        Lease,
        postgres::{Failure, bounded, failure},
    },
};

/// Rounds of a command that comes to something new each time. A payment takes two or three; others
/// may move what it needs (a cart changes its owner) between two of them.
const MOST_ROUNDS: usize = 10;
/// Tries of a single command whose transaction keeps meeting others.
const TRIES_ALONE: usize = 5;

/// Most commands with a password that may wait; more are refused as `busy`.
const MAX_PASSWORDS: usize = 10_000;
/// Most of them that are begun. Each takes some 30 ms of a core: a drain finishes these, and tells the
/// others that they are not decided.
const PASSWORDS_BEGUN: usize = 64;

#[derive(Clone)]
struct CommandHandler {
    cx: Context,
    show: Arc<Show>,
    notes: Arc<Notes>,
    passwords: Passwords,
    /// Commands with a password, which are decided beside the batches.
    beside: TaskTracker,
    places: Arc<Semaphore>,
    begun: Arc<Semaphore>,
}

/// A message, and how its sender gets the outcome.
struct Asked {
    command: Result<Command, Box<Outcome>>,
    reply: ReplyTo,
}

/// Who waits for an outcome, and where.
enum ReplyTo {
    /// The request door: the reply is the outcome.
    Reply(Option<Subject>),
    /// The durable door: it is published for whoever listens.
    Outcome,
}

/// Commands of a batch that are decided in one transaction.
struct Piece {
    /// Their places in the batch, in order of arrival.
    places: Vec<usize>,
    tries: usize,
    /// What they lacked when they were decided before, and how often that was.
    wanted: BTreeSet<Want>,
    rounds: usize,
}

impl Piece {
    fn new(places: Vec<usize>) -> Self {
        Self { places, tries: 0, wanted: BTreeSet::new(), rounds: 0 }
    }

    fn again(self) -> Self {
        Self { tries: self.tries + 1, ..self }
    }

    fn split(mut self) -> (Self, Self) {
        let second = self.places.split_off(self.places.len() / 2);
        let second = Self { places: second, wanted: self.wanted.clone(), ..self };
        (self, second)
    }

    /// The commands that were postponed, with what they lacked.
    ///
    /// # Errors
    /// Those commands, if what they need was something else each time.
    fn next(self, places: Vec<usize>, wanted: BTreeSet<Want>) -> Result<Self, Vec<usize>> {
        if self.rounds == MOST_ROUNDS {
            return Err(places);
        }
        let wanted = self.wanted.into_iter().chain(wanted).collect();
        Ok(Self { places, tries: 0, wanted, rounds: self.rounds + 1 })
    }
}

/// What became of a command in a batch.
#[derive(Clone, Debug)]
enum Fate {
    Decided(Answer),
    /// Postgres is away.
    Away(String),
    /// It could not be decided, although it was tried alone.
    Failed(String),
}

/// # Errors
/// Where NATS cannot be used.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    let show = Arc::new(Show::open(&cx).await?);
    let notes = Arc::new(Notes::default());
    let duties = [
        spawn(notes::keep(cx.clone(), show.clone(), notes.clone())),
        spawn(housekeeping::keep(cx.clone())),
    ];
    let beside = TaskTracker::new();
    let handler = CommandHandler {
        cx: cx.clone(),
        show,
        notes: notes.clone(),
        passwords: spawn_blocking(|| Passwords::new(None)).await??,
        beside: beside.clone(),
        places: Arc::new(Semaphore::new(MAX_PASSWORDS)),
        begun: Arc::new(Semaphore::new(PASSWORDS_BEGUN)),
    };
    let [register, login, refresh] = SECRET_VERBS_ON_DURABLE_DOOR.map(Source::Requests);
    let doors = [Source::Requests(REQUESTS), Source::Stream("COMMANDS"), register, login, refresh];
    // A duty ends with the drain; before that it can only have panicked, and the worker with it.
    let duties = async {
        for duty in join_all(duties).await {
            duty?;
        }
        anyhow::ensure!(cx.drain.is_cancelled(), "a duty ended by itself");
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        consumed = consume(&cx, &doors, handler) => consumed?,
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
        let command = command(delivery);
        match (&delivery.origin, command) {
            (Origin::Request, command) => {
                Ok(Asked { command, reply: ReplyTo::Reply(delivery.reply().cloned()) })
            }
            (Origin::Stored { .. }, Ok(command)) => {
                Ok(Asked { command: Ok(command), reply: ReplyTo::Outcome })
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
                    replies.push(asked.reply);
                    verdicts.push(None);
                }
                Err(outcome) => {
                    self.reply(&asked.reply, None, &Answer::new(&outcome)).await;
                    verdicts.push(Some(Verdict::Done));
                }
            }
        }
        let checked = vec![None; commands.len()];
        let fates = self.decide(&commands, checked, Some(turn)).await;
        self.cx.fail.point("command-handler.before_answer").await;
        let mut decided = Vec::with_capacity(fates.len());
        for ((command, reply), fate) in commands.iter().zip(&replies).zip(fates) {
            decided.push(self.tell(command, reply, fate).await);
        }
        let mut decided = decided.into_iter();
        verdicts.into_iter().filter_map(|done| done.or_else(|| decided.next())).collect()
    }

    async fn refuse(&self, request: &Delivery, why: Refused) {
        let refusal = match why {
            Refused::Busy => busy(),
            Refused::Panicked => not_decided(),
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
    Command::decode(subject, delivery.headers(), delivery.payload()).map_err(unaddressed)
}

impl CommandHandler {
    /// Decides a command of the request door when its password is hashed.
    async fn decide_beside(&self, command: Command, reply: ReplyTo) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let outcome = Outcome::refused(&command, busy(), None);
            return self.reply(&reply, Some(&command), &Answer::new(&outcome)).await;
        };
        let this = self.clone();
        self.beside.spawn(async move {
            let begun = tokio::select! {
                biased;
                () = this.cx.drain.cancelled() => None,
                begun = this.begun.acquire() => begun.ok(),
            };
            if begun.is_none() {
                let outcome = Outcome::refused(&command, not_decided(), None);
                return this.reply(&reply, Some(&command), &Answer::new(&outcome)).await;
            }
            let commands = [command];
            let checked = credentials::check(&this.passwords, &this.cx.postgres, &commands).await;
            let fates = match checked {
                Ok(checked) => this.decide(&commands, checked, None).await,
                Err(error) => vec![Fate::Away(error.to_string())],
            };
            this.cx.fail.point("command-handler.before_answer").await;
            for (command, fate) in commands.iter().zip(fates) {
                this.tell(command, &reply, fate).await;
            }
            drop(place);
        });
    }

    /// Decides commands and shows what they changed: one fate a command. `checked` is what their
    /// passwords came to.
    ///
    /// A batch that fails is tried again, which also asks the inbox whether a commit whose
    /// answer was lost took place. The second time it is split, so that one bad command spoils
    /// only itself. Commands that came to something that was not locked are decided next, before
    /// all later ones.
    async fn decide(
        &self,
        commands: &[Command],
        mut checked: Vec<Option<Checked>>,
        turn: Option<Turn>,
    ) -> Vec<Fate> {
        let mut fates: Vec<Fate> = vec![Fate::Away(String::new()); commands.len()];
        // The newest state of each: a batch that was split may have changed one several times.
        let mut changed = HashMap::new();
        let mut show_again = Vec::new();
        let mut shards = 0;
        let mut pieces = vec![Piece::new((0..commands.len()).collect())];
        while let Some(piece) = pieces.pop() {
            if piece.places.is_empty() {
                continue;
            }
            let shown = self.notes.take();
            let asked: Vec<_> = piece
                .places
                .iter()
                .map(|&place| (&commands[place], checked[place].as_ref()))
                .collect();
            let decided = bounded(&self.cx.postgres, async |postgres| {
                transaction::decide(&self.cx, postgres, &asked, &piece.wanted, &shown).await
            });
            let error = match decided.await {
                Ok(decided) => {
                    self.cx.health.back("postgres");
                    let mut postponed = Vec::new();
                    for (&place, answer) in piece.places.iter().zip(decided.answers) {
                        match answer {
                            Some(answer) => fates[place] = Fate::Decided(answer),
                            None => postponed.push(place),
                        }
                    }
                    for state in decided.to_show {
                        changed.insert(state.head().address.clone(), state);
                    }
                    show_again.extend(decided.show_again);
                    shards |= decided.shards;
                    if decided.wanted.iter().any(|want| matches!(want, Want::Password(..))) {
                        self.check_again(commands, &postponed, &mut checked).await;
                    }
                    match piece.next(postponed, decided.wanted) {
                        Ok(next) => pieces.push(next),
                        Err(places) => {
                            for place in places {
                                fates[place] = Fate::Failed("what it needs keeps changing".into());
                            }
                        }
                    }
                    continue;
                }
                Err(error) => error,
            };
            self.notes.put_back(shown);
            match failure(&error) {
                Failure::Away if piece.tries > 0 => {
                    self.cx.health.away("postgres", &error.to_string());
                    for &place in &piece.places {
                        fates[place] = Fate::Away(error.to_string());
                    }
                }
                Failure::Away => {
                    sleep(Duration::from_millis(50)).await;
                    pieces.push(piece.again());
                }
                _ if piece.places.len() == 1 && piece.tries >= TRIES_ALONE => {
                    let target = &asked[0].0.target;
                    tracing::error!(%error, target, "a command cannot be decided");
                    fates[piece.places[0]] = Fate::Failed(error.to_string());
                }
                Failure::Conflict | Failure::Fault if piece.tries > 0 && piece.places.len() > 1 => {
                    let (first, second) = piece.split();
                    pieces.extend([second, first]);
                }
                Failure::Conflict | Failure::Fault => {
                    tracing::debug!(%error, "deciding again");
                    pieces.push(piece.again());
                }
            }
        }
        drop(turn);
        self.cx.fail.point("command-handler.after_commit").await;
        let changed: Vec<_> = changed.into_values().collect();
        self.notes.add(self.show.show(&changed).await);
        if !show_again.is_empty() {
            self.notes.add(self.show.show_again(&show_again).await);
        }
        // Not before: somebody waits for what is shown and answered here.
        self.wake_relay(shards).await;
        self.cx.fail.point("command-handler.after_show").await;
        fates
    }

    /// Finds out anew what the passwords of these come to: against hashes that are others by now.
    /// Where that cannot be found out, the next decision wants it again.
    async fn check_again(
        &self,
        commands: &[Command],
        places: &[usize],
        checked: &mut [Option<Checked>],
    ) {
        for &place in places {
            let command = &commands[place..=place];
            match credentials::check(&self.passwords, &self.cx.postgres, command).await {
                Ok(again) => checked[place] = again.into_iter().next().flatten(),
                Err(error) => tracing::warn!(%error, "a password is not checked yet"),
            }
        }
    }

    async fn wake_relay(&self, shards: u16) {
        if shards != 0 {
            // Only a hint: the relay also looks by itself.
            let client = &self.cx.nats.client;
            let _hint = client.publish(subject::OUTBOX_WAKE, shards.to_string().into()).await;
        }
    }

    /// Tells the fate of a command to whoever waits; what is not decided stays a message.
    async fn tell(&self, command: &Command, reply: &ReplyTo, fate: Fate) -> Verdict {
        match (reply, fate) {
            // Its outcome is another command's: nobody may take the one for the other.
            (ReplyTo::Outcome, Fate::Decided(answer)) if answer.reused => {
                Verdict::Dead("command_id_reused: the id was used for another command".to_owned())
            }
            // Not final: the message is what remembers it.
            (ReplyTo::Outcome, Fate::Decided(answer)) if !answer.is_final() => {
                Verdict::Retry(answer.code())
            }
            (_, Fate::Decided(answer)) => {
                self.reply(reply, Some(command), &answer).await;
                Verdict::Done
            }
            (ReplyTo::Reply(_), Fate::Away(_) | Fate::Failed(_)) => {
                let outcome = Outcome::refused(command, not_decided(), None);
                self.reply(reply, Some(command), &Answer::new(&outcome)).await;
                Verdict::Done
            }
            (ReplyTo::Outcome, Fate::Away(why)) => Verdict::Away(why),
            (ReplyTo::Outcome, Fate::Failed(why)) => Verdict::Retry(why),
        }
    }

    async fn reply(&self, to: &ReplyTo, command: Option<&Command>, answer: &Answer) {
        let status = answer.status.to_string();
        let label = if answer.again { "again" } else { &status };
        self.cx.metrics.commands.with_label_values(&[label]).inc();
        let subject = match (to, command) {
            (ReplyTo::Reply(Some(reply)), _) => reply.clone(),
            (ReplyTo::Outcome, Some(command)) => {
                subject::outcome(&command.tenant, &command.command_id).into()
            }
            _ => return,
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::STATUS, status.as_str());
        let body = Bytes::copy_from_slice(answer.sent().as_bytes());
        let sent = self.cx.nats.client.publish_with_headers(subject, headers, body).await;
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer was not sent; its sender will ask again");
        }
    }
}

fn busy() -> Refusal {
    let refusal = Refusal::new(503, "busy", "too many requests are waiting");
    Refusal { retry_after_ms: Some(500), ..refusal }
}

fn not_decided() -> Refusal {
    let message = "not decided as far as is known; repeat it with the same Command-Id";
    let refusal = Refusal::new(503, "not_decided", message);
    Refusal { retry_after_ms: Some(200), ..refusal }
}
