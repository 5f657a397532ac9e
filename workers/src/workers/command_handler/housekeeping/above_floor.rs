//! Deletes decided commands above the acknowledged floor. The stream may fill although it was
//! purged up to the floor: one command that waits for its next try, or for a lock, keeps the floor
//! down for as long as it is not decided. The inbox says which commands above it are decided.

use std::time::Duration;

use anyhow::Context as _;
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade_contracts::Command;
use futures::future::try_join_all;
use serde_json::json;

use super::stream::{delete_message, get_message, is_half_full};
use crate::{
    infra::{Context, Nats, health::Duty, intake::Message},
    workers::command_handler::inbox::decided_since,
};

/// The number of messages that are read together.
const PAGE: u64 = 64;
/// Most pages in a round.
const MAX_PAGES: usize = 128;
/// The number of pages without a decided command after which a round ends.
const MAX_FRUITLESS: usize = 16;
/// A command decided this long ago has been responded to: otherwise it would have been delivered
/// again.
const MIN_AGE: Duration = Duration::from_secs(3);

/// Deletes decided commands after this sequence until the stream is less than half full, a bounded
/// number in a round. Returns the sequence after which the next round goes on; `None` if it begins
/// from the floor again.
///
/// # Errors
/// If a server does not respond, or refuses.
pub async fn delete(cx: &Context, duty: &Duty, after: u64) -> anyhow::Result<Option<u64>> {
    let (mut after, mut fruitless) = (after, 0);
    for _ in 0..MAX_PAGES {
        if fruitless >= MAX_FRUITLESS || !is_half_full(&cx.nats).await? {
            break;
        }
        duty.moved();
        let next = json!({ "seq": after + 1, "next_by_subj": "cmd.>" });
        let Some(first) = get_message(&cx.nats, next).await? else { return Ok(None) };
        let first = first["seq"].as_u64().context("no sequence")?;
        let read = (first..first + PAGE).map(|sequence| read(&cx.nats, sequence));
        let commands: Vec<_> = try_join_all(read).await?.into_iter().flatten().collect();
        let decided = decided_since(&cx.postgres, &commands, MIN_AGE).await?;
        fruitless += usize::from(decided.is_empty());
        try_join_all(decided.iter().map(|(sequence, _)| delete_message(&cx.nats, *sequence)))
            .await?;
        after = first + PAGE - 1;
    }
    Ok(Some(after))
}

/// Reads a command; `None` if there is no such message, or if it is no command and will be
/// dead-lettered.
async fn read(nats: &Nats, sequence: u64) -> anyhow::Result<Option<(u64, Command)>> {
    let Some(stored) = get_message(nats, json!({ "seq": sequence })).await? else {
        return Ok(None);
    };
    let bytes = |field: &str| stored[field].as_str().map(|text| BASE64_STANDARD.decode(text));
    let subject = stored["subject"].as_str().context("no subject")?.to_owned();
    let block = bytes("hdrs").transpose()?.map(Into::into);
    let payload = bytes("data").transpose()?.unwrap_or_default();
    let message = Message::new(subject.into(), None, block, payload.into());
    let command = message.readable().ok().and_then(|()| {
        Command::decode(message.subject(), message.headers(), &message.payload).ok()
    });
    Ok(command.map(|command| (sequence, command)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDatabase;

    fn command(id: &str, payload: &str) -> Command {
        let headers = [("Command-Id", id)];
        Command::decode("cmd.t1.cart.c1.join", headers.into_iter(), payload.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn only_a_command_with_an_outcome_of_its_own_for_some_time_is_deleted()
    -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        let bob = r#"{"user":"bob"}"#;
        let sent = [("old", bob), ("reused", r#"{"user":"eve"}"#), ("young", bob), ("none", bob)];
        let commands: Vec<_> = (1..).zip(sent.map(|(id, payload)| command(id, payload))).collect();
        for (id, seconds) in [("old", 60.0), ("reused", 60.0), ("young", 0.0)] {
            sqlx::query(
                "insert into brigade.command_inbox
                     (tenant, command_id, subject, payload_hash, outcome, decided_at)
                 values ('t1', $1, 'req.t1.cart.c1.join', $2, '{}',
                         now() - make_interval(secs => $3))",
            )
            .bind(id)
            .bind(&command(id, bob).payload_hash[..])
            .bind(seconds)
            .execute(&database.sql)
            .await?;
        }
        let decided = decided_since(&database.sql, &commands, MIN_AGE).await?;
        assert_eq!(decided.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1]);
        Ok(())
    }
}
