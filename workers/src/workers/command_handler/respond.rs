//! What a sender gets, and what becomes of its message.

use async_nats::{HeaderMap, Subject};
use brigade_contracts::{Command, Outcome, Refusal, header, subject};
use bytes::Bytes;

use super::{CommandHandler, Disposition, answer::Answer};
use crate::runtime::Verdict;

/// Who waits for an outcome, and where.
#[derive(Clone)]
pub enum ReplyTo {
    /// The request door: the reply is the outcome.
    Reply(Option<Subject>),
    /// The durable door: it is published for whoever listens.
    Outcome,
}

impl CommandHandler {
    /// Responds to whoever waits for a command, and returns what becomes of its message: one that
    /// is not decided stays.
    pub(super) async fn respond(
        &self,
        command: &Command,
        reply: &ReplyTo,
        disposition: Disposition,
    ) -> Verdict {
        match (reply, disposition) {
            // Its outcome is another command's: nobody may take the one for the other.
            (ReplyTo::Outcome, Disposition::Decided(answer)) if answer.reused => {
                Verdict::Dead("command_id_reused: the id was used for another command".to_owned())
            }
            // Not final: the message is what remembers it.
            (ReplyTo::Outcome, Disposition::Decided(answer)) if !answer.is_final() => {
                Verdict::Retry(answer.code())
            }
            (_, Disposition::Decided(answer)) => {
                self.reply(reply, Some(command), &answer).await;
                Verdict::Done
            }
            (
                ReplyTo::Reply(_),
                Disposition::Unavailable(_) | Disposition::Held(_) | Disposition::Failed(_),
            ) => {
                let outcome = Outcome::refused(command, not_decided(), None);
                self.reply(reply, Some(command), &Answer::new(&outcome)).await;
                Verdict::Done
            }
            (ReplyTo::Outcome, Disposition::Unavailable(why)) => Verdict::Away(why),
            (ReplyTo::Outcome, Disposition::Held(key)) => Verdict::Held(key),
            (ReplyTo::Outcome, Disposition::Failed(why)) => Verdict::Retry(why),
        }
    }

    pub(super) async fn reply(&self, to: &ReplyTo, command: Option<&Command>, answer: &Answer) {
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

pub fn busy() -> Refusal {
    let refusal = Refusal::new(503, "busy", "too many requests are waiting");
    Refusal { retry_after_ms: Some(500), ..refusal }
}

pub fn too_many() -> Refusal {
    let refusal = Refusal::new(429, "too_many", "too many requests of this tenant are waiting");
    Refusal { retry_after_ms: Some(500), ..refusal }
}

pub fn not_decided() -> Refusal {
    let message = "not decided as far as is known; repeat it with the same Command-Id";
    let refusal = Refusal::new(503, "not_decided", message);
    Refusal { retry_after_ms: Some(200), ..refusal }
}
