//! Replays letters: a command is sent again, an event goes back to the outbox.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use sqlx::PgConnection;

use super::{
    DeadLetters, Letter, Number,
    action::{Action, ActionResult, Entry, Kind, Refused, open},
    checks::Checked,
    outbox::put_into_outbox,
};

impl DeadLetters {
    /// Sends a command again, or puts an event back into the outbox.
    ///
    /// # Errors
    /// If it was replayed or dropped before, cannot be sent, or might be done twice.
    pub async fn replay(&self, letter: &Letter, actor: &str) -> Result<()> {
        let action = Action { kind: Kind::Replay, reason: None, actor, job: None, edited: None };
        self.act_on_one(letter, &action).await
    }

    /// Does the same with a command that was decided since, or may have been; the archive keeps
    /// why.
    ///
    /// # Errors
    /// If it was replayed or dropped before, or cannot be sent.
    pub async fn force(&self, letter: &Letter, why: &str, actor: &str) -> Result<()> {
        let reason = Some(why);
        let action = Action { kind: Kind::Replay, reason, actor, job: None, edited: None };
        self.act_on_one(letter, &action).await
    }

    /// Claims the letters first. A second operator waits for the claims and then finds them
    /// completed. If this one dies before that they stay, and the Command-Ids make it safe to send
    /// once more.
    pub(super) async fn replay_all(
        &self,
        entries: &mut [Entry],
        action: &Action<'_>,
    ) -> Result<()> {
        let checked: HashMap<Number, Checked> =
            entries.iter().map(Entry::number).zip(self.check(entries).await?).collect();
        if action.edited.is_none() {
            refuse_impossible(entries, &checked);
            refuse_behind_gaps(entries);
        }
        self.in_transaction(async |tx| {
            self.claim_and_put_into_outbox(tx, entries, &checked, action).await
        })
        .await?;
        if open(entries).next().is_none() {
            return Ok(());
        }
        self.fail.point("dead-letters.before_send").await;
        self.in_transaction(async |tx| {
            self.lock_claims(tx, entries, action).await?;
            let sent = self.send_all(entries, action).await;
            self.fail.point("dead-letters.after_send").await;
            self.complete(tx, &sent.sent).await?;
            self.delete_claims(tx, &sent.not_taken).await
        })
        .await
    }

    async fn claim_and_put_into_outbox(
        &self,
        tx: &mut PgConnection,
        entries: &mut [Entry],
        checked: &HashMap<Number, Checked>,
        action: &Action<'_>,
    ) -> Result<()> {
        let before: HashSet<Number> = open(entries).map(|entry| entry.number()).collect();
        let new = self.claim(tx, entries, action).await?;
        match action.edited {
            Some(edited) => self.give_up_originals(tx, entries, &new, edited).await?,
            // An interrupted replay may have caused the outcome.
            None if action.reason.is_none() => refuse_decided(entries, checked, &new),
            None => {}
        }
        refuse_behind_gaps(entries);
        let published = put_into_outbox(tx, entries).await?;
        self.complete(tx, &published).await?;
        let refused = entries.iter().filter(|entry| {
            let is_refused = matches!(entry.result, Some(ActionResult::Refused(_)));
            is_refused && before.contains(&entry.number()) && new.contains(&entry.number())
        });
        let refused: Vec<Number> = refused.map(Entry::number).collect();
        self.delete_claims(tx, &refused).await
    }
}

/// Refuses what would become a dead letter again. The claim says of one that is done with who did
/// it, and when.
fn refuse_impossible(entries: &mut [Entry], checked: &HashMap<Number, Checked>) {
    for entry in open(entries).filter(|entry| entry.letter.action.is_none()) {
        if let Some(refused) = checked.get(&entry.number()).and_then(|c| c.impossible.clone()) {
            entry.refuse(refused);
        }
    }
}

fn refuse_decided(
    entries: &mut [Entry],
    checked: &HashMap<Number, Checked>,
    new: &HashSet<Number>,
) {
    for entry in open(entries).filter(|entry| new.contains(&entry.number())) {
        if let Some(refused) = checked.get(&entry.number()).and_then(|c| c.decided.clone()) {
            entry.refuse(refused);
        }
    }
}

/// Refuses commands that stand behind one of their aggregate that should have been sent first.
fn refuse_behind_gaps(entries: &mut [Entry]) {
    let mut gaps: HashMap<String, Number> = HashMap::new();
    for entry in entries.iter_mut().filter(|entry| !entry.is_event()) {
        let aggregate = entry.letter.aggregate();
        match (&entry.result, gaps.get(&aggregate)) {
            (None, Some(first)) => entry.refuse(behind(&aggregate, *first)),
            (Some(ActionResult::Refused(refused)), None) if refused.is_gap => {
                gaps.insert(aggregate, entry.number());
            }
            _ => {}
        }
    }
}

/// The refusal of a letter behind one that was not sent.
pub(super) fn behind(aggregate: &str, first: Number) -> Refused {
    Refused::gap(format!("{first} of {aggregate} was sent before it, and is still a dead letter"))
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;
    use bytes::Bytes;
    use time::OffsetDateTime;

    use super::*;

    fn entry(number: u64, subject: &str) -> Entry {
        let mut headers = HeaderMap::new();
        headers.insert("Origin-Subject", subject);
        let number = Number::Stream(number);
        let letter = Letter::new(number, "command-handler", headers, OffsetDateTime::UNIX_EPOCH);
        Entry::new(letter, Bytes::new())
    }

    #[test]
    fn a_command_is_not_sent_before_an_earlier_one_of_its_aggregate() {
        let (c1, c2) = ("cmd.t1.cart.c1.open", "cmd.t1.cart.c2.open");
        let mut entries = [entry(1, c1), entry(2, c1), entry(3, c2), entry(4, c1), entry(5, c2)];
        entries[1].refuse(Refused::gap("its payload was not kept"));
        entries[2].refuse(Refused::no_gap("it has the outcome 201 by now"));
        refuse_behind_gaps(&mut entries);
        assert_eq!(entries[0].result, None);
        assert_eq!(
            entries[3].result,
            Some(ActionResult::Refused(behind("t1.cart.c1", Number::Stream(2))))
        );
        assert_eq!(entries[4].result, None, "what is decided leaves no gap");
    }
}
