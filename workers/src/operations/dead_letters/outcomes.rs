//! The outcomes that the commands of dead letters have by now.

use std::collections::HashMap;

use anyhow::Result;
use bytes::Bytes;

use super::{DeadLetters, Letter};
use crate::workers::command_handler::is_outcome_of;

impl DeadLetters {
    /// Adds to each letter the outcome of its command, or the command that its Command-Id belongs
    /// to.
    pub(super) async fn add_outcomes(&self, letters: &mut [Letter]) -> Result<()> {
        let commands: Vec<_> = letters.iter().filter_map(Letter::command).collect();
        let (tenants, ids): (Vec<&str>, Vec<&str>) =
            commands.iter().map(|(tenant, id)| (tenant.as_str(), id.as_str())).unzip();
        let rows = sqlx::query!(
            r#"select tenant as "tenant!", command_id as "command_id!", subject, payload_hash,
                      (outcome ->> 'status')::int as "status!"
               from unnest($1::text[], $2::text[]) as requested (tenant, command_id)
               join brigade.command_inbox using (tenant, command_id)"#,
            &tenants as _,
            &ids as _,
        )
        .fetch_all(&self.postgres)
        .await?;
        let known: HashMap<_, _> = rows
            .into_iter()
            .map(|row| ((row.tenant.clone(), row.command_id.clone()), row))
            .collect();
        for letter in letters {
            (letter.outcome, letter.id_belongs_to) = (None, None);
            let Some((tenant, id)) = letter.command() else { continue };
            let Some(row) = known.get(&(tenant.to_string(), id.to_string())) else { continue };
            // The doors differ.
            let target = row.subject.splitn(3, '.').nth(2).unwrap_or_default();
            if letter.subject.splitn(3, '.').nth(2) != Some(target) {
                letter.id_belongs_to = Some(target.to_owned());
            } else if self.is_outcome_of(letter, &row.subject, &row.payload_hash).await? {
                letter.outcome = Some(row.status);
            } else {
                letter.id_belongs_to = Some(format!("{target}, another payload"));
            }
        }
        Ok(())
    }

    /// Returns whether a stored outcome is that of a letter's command. The payload of a letter that
    /// carries no hash is read for it.
    async fn is_outcome_of(&self, letter: &Letter, subject: &str, hash: &[u8]) -> Result<bool> {
        let payload = match letter.payload_hash() {
            Some(_) => Bytes::new(),
            None => self.payload(letter.number).await?,
        };
        Ok(letter.decode(&payload).is_ok_and(|command| is_outcome_of(&command, subject, hash)))
    }
}
