//! Deletes decided commands from a stream that fills although it was purged up to the acknowledged
//! floor: one command that waits for its next try, or for a lock, keeps the floor down for as long
//! as it is not decided. The inbox says which of those above are.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::response::Response;
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade_contracts::Command;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::{
    housekeeping::{STREAM, is_half_full},
    transaction::decided_since,
};
use crate::infra::{Context, Nats, health::Duty, intake::Message};

/// Messages that are looked at together.
const PIECE: u64 = 64;
/// Most pieces in a round.
const PIECES: usize = 128;
/// Pieces of which nothing could go, after which a round ends.
const FRUITLESS: usize = 16;
/// What was decided so long ago is answered: it would have been delivered again by now.
const ANSWERED: Duration = Duration::from_secs(3);
/// `JSNoMessageFoundErr` of nats-server.
const NO_MESSAGE: u64 = 10037;

/// Deletes what is decided after this sequence until the stream is less than half full, a bounded
/// number in a round. Returns where the next round goes on; `None`: at the beginning.
///
/// # Errors
/// Where a server gives no answer, or refuses.
pub async fn delete(cx: &Context, duty: &Duty, after: u64) -> anyhow::Result<Option<u64>> {
    let (mut after, mut fruitless) = (after, 0);
    for _ in 0..PIECES {
        if fruitless >= FRUITLESS || !is_half_full(&cx.nats).await? {
            break;
        }
        duty.moved();
        let next = json!({ "seq": after + 1, "next_by_subj": "cmd.>" });
        let Some(first) = get(&cx.nats, next).await? else { return Ok(None) };
        let first = first["seq"].as_u64().context("no sequence")?;
        let read = (first..first + PIECE).map(|sequence| read(&cx.nats, sequence));
        let commands: Vec<_> = try_join_all(read).await?.into_iter().flatten().collect();
        let decided = decided_since(&cx.postgres, &commands, ANSWERED).await?;
        fruitless += usize::from(decided.is_empty());
        try_join_all(decided.iter().map(|(sequence, _)| forget(&cx.nats, *sequence))).await?;
        after = first + PIECE - 1;
    }
    Ok(Some(after))
}

/// Reads a command. `None`: there is no such message, or it is no command, and will be buried.
async fn read(nats: &Nats, sequence: u64) -> anyhow::Result<Option<(u64, Command)>> {
    let Some(stored) = get(nats, json!({ "seq": sequence })).await? else { return Ok(None) };
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

async fn forget(nats: &Nats, sequence: u64) -> anyhow::Result<()> {
    // It need not be overwritten on disk.
    ask(nats, "DELETE", json!({ "seq": sequence, "no_erase": true })).await??;
    Ok(())
}

async fn get(nats: &Nats, request: Value) -> anyhow::Result<Option<Value>> {
    match ask(nats, "GET", request).await? {
        Ok(mut found) => Ok(Some(found["message"].take())),
        Err(error) if error.error_code().0 == NO_MESSAGE => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn ask(
    nats: &Nats,
    verb: &str,
    request: Value,
) -> anyhow::Result<Result<Value, async_nats::jetstream::Error>> {
    match nats.jetstream.request(format!("STREAM.MSG.{verb}.{STREAM}"), &request).await? {
        Response::Ok(value) => Ok(Ok(value)),
        Response::Err { error } => Ok(Err(error)),
    }
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
    async fn only_what_has_its_own_outcome_for_some_time_goes() -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        let bob = r#"{"user":"bob"}"#;
        let asked = [("old", bob), ("reused", r#"{"user":"eve"}"#), ("young", bob), ("none", bob)];
        let commands: Vec<_> = (1..).zip(asked.map(|(id, payload)| command(id, payload))).collect();
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
        let decided = decided_since(&database.sql, &commands, ANSWERED).await?;
        assert_eq!(decided.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1]);
        Ok(())
    }
}
