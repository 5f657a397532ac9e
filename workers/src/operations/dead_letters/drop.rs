//! Drops letters.

use anyhow::Result;
use brigade_contracts::{Command, Outcome, Refusal, Token};
use sqlx::PgConnection;

use super::{
    DeadLetters, Letter,
    action::{Action, ActionResult, Entry, Kind, open, open_numbers},
};

impl DeadLetters {
    /// Gives a letter up. A command that has no outcome yet gets `500 dropped`.
    ///
    /// # Errors
    /// If it was replayed or dropped before.
    pub async fn drop(&self, letter: &Letter, reason: &str, actor: &str) -> Result<()> {
        let reason = Some(reason);
        let action = Action { kind: Kind::Drop, reason, actor, job: None, edited: None };
        self.act_on_one(letter, &action).await
    }

    pub(super) async fn drop_all(&self, entries: &mut [Entry], action: &Action<'_>) -> Result<()> {
        let message = format!("dropped by an operator: {}", action.reason.unwrap_or_default());
        self.in_transaction(async |tx| {
            self.claim(tx, entries, action).await?;
            let mut commands = Vec::new();
            for entry in open(entries) {
                if let Ok(command) = entry.letter.decode(&entry.payload) {
                    commands.push((entry.letter.subject.clone(), command));
                }
            }
            store_dropped(tx, &commands, &message).await?;
            self.complete(tx, &open_numbers(entries)).await
        })
        .await?;
        open(entries).for_each(|entry| entry.result = Some(ActionResult::Done));
        Ok(())
    }
}

/// Stores `500 dropped` for commands that have no outcome yet, and returns how many these are.
pub(super) async fn store_dropped(
    tx: &mut PgConnection,
    commands: &[(String, Command)],
    message: &str,
) -> Result<u64> {
    let column = |of: fn(&Command) -> String| -> Vec<String> {
        commands.iter().map(|(_, command)| of(command)).collect()
    };
    let tenants = column(|command| command.tenant.to_string());
    let ids = column(|command| command.command_id.to_string());
    let via = column(|command| command.via.as_str().to_owned());
    let actors: Vec<Option<&str>> =
        commands.iter().map(|(_, command)| command.actor.as_ref().map(Token::as_str)).collect();
    let subjects: Vec<&str> = commands.iter().map(|(subject, _)| subject.as_str()).collect();
    let hashes: Vec<Vec<u8>> =
        commands.iter().map(|(_, command)| command.payload_hash.to_vec()).collect();
    let mut outcomes = Vec::new();
    for (_, command) in commands {
        let refusal = Refusal::new(500, "dropped", message.to_owned());
        outcomes.push(serde_json::to_string(&Outcome::refused(command, refusal, None))?);
    }
    let stored = sqlx::query!(
        "insert into brigade.command_inbox
             (tenant, command_id, subject, payload_hash, outcome, actor, via, decided_at)
         select tenant, command_id, subject, payload_hash, outcome::json, actor, via,
                clock_timestamp()
         from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[],
                     $7::text[])
             as c (tenant, command_id, subject, payload_hash, outcome, actor, via)
         order by tenant, command_id
         on conflict (tenant, command_id) do nothing",
        &tenants,
        &ids,
        &subjects as _,
        &hashes,
        &outcomes,
        &actors as _,
        &via,
    )
    .execute(tx)
    .await?;
    Ok(stored.rows_affected())
}
