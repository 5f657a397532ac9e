//! Sends the commands of letters again.

use std::{collections::HashMap, error::Error as _, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
    },
};
use futures::future::join_all;
use tokio::time::Instant;

use super::{
    DeadLetters, Number,
    action::{Action, ActionResult, Entry, Refused, open},
};
use crate::runtime::{dead_letter::name_as_sent, delivery::pairs};

/// Time after which no further letter of a batch is sent: its claims are locked meanwhile, and
/// Postgres ends a transaction that is idle for a second.
const SENDING: Duration = Duration::from_millis(600);
/// The stream will never take it.
const TOO_LARGE: [ErrorCode; 2] =
    [ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM, ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM];

/// The letters that were sent.
#[derive(Default)]
pub(super) struct Sent {
    pub sent: Vec<Number>,
    /// It is certain of these that the stream does not have them.
    pub not_taken: Vec<Number>,
}

/// What a publish has come to.
enum Publish {
    Stored,
    NotTaken(ActionResult),
    Unknown(String),
}

impl DeadLetters {
    /// Sends the open entries, those of an aggregate one after the other.
    pub(super) async fn send_all(&self, entries: &mut [Entry], action: &Action<'_>) -> Sent {
        let began = Instant::now();
        let mut aggregates: HashMap<String, Vec<&mut Entry>> = HashMap::new();
        for entry in open(entries) {
            aggregates.entry(entry.letter.aggregate()).or_default().push(entry);
        }
        let sending = aggregates.into_values().map(|entries| async move {
            let mut sent = Sent::default();
            self.send_in_order(entries, action, began, &mut sent).await;
            sent
        });
        let mut all = Sent::default();
        for sent in join_all(sending).await {
            all.sent.extend(sent.sent);
            all.not_taken.extend(sent.not_taken);
        }
        all
    }

    async fn send_in_order(
        &self,
        entries: Vec<&mut Entry>,
        action: &Action<'_>,
        began: Instant,
        sent: &mut Sent,
    ) {
        let mut waits = None;
        for entry in entries {
            if waits.is_none() && began.elapsed() >= SENDING {
                waits = Some("it is its turn in a moment".to_owned());
            }
            if let Some(why) = &waits {
                entry.result = Some(ActionResult::Waits(why.clone()));
                continue;
            }
            match self.publish(entry, action).await {
                Publish::Stored => {
                    sent.sent.push(entry.number());
                    entry.result = Some(ActionResult::Done);
                }
                Publish::NotTaken(result) => {
                    // The outcome of what an edited command replaces is stored by now.
                    if action.edited.is_none() {
                        sent.not_taken.push(entry.number());
                    }
                    entry.result = Some(result);
                    waits = Some("one of its aggregate was not sent before it".to_owned());
                }
                Publish::Unknown(why) => {
                    entry.result = Some(ActionResult::Waits(why.clone()));
                    waits = Some(why);
                }
            }
        }
    }

    async fn publish(&self, entry: &Entry, action: &Action<'_>) -> Publish {
        let (subject, headers, payload) = match action.edited {
            Some(edited) => {
                (edited.subject.clone(), edited.headers.clone(), edited.payload.clone())
            }
            None => {
                let letter = &entry.letter;
                let headers = original_headers(&letter.headers);
                (letter.subject.clone(), headers, entry.payload.clone())
            }
        };
        let published =
            async { self.js.publish_with_headers(subject, headers, payload).await?.await };
        match published.await {
            Ok(_) => Publish::Stored,
            Err(error) => not_stored(&error),
        }
    }
}

fn not_stored(error: &PublishError) -> Publish {
    use PublishErrorKind::{BrokenPipe, MaxPayloadExceeded, TimedOut};
    let source = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    let why = format!("the stream did not take it: {error}");
    match error.kind() {
        TimedOut | BrokenPipe => Publish::Unknown(why),
        kind if kind == MaxPayloadExceeded
            || source.is_some_and(|source| TOO_LARGE.contains(&source.error_code())) =>
        {
            Publish::NotTaken(ActionResult::Refused(Refused::gap(why)))
        }
        _ => Publish::NotTaken(ActionResult::Waits(why)),
    }
}

/// Returns the headers as the producer sent them: without those of the dead letter, and without the
/// id by which the stream would take it for the first one.
pub(super) fn original_headers(headers: &HeaderMap) -> HeaderMap {
    let mut original = HeaderMap::new();
    for (name, value) in pairs(Some(headers)) {
        if let Some(name) = name_as_sent(name) {
            original.append(name, value);
        }
    }
    original
}
