//! Whether letters may be replayed.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, bail};
use brigade_contracts::{
    Address, Command,
    subject::{is_secret, parse_command},
};
use uuid::Uuid;

use super::{
    DeadLetters, Letter,
    action::{Entry, Refused, done},
    outbox::event_of,
};
use crate::{
    runtime::dead_letter::{RAW_HEADERS, RAW_HEADERS_IN_PAYLOAD, RAW_SUBJECT},
    workers::command_handler::housekeeping::OUTCOME_DAYS,
};

/// What was found of a letter.
#[derive(Clone, Debug, Default)]
pub(super) struct Checked {
    /// It would become a dead letter again however often it is sent.
    pub impossible: Option<Refused>,
    /// It has its outcome, or may have had one that is deleted by now.
    pub decided: Option<Refused>,
}

impl DeadLetters {
    /// Checks whether a letter may be replayed, and changes nothing.
    ///
    /// # Errors
    /// If it may not be.
    pub async fn check_replay(&self, letter: &Letter, force: bool) -> Result<()> {
        if let Some(action) = &letter.action {
            bail!("it was {} before", done(action));
        }
        let Checked { impossible, decided } = self.check_one(letter).await?;
        match impossible.or(decided.filter(|_| !force)) {
            Some(refused) => bail!(refused.why),
            None => Ok(()),
        }
    }

    pub(super) async fn check_one(&self, letter: &Letter) -> Result<Checked> {
        let checked = self.check(&[Entry::new(letter.clone(), bytes::Bytes::new())]).await?;
        Ok(checked.into_iter().next().unwrap_or_default())
    }

    /// Checks letters, in a few statements.
    pub(super) async fn check(&self, entries: &[Entry]) -> Result<Vec<Checked>> {
        let commands: Vec<_> = entries.iter().map(|entry| command_of(&entry.letter)).collect();
        let tenants: HashSet<&str> = commands
            .iter()
            .filter_map(|command| Some(command.as_ref().ok()?.as_ref()?.tenant.as_str()))
            .collect();
        let states = self.states_of(&tenants).await?;
        let mut letters: Vec<_> = entries.iter().map(|entry| entry.letter.clone()).collect();
        self.add_outcomes(&mut letters).await?;
        let forgotten = sqlx::query_scalar!(
            r#"select clock_timestamp() - make_interval(days => $1) as "forgotten!""#,
            OUTCOME_DAYS,
        )
        .fetch_one(&self.postgres)
        .await?;
        let committed = self.committed(entries).await?;
        let checked = commands.into_iter().zip(&letters).map(|(command, letter)| {
            let command = match command {
                Ok(None) => {
                    let impossible = uncommitted(letter, &committed).map(Refused::no_gap);
                    return Checked { impossible, decided: None };
                }
                Ok(Some(command)) => command,
                Err(why) => {
                    return Checked { impossible: Some(Refused::gap(why)), decided: None };
                }
            };
            let tenant = command.tenant.as_str();
            let impossible = not_served(tenant, states.get(tenant).map(String::as_str))
                .or_else(|| letter.id_belongs_to.as_deref().map(reused));
            let decided = letter.outcome.map(|status| {
                let why =
                    format!("its Command-Id has the outcome {status} by now: drop it, or force it");
                Refused::no_gap(why)
            });
            let decided = decided.or_else(|| {
                let is_old = letter.command().is_some() && letter.stored_at < forgotten;
                is_old.then(too_old)
            });
            Checked { impossible: impossible.map(Refused::gap), decided }
        });
        Ok(checked.collect())
    }

    /// Returns the events of letters that SQL has.
    async fn committed(&self, entries: &[Entry]) -> Result<HashSet<Uuid>> {
        let events = entries.iter().filter(|entry| entry.is_event());
        let events: Vec<_> = events.filter_map(|entry| event_of(&entry.letter).ok()).collect();
        if events.is_empty() {
            return Ok(HashSet::new());
        }
        let column = |of: fn(&Address) -> String| -> Vec<String> {
            events.iter().map(|(address, _)| of(address)).collect()
        };
        let ids: Vec<Uuid> = events.iter().map(|(_, id)| *id).collect();
        let found = sqlx::query_scalar!(
            "select e.event_id
             from unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
                      as r (event_id, tenant, aggregate, id)
             join brigade.events e on (e.tenant, e.aggregate, e.id, e.event_id)
                 = (r.tenant, r.aggregate, r.id, r.event_id)",
            &ids,
            &column(|address| address.tenant.to_string()),
            &column(|address| address.aggregate.to_string()),
            &column(|address| address.id.to_string()),
        );
        Ok(found.fetch_all(&self.postgres).await?.into_iter().collect())
    }

    async fn states_of(&self, tenants: &HashSet<&str>) -> Result<HashMap<String, String>> {
        let tenants: Vec<&str> = tenants.iter().copied().collect();
        let rows = sqlx::query!(
            "select tenant, state from brigade.tenants where tenant = any ($1)",
            &tenants as _,
        );
        let rows = rows.fetch_all(&self.postgres).await?;
        Ok(rows.into_iter().map(|row| (row.tenant, row.state)).collect())
    }
}

/// Returns the command of a letter; nothing for an event.
///
/// # Errors
/// Why it can never be sent again as it is.
pub(super) fn command_of(letter: &Letter) -> Result<Option<Command>, String> {
    let raw = [RAW_HEADERS, RAW_HEADERS_IN_PAYLOAD, RAW_SUBJECT];
    if let Some(raw) = raw.into_iter().find(|name| letter.headers.get(*name).is_some()) {
        return Err(format!("its bytes are kept as {raw} and can be sent by no client: drop it"));
    }
    if letter.subject.starts_with("evt.") {
        return Ok(None);
    }
    if letter.subject.starts_with("due.") {
        return Err(format!(
            "{} is a timer, whose lock is found by its deadline in SQL all the same: drop it",
            letter.subject
        ));
    }
    if !letter.subject.starts_with("cmd.") {
        let subject = &letter.subject;
        return Err(format!("{subject} is neither a command nor an event: it cannot be replayed"));
    }
    if let Some(gone) = letter.payload_gone() {
        return Err(format!(
            "its payload was not kept ({gone}): have it sent again, then drop this"
        ));
    }
    match letter.decode(b"") {
        Err(refusal) if refusal.code == "wrong_tenant" => Err(format!(
            "{}, which had no right to send it: it is never sent again, drop it",
            refusal.message
        )),
        Err(refusal) => Err(format!(
            "{}: send it as it should be by `edit`, or send it again and drop this",
            refusal.message
        )),
        // No stream takes it, and no worker may send it.
        Ok(_) if is_secret_command(&letter.subject) => {
            Err("it carries a secret, which no stream stores: drop it".to_owned())
        }
        Ok(command) => Ok(Some(command)),
    }
}

fn is_secret_command(subject: &str) -> bool {
    parse_command(subject).is_some_and(|raw| is_secret(raw.aggregate, raw.verb))
}

/// Refuses what is no event of SQL: that alone is published.
fn uncommitted(letter: &Letter, committed: &HashSet<Uuid>) -> Option<String> {
    match event_of(letter) {
        Ok((_, id)) if committed.contains(&id) => None,
        Ok((_, id)) => {
            let subject = &letter.subject;
            Some(format!("{subject} {id} is not an event that was ever committed: drop it"))
        }
        Err(error) => Some(format!("{error}: drop it")),
    }
}

/// Refuses a command of a tenant that is not served: it would come back at once.
fn not_served(tenant: &str, state: Option<&str>) -> Option<String> {
    let remedy = match state {
        Some("active") => return None,
        Some("suspended") => {
            format!(
                "{tenant} is suspended, and it would become a dead letter again at once: \
                     `brigade tenants resume {tenant}` first"
            )
        }
        Some(_) => {
            format!(
                "{tenant} was removed, and it would become a dead letter again at once: \
                     `brigade tenants add {tenant} --restore` first, or drop it"
            )
        }
        None => {
            format!(
                "{tenant} is no tenant, and it would become a dead letter again at once: \
                     `brigade tenants add {tenant}` first, or drop it"
            )
        }
    };
    Some(remedy)
}

fn reused(other: &str) -> String {
    format!(
        "its Command-Id belongs to another command ({other}): send it under a new one by `edit`, \
         or drop it"
    )
}

fn too_old() -> Refused {
    Refused::gap(format!(
        "it is older than {OUTCOME_DAYS} days, so long outcomes are kept: it may have been done \
         since; drop it, or force it"
    ))
}
