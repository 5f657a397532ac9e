//! Queries of stored outcomes of commands, byte for byte.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc, time::Duration};

use brigade_contracts::{Refusal, Token, subject};
use bytes::Bytes;
use sqlx::PgConnection;

use super::{
    batch_loader::BatchLoader, database::ReadDatabase, loader::Loader, long_poll::LongPolls,
    reply::QueryReply,
};
use crate::store::rows::refused;

/// Answers queries of outcomes.
pub struct Outcomes {
    stored: BatchLoader<OutcomeLoader>,
    polls: LongPolls,
}

impl Outcomes {
    /// Reads outcomes from this database.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>, polls: LongPolls) -> Self {
        Self { stored: BatchLoader::new(database, OutcomeLoader), polls }
    }

    /// Returns the outcome of a command, and waits for it for at most `wait`. With `sender` that of
    /// any other user's command is not found.
    ///
    /// # Errors
    /// `404 not_decided`; `503 unconfirmed`; those of [`LongPolls::poll_until`].
    pub async fn get(
        &self,
        tenant: Token,
        command_id: Token,
        wait: Duration,
        sender: Option<&Token>,
    ) -> Result<QueryReply, QueryReply> {
        let wake_subject = subject::outcome(&tenant, &command_id);
        let evaluate = async || match self.stored.load((tenant.clone(), command_id.clone())).await {
            Ok(Some(stored)) if stored.may_be_read_by(sender) => {
                ControlFlow::Break(Ok(QueryReply::ok(stored.outcome)))
            }
            Ok(_) => ControlFlow::Continue(Err(not_decided())),
            Err(error) => ControlFlow::Break(Err(error.into())),
        };
        self.polls.poll_until(&tenant, wait, wake_subject, evaluate).await?
    }
}

/// A stored outcome, and the actor of its command, if it named one.
#[derive(Clone)]
pub struct OutcomeRecord {
    outcome: Bytes,
    actor: Option<String>,
}

impl OutcomeRecord {
    fn may_be_read_by(&self, sender: Option<&Token>) -> bool {
        sender.is_none_or(|sender| self.actor.as_deref() == Some(sender.as_str()))
    }
}

/// Loads stored outcomes, by tenant and Command-Id.
pub struct OutcomeLoader;

impl Loader for OutcomeLoader {
    type Key = (Token, Token);
    type Row = OutcomeRecord;
    const CONCURRENCY: usize = 2;
    /// An outcome may be as large as the aggregate that it has in it.
    const MAX_KEYS: usize = 64;

    async fn load(
        &self,
        connection: &mut PgConnection,
        keys: &[(Token, Token)],
    ) -> sqlx::Result<HashMap<(Token, Token), OutcomeRecord>> {
        let (tenants, ids): (Vec<_>, Vec<_>) =
            keys.iter().map(|(tenant, id)| (tenant.as_str(), id.as_str())).unzip();
        let rows = sqlx::query!(
            r#"select tenant, command_id, inbox.outcome::text as "outcome!", inbox.actor
               from unnest($1::text[], $2::text[]) as requested (tenant, command_id)
               join brigade.command_inbox inbox using (tenant, command_id)
               where (select pg_current_wal_lsn()) is not null"#,
            &tenants as _,
            &ids as _,
        )
        .fetch_all(connection)
        .await?;
        rows.into_iter()
            .map(|row| {
                let tenant = Token::new(row.tenant.as_deref().unwrap_or_default());
                let id = Token::new(row.command_id.as_deref().unwrap_or_default());
                let stored = OutcomeRecord { outcome: row.outcome.into(), actor: row.actor };
                Ok(((tenant.map_err(refused)?, id.map_err(refused)?), stored))
            })
            .collect()
    }
}

fn not_decided() -> QueryReply {
    let message = "no command of this id is decided, as far as is known";
    Refusal::new(404, "not_decided", message).into()
}
