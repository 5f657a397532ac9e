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
mod held_up;
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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Subject};
use brigade_contracts::{
    Address, Command, Outcome, Refusal, header,
    subject::{self, REQUESTS, SECRET_VERBS_ON_DURABLE_DOOR},
};
use brigade_domain::{LockPolicy, Missing, user::Checked};
use bytes::Bytes;
use futures::future::join_all;
use tokio::{sync::Semaphore, task::spawn_blocking, time::sleep};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use self::{
    answer::Answer,
    held_up::{By, HeldUp},
    notes::Notes,
    passwords::Passwords,
    show::Show,
    transaction::{Batch, HURRIED, PATIENT},
};
use crate::{
    infra::{
        Context, Lease,
        postgres::{Failure, bounded, failure, is_held_up, is_mismatch, is_too_slow},
    },
    runtime::{
        Delivery, Handler, Refused, Source, Turn, Verdict,
        consume::{OfTenant, REQUEST_WAITS, Shares, consume},
        delivery::Origin,
    },
};

/// Rounds of a command that comes to something new each time. A payment takes two or three; others
/// may move what it needs (a cart changes its owner) between two of them.
const MOST_ROUNDS: usize = 10;
/// Tries of a single command whose transaction keeps meeting others.
const TRIES_ALONE: usize = 5;
/// How long a batch that cannot be decided as a whole is tried in pieces, before the rest of it is
/// put aside.
const SORTING: Duration = Duration::from_secs(1);
/// Pieces that fail one after the other before the database is said to be at fault, and not some of
/// the commands.
const MOST_FAILED: usize = 16;
/// How long a command with a password is decided again and again while its user is locked.
const LOCKED_USER: Duration = Duration::from_secs(3);
/// Pause before that.
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// Most commands with a password that may wait; more are refused as `busy`.
const MAX_PASSWORDS: usize = 10_000;
/// Most of them of one tenant; more are refused as `too_many`.
const MAX_PASSWORDS_OF_TENANT: usize = MAX_PASSWORDS / 4;
/// Most of them that are begun. Each takes some 30 ms of a core: a drain finishes these, and tells the
/// others that they are not decided.
const PASSWORDS_BEGUN: usize = 64;

#[derive(Clone)]
struct CommandHandler {
    cx: Context,
    /// How long locks live.
    lock_policy: LockPolicy,
    show: Arc<Show>,
    notes: Arc<Notes>,
    passwords: Passwords,
    held_up: Arc<HeldUp>,
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

struct WithPassword {
    command: Command,
    reply: ReplyTo,
}

impl OfTenant for WithPassword {
    fn tenant(&self) -> &str {
        self.command.tenant.as_str()
    }
}

/// Who waits for an outcome, and where.
#[derive(Clone)]
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
    wanted: BTreeSet<Missing>,
    rounds: usize,
    /// Something may hold it up.
    is_suspect: bool,
}

impl Piece {
    fn new(places: Vec<usize>) -> Self {
        Self { places, tries: 0, wanted: BTreeSet::new(), rounds: 0, is_suspect: false }
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
    fn next(self, places: Vec<usize>, wanted: BTreeSet<Missing>) -> Result<Self, Vec<usize>> {
        if self.rounds == MOST_ROUNDS {
            return Err(places);
        }
        let wanted = self.wanted.into_iter().chain(wanted).collect();
        let (rounds, is_suspect) = (self.rounds + 1, self.is_suspect);
        Ok(Self { places, tries: 0, wanted, rounds, is_suspect })
    }
}

/// How far a batch that cannot be decided as a whole is sorted out.
#[derive(Default)]
struct Sorting {
    /// What is not sorted out by then is not tried in smaller pieces.
    until: Option<Instant>,
    /// Since something was decided.
    failed: usize,
    has_decided: bool,
    /// What does not fit the database, and why.
    mismatch: Option<String>,
    mismatched: Vec<usize>,
}

impl Sorting {
    /// A piece could not be decided; one that was too slow is not tried in pieces that may be too.
    fn failed(&mut self, too_slow: bool) {
        let time = if too_slow { Duration::ZERO } else { SORTING };
        let until = Instant::now() + time;
        self.until = Some(self.until.map_or(until, |before| before.min(until)));
        self.failed += 1;
    }

    fn decided(&mut self) {
        self.has_decided = true;
        self.failed = 0;
    }

    fn is_over(&self) -> bool {
        self.failed >= MOST_FAILED || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// What became of a command in a batch.
#[derive(Clone, Debug)]
enum Fate {
    Decided(Answer),
    /// Postgres is away.
    Away(String),
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
    let duties = [
        spawn(held_up::keep(cx.clone(), held_up.clone())),
        spawn(notes::keep(cx.clone(), show.clone(), notes.clone())),
        spawn(housekeeping::keep(cx.clone())),
    ];
    let beside = TaskTracker::new();
    let handler = CommandHandler {
        cx: cx.clone(),
        lock_policy,
        show,
        notes: notes.clone(),
        passwords: spawn_blocking(|| Passwords::new(None)).await??,
        held_up,
        beside: beside.clone(),
        with_password: Arc::default(),
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
        let fates = self.decide(&commands, checked, Some(turn)).await;
        self.cx.fail.point("command-handler.before_answer").await;
        let mut decided = Vec::with_capacity(fates.len());
        for ((command, (reply, received)), fate) in commands.iter().zip(&replies).zip(fates) {
            decided.push(match (reply, fate) {
                (ReplyTo::Reply(_), Fate::Held(key)) if received.elapsed() < REQUEST_WAITS => {
                    Verdict::Held(key)
                }
                (_, fate) => self.tell(command, reply, fate).await,
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
    Command::decode(subject, delivery.headers(), delivery.payload()).map_err(unaddressed)
}

impl CommandHandler {
    /// Decides a command of the request door when its password is hashed; tenants take turns.
    async fn decide_beside(&self, command: Command, reply: ReplyTo) {
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
            // Not the one that it was begun for, but the one whose turn it is.
            let next = this.waiting_with_password().pop();
            let Some(WithPassword { command, reply }) = next else { return };
            if begun.is_none() {
                let outcome = Outcome::refused(&command, not_decided(), None);
                return this.reply(&reply, Some(&command), &Answer::new(&outcome)).await;
            }
            let fate = this.decide_with_password(&command).await;
            this.cx.fail.point("command-handler.before_answer").await;
            this.tell(&command, &reply, fate).await;
        });
    }

    fn waiting_with_password(&self) -> MutexGuard<'_, Shares<WithPassword>> {
        self.with_password.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn decide_with_password(&self, command: &Command) -> Fate {
        let commands = std::slice::from_ref(command);
        let checked = credentials::check(&self.passwords, &self.cx.postgres, commands).await;
        let checked = match checked {
            Ok(checked) => checked,
            Err(error) => return Fate::Away(error.to_string()),
        };
        let began = Instant::now();
        loop {
            let fate = self.decide(commands, checked.clone(), None).await.pop();
            match fate {
                // Nobody but its sender waits for it here.
                Some(Fate::Held(_)) if began.elapsed() < LOCKED_USER => sleep(LOCKED_PAUSE).await,
                fate => return fate.unwrap_or_else(|| Fate::Failed("no fate".to_owned())),
            }
        }
    }

    /// Decides commands and shows what they changed: one fate a command. `checked` is what their
    /// passwords came to.
    ///
    /// A batch that fails is tried again, which also asks the inbox whether a commit whose
    /// answer was lost took place. The second time it is split, so that one bad command spoils
    /// only itself. Commands that came to something that was not locked are decided next, before
    /// all later ones. What somebody else has locked is put aside ([`held_up`]).
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
        let beside = turn.as_ref().is_none_or(Turn::is_beside);
        let mut pieces = self.pieces(commands, beside, &mut fates);
        let mut sorting = Sorting::default();
        while let Some(piece) = pieces.pop() {
            if piece.places.is_empty() {
                continue;
            }
            if piece.is_suspect && sorting.is_over() {
                self.suspect(commands, &piece.places, "not tried yet", &mut fates);
                continue;
            }
            let shown = self.notes.take();
            let asked: Vec<_> = piece
                .places
                .iter()
                .map(|&place| (&commands[place], checked[place].as_ref()))
                .collect();
            let is_hurried = sorting.until.is_some() || !self.held_up.is_empty();
            let begin = if is_hurried { HURRIED } else { PATIENT };
            let decided = bounded(&self.cx.postgres, async |postgres| {
                let batch = Batch { asked: &asked, wanted: &piece.wanted, shown: &shown };
                transaction::decide(&self.cx, &self.lock_policy, postgres, &batch, begin).await
            });
            let error = match decided.await {
                Ok(decided) => {
                    self.cx.health.back("postgres");
                    sorting.decided();
                    let mut postponed = Vec::new();
                    for (&place, answer) in piece.places.iter().zip(decided.answers) {
                        match answer {
                            Some(answer) => fates[place] = Fate::Decided(answer),
                            None => postponed.push(place),
                        }
                    }
                    if is_hurried {
                        self.held_up.decided(piece.places.iter().map(|&at| &commands[at]));
                    }
                    for state in decided.to_show {
                        changed.insert(state.head().address.clone(), state);
                    }
                    show_again.extend(decided.show_again);
                    shards |= decided.shards;
                    if decided.wanted.iter().any(|want| matches!(want, Missing::Password(..))) {
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
            if is_held_up(&error) || is_mismatch(&error) {
                tracing::debug!(%error, commands = asked.len(), "sorting out what is held up");
                let sorted = self.sort_out(commands, piece, &error, &mut sorting, &mut fates);
                pieces.extend(sorted.await);
                continue;
            }
            match failure(&error) {
                Failure::Away if piece.tries > 0 => {
                    self.away(&piece.places, &error, &mut fates);
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
        // Others were decided, so the database is not at fault for all.
        if let Some(why) = sorting.mismatch.filter(|_| sorting.has_decided || beside) {
            self.suspect(commands, &sorting.mismatched, &why, &mut fates);
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

    /// The pieces that a batch begins with, the last one first: all that nothing is known to hold up,
    /// and, where nobody waits for this batch, each suspect by itself.
    fn pieces(&self, commands: &[Command], beside: bool, fates: &mut [Fate]) -> Vec<Piece> {
        let mut together = Vec::with_capacity(commands.len());
        let mut pieces = Vec::new();
        for (place, command) in commands.iter().enumerate() {
            match self.held_up.by(command) {
                None => together.push(place),
                Some(By::Suspect(_)) if beside => {
                    pieces.push(Piece { is_suspect: true, ..Piece::new(vec![place]) });
                }
                Some(By::Suspect(name) | By::Locked(name)) => fates[place] = Fate::Held(name),
            }
        }
        pieces.reverse();
        pieces.push(Piece::new(together));
        pieces
    }

    /// Finds out which commands of a piece are held up. Returns the pieces that are decided next.
    async fn sort_out(
        &self,
        commands: &[Command],
        piece: Piece,
        error: &sqlx::Error,
        sorting: &mut Sorting,
        fates: &mut [Fate],
    ) -> Vec<Piece> {
        sorting.failed(is_too_slow(error));
        let mut rest = piece.places.clone();
        if is_held_up(error) {
            match self.locked(commands, &piece).await {
                Ok(locked) => {
                    rest.retain(|place| !locked.contains_key(place));
                    for (place, address) in locked {
                        fates[place] = Fate::Held(address.to_string());
                    }
                }
                // Whole tables are, or Postgres is away.
                Err(error) => {
                    self.away(&piece.places, &error, fates);
                    return Vec::new();
                }
            }
        }
        if rest.len() < piece.places.len() {
            return vec![Piece { places: rest, ..piece }];
        }
        if rest.len() > 1 && !sorting.is_over() {
            let (first, second) = piece.split();
            // What one of them wanted may be what is locked.
            let alone = |piece| Piece { wanted: BTreeSet::new(), ..piece };
            return vec![alone(second), alone(first)];
        }
        if is_held_up(error) {
            self.suspect(commands, &rest, &error.to_string(), fates);
        } else {
            self.away(&rest, error, fates);
            sorting.mismatch = Some(error.to_string());
            sorting.mismatched.extend(rest);
        }
        Vec::new()
    }

    /// The commands of a piece that need what somebody else has locked, and which aggregate that is.
    async fn locked(
        &self,
        commands: &[Command],
        piece: &Piece,
    ) -> sqlx::Result<HashMap<usize, Address>> {
        let needs = |&place: &usize| {
            let mut needed = take::named(&commands[place]);
            if piece.places.len() == 1 {
                needed.extend(take::wanted(&piece.wanted));
            }
            (place, needed)
        };
        let needed: Vec<_> = piece.places.iter().map(needs).collect();
        let asked = needed.iter().flat_map(|(_, needed)| needed).cloned().collect();
        let locked = held_up::locked(&self.cx.postgres, &asked).await?;
        self.held_up.add(&locked);
        let of = |(place, needed): (usize, BTreeSet<Address>)| {
            Some((place, needed.intersection(&locked).next()?.clone()))
        };
        Ok(needed.into_iter().filter_map(of).collect())
    }

    fn suspect(&self, commands: &[Command], places: &[usize], why: &str, fates: &mut [Fate]) {
        for &place in places {
            fates[place] = Fate::Held(self.held_up.suspect(&commands[place], why));
        }
    }

    fn away(&self, places: &[usize], error: &sqlx::Error, fates: &mut [Fate]) {
        self.cx.health.away("postgres", &error.to_string());
        for &place in places {
            fates[place] = Fate::Away(error.to_string());
        }
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
            (ReplyTo::Reply(_), Fate::Away(_) | Fate::Held(_) | Fate::Failed(_)) => {
                let outcome = Outcome::refused(command, not_decided(), None);
                self.reply(reply, Some(command), &Answer::new(&outcome)).await;
                Verdict::Done
            }
            (ReplyTo::Outcome, Fate::Away(why)) => Verdict::Away(why),
            (ReplyTo::Outcome, Fate::Held(key)) => Verdict::Held(key),
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

fn too_many() -> Refusal {
    let refusal = Refusal::new(429, "too_many", "too many requests of this tenant are waiting");
    Refusal { retry_after_ms: Some(500), ..refusal }
}

fn not_decided() -> Refusal {
    let message = "not decided as far as is known; repeat it with the same Command-Id";
    let refusal = Refusal::new(503, "not_decided", message);
    Refusal { retry_after_ms: Some(200), ..refusal }
}
