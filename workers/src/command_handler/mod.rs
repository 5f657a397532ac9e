//! command-handler: decides commands.
//!
//! Takes commands from the request door in batches. A batch is decided in one transaction:
//! inbox, aggregates, events and outbox commit together ([`transaction`]). Then the changed
//! aggregates are shown in KV ([`show`]), and only then is anything answered. What was committed
//! but perhaps not shown is noted in the same transaction ([`notes`]), so a crash at any point
//! heals although nobody asks again.
//!
//! Guarantees: a command has one effect and one outcome, however often it is sent; an answer is
//! given after its effect is durable. It is the only writer of domain tables, inbox and events,
//! of `versions` and of the parts `core`.

mod carts;
mod columns;
mod notes;
mod orders;
mod show;
mod transaction;

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, Subject};
use brigade_contracts::{Command, Outcome, Refusal, header, subject};
use bytes::Bytes;
use tokio::time::sleep;

use self::{notes::Notes, show::Show, transaction::Answer};
use crate::{
    runtime::{Context, Delivery, Handler, Refused, Source, Verdict, consume},
    store::postgres::{Failure, failure},
};

/// Tries of a single command whose transaction keeps meeting others.
const TRIES_ALONE: usize = 5;

struct CommandHandler {
    cx: Context,
    show: Arc<Show>,
    notes: Arc<Notes>,
}

/// A message and who waits for its answer.
struct Asked {
    command: Result<Command, Box<Outcome>>,
    reply: Option<Subject>,
}

/// # Errors
/// Where NATS cannot be used.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    let show = Arc::new(Show::open(&cx).await?);
    let notes = Arc::new(Notes::default());
    let duty = notes::keep(cx.clone(), show.clone(), notes.clone());
    let handler = CommandHandler { cx: cx.clone(), show, notes: notes.clone() };
    let duty = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(duty));
    consume(&cx, &[Source::Requests(subject::REQUESTS)], handler).await?;
    duty.await?;
    Ok(())
}

impl Handler for CommandHandler {
    type Message = Asked;

    fn decode(&self, delivery: &Delivery) -> Result<Asked, String> {
        Ok(Asked { command: command(delivery), reply: delivery.reply().cloned() })
    }

    async fn handle(&self, batch: Vec<Asked>) -> Vec<Verdict> {
        let verdicts = vec![Verdict::Done; batch.len()];
        let mut commands = Vec::with_capacity(batch.len());
        let mut replies = Vec::with_capacity(batch.len());
        for asked in batch {
            match asked.command {
                Ok(command) => {
                    commands.push(command);
                    replies.push(asked.reply);
                }
                Err(outcome) => self.answer(asked.reply, &Answer::new(&outcome)).await,
            }
        }
        let answers = self.decide(&commands).await;
        self.cx.fail.point("command-handler.before_answer").await;
        for (reply, answer) in replies.into_iter().zip(&answers) {
            self.answer(reply, answer).await;
        }
        verdicts
    }

    async fn refuse(&self, request: &Delivery, why: Refused) {
        let refusal = match why {
            Refused::Busy => Refusal {
                retry_after_ms: Some(500),
                ..Refusal::new(503, "busy", "too many requests are waiting")
            },
            Refused::Panicked => not_decided(),
        };
        let outcome = match command(request) {
            Ok(command) => Outcome::refused(&command, refusal, None),
            Err(outcome) => *outcome,
        };
        self.answer(request.reply().cloned(), &Answer::new(&outcome)).await;
    }
}

/// The command of a message, or the answer to one that cannot be a command.
fn command(delivery: &Delivery) -> Result<Command, Box<Outcome>> {
    Command::decode(delivery.subject(), delivery.headers(), delivery.payload())
        .map_err(|refusal| Box::new(Outcome::unaddressed(delivery.subject(), refusal)))
}

impl CommandHandler {
    /// Decides commands and shows what they changed: one answer a command.
    ///
    /// A batch that fails is tried again, which also asks the inbox whether a commit whose
    /// answer was lost took place. The second time it is split, so that one bad command spoils
    /// only itself.
    async fn decide(&self, commands: &[Command]) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = vec![None; commands.len()];
        let mut changed = Vec::new();
        let mut shards = 0;
        let mut pieces = vec![(0..commands.len(), 0)];
        while let Some((piece, tries)) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            let shown = self.notes.take();
            let decided = transaction::decide(&self.cx, &commands[piece.clone()], &shown).await;
            match decided {
                Ok(decided) => {
                    self.cx.health.back("postgres");
                    for (at, answer) in piece.zip(decided.answers) {
                        answers[at] = Some(answer);
                    }
                    changed.extend(decided.to_show);
                    shards |= decided.shards;
                }
                Err(error) => {
                    self.notes.put_back(shown);
                    match failure(&error) {
                        Failure::Away if tries > 0 => {
                            self.cx.health.away("postgres", &error.to_string());
                        }
                        _ if piece.len() == 1 && tries >= TRIES_ALONE => {
                            let command = &commands[piece.start];
                            let target = &command.target;
                            tracing::error!(%error, target, "a command cannot be decided");
                        }
                        Failure::Away => {
                            sleep(Duration::from_millis(50)).await;
                            pieces.push((piece, tries + 1));
                        }
                        Failure::Conflict | Failure::Fault if tries > 0 && piece.len() > 1 => {
                            let middle = piece.start + piece.len() / 2;
                            pieces.push((middle..piece.end, tries));
                            pieces.push((piece.start..middle, tries));
                        }
                        Failure::Conflict | Failure::Fault => {
                            tracing::debug!(%error, "deciding again");
                            pieces.push((piece, tries + 1));
                        }
                    }
                }
            }
        }
        self.cx.fail.point("command-handler.after_commit").await;
        self.wake_relay(shards).await;
        self.notes.add(self.show.show(&changed).await);
        self.cx.fail.point("command-handler.after_show").await;
        let undecided = |(command, answer): (&Command, Option<Answer>)| {
            answer.unwrap_or_else(|| Answer::new(&Outcome::refused(command, not_decided(), None)))
        };
        commands.iter().zip(answers).map(undecided).collect()
    }

    async fn wake_relay(&self, shards: u16) {
        if shards != 0 {
            // Only a hint: the relay also looks by itself.
            let client = &self.cx.nats.client;
            let _hint = client.publish(subject::OUTBOX_WAKE, shards.to_string().into()).await;
        }
    }

    async fn answer(&self, reply: Option<Subject>, answer: &Answer) {
        let status = answer.status.to_string();
        let label = if answer.again { "again" } else { &status };
        self.cx.metrics.commands.with_label_values(&[label]).inc();
        let Some(reply) = reply else { return };
        let mut headers = HeaderMap::new();
        headers.insert(header::STATUS, status.as_str());
        let body = Bytes::from(answer.body.clone());
        let sent = self.cx.nats.client.publish_with_headers(reply, headers, body).await;
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer was not sent; its sender will ask again");
        }
    }
}

fn not_decided() -> Refusal {
    let message = "not decided as far as is known; repeat it with the same Command-Id";
    let refusal = Refusal::new(503, "not_decided", message);
    Refusal { retry_after_ms: Some(200), ..refusal }
}
