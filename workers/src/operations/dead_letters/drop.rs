//! Drops letters.

use anyhow::Result;
use brigade_contracts::{Outcome, Refusal, Token};

use super::{DeadLetters, Letter, claim::Action};

impl DeadLetters {
    /// Gives a letter up. A command that has no outcome yet gets `500 dropped`.
    ///
    /// # Errors
    /// If it was replayed or dropped before.
    pub async fn drop(&self, letter: &Letter, reason: &str, actor: &str) -> Result<()> {
        let dropped = self.claim_and_drop(letter, reason, actor).await;
        dropped.and(self.remove_completed().await)
    }

    async fn claim_and_drop(&self, letter: &Letter, reason: &str, actor: &str) -> Result<()> {
        let payload = self.payload(letter.number).await?;
        let mut tx = self.postgres.begin().await?;
        let action = Action { kind: "drop", reason: Some(reason), actor };
        self.claim(&mut tx, letter, &payload, &action).await?;
        if let Ok(command) = letter.decode(&payload) {
            let refusal = Refusal::new(500, "dropped", format!("dropped by an operator: {reason}"));
            let outcome = Outcome::refused(&command, refusal, None);
            sqlx::query!(
                "insert into brigade.command_inbox
                     (tenant, command_id, subject, payload_hash, outcome, actor, via, decided_at)
                 values ($1, $2, $3, $4, $5::text::json, $6, $7, clock_timestamp())
                 on conflict (tenant, command_id) do nothing",
                command.tenant.as_str(),
                command.command_id.as_str(),
                letter.subject,
                &command.payload_hash[..],
                serde_json::to_string(&outcome)?,
                command.actor.as_ref().map(Token::as_str),
                command.via.as_str(),
            )
            .execute(&mut *tx)
            .await?;
        }
        self.complete(&mut tx, letter).await?;
        Ok(tx.commit().await?)
    }
}
