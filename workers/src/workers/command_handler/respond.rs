//! Responses to senders, and the verdicts on their messages.

use async_nats::{HeaderMap, Subject};
use brigade_contracts::{Command, Outcome, Refusal, header, subject};
use bytes::Bytes;

use super::{CommandHandler, Disposition, answer::Answer};
use crate::runtime::Verdict;

/// The way of an outcome to its sender.
#[derive(Clone)]
pub enum ReplyTo {
    /// The request door: the response is sent to this inbox, if there is one.
    Reply(Option<Subject>),
    /// The durable door: it is published for those who listen.
    Outcome,
}

impl CommandHandler {
    /// Responds to the sender of a command, and returns the verdict on its message. A stored
    /// command that is not decided stays in its stream.
    pub(super) async fn respond(
        &self,
        command: &Command,
        reply: &ReplyTo,
        disposition: Disposition,
    ) -> Verdict {
        match (reply, disposition) {
            // The outcome is another command's: nobody may take the one for the other.
            (ReplyTo::Outcome, Disposition::Decided(answer)) if answer.reused => {
                Verdict::Dead("command_id_reused: the id was used for another command".to_owned())
            }
            // Told to its sender, and kept for the operator, who may send it again: once the tenant
            // is added or resumed it is decided, under the same id.
            (ReplyTo::Outcome, Disposition::Decided(answer)) if answer.is_of_tenant => {
                self.reply(reply, Some(command), &answer).await;
                Verdict::Dead(format!("{}: nothing of this tenant is taken", answer.code()))
            }
            // Not final: only the message remembers it.
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

    /// Sends an outcome, and counts it.
    pub(super) async fn reply(&self, to: &ReplyTo, command: Option<&Command>, answer: &Answer) {
        let status = answer.status.to_string();
        self.metrics.count_outcome(&status, answer.is_repeated);
        let subject = match (to, command) {
            (ReplyTo::Reply(Some(reply)), _) => reply.clone(),
            (ReplyTo::Outcome, Some(command)) => {
                subject::outcome(&command.tenant, &command.command_id).into()
            }
            _ => return,
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::STATUS, status.as_str());
        if answer.is_repeated {
            headers.insert(header::REPLAYED, "true");
        }
        let body = Bytes::copy_from_slice(answer.sent().as_bytes());
        let sent = self.cx.nats.client.publish_with_headers(subject, headers, body).await;
        if let Err(error) = sent {
            tracing::warn!(%error, "a response was not sent; its sender will repeat the command");
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
