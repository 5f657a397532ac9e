//! Queries of stored outcomes of commands, byte for byte.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc, time::Duration};

use brigade_contracts::{CommandKey, Era, IdSpace, Refusal, Token, subject};
use bytes::Bytes;
use sqlx::PgConnection;

use super::{
    batch_loader::BatchLoader, database::ReadDatabase, loader::Loader, long_poll::LongPolls,
    reply::QueryReply,
};

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

    /// Returns the outcome of a command, and waits for it for at most `wait`.
    ///
    /// # Errors
    /// `404 not_decided`; `503 unconfirmed`; those of [`LongPolls::poll_until`].
    pub async fn get(
        &self,
        tenant: Token,
        command: CommandKey,
        wait: Duration,
    ) -> Result<QueryReply, QueryReply> {
        // Of a command over HTTP nothing is published: a query that waits looks again by itself.
        let wake_subject = subject::outcome(&tenant, &command.id);
        let evaluate = async || match self.stored.load((tenant.clone(), command.clone())).await {
            Ok(Some(stored)) => ControlFlow::Break(Ok(QueryReply::ok(stored))),
            Ok(None) => ControlFlow::Continue(Err(not_decided())),
            Err(error) => ControlFlow::Break(Err(error.into())),
        };
        self.polls.poll_until(&tenant, wait, wake_subject, evaluate).await?
    }
}

/// Loads stored outcomes, by tenant and key.
pub struct OutcomeLoader;

impl Loader for OutcomeLoader {
    type Key = (Token, CommandKey);
    type Row = Bytes;
    const CONCURRENCY: usize = 2;
    /// An outcome may be as large as the aggregate that it has in it.
    const MAX_KEYS: usize = 64;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[(Token, CommandKey)],
    ) -> sqlx::Result<HashMap<(Token, CommandKey), Bytes>> {
        let tenants: Vec<_> = keys.iter().map(|(tenant, _)| tenant.as_str()).collect();
        let ids: Vec<_> = keys.iter().map(|(_, key)| key.to_string()).collect();
        let (users, of_users): (Vec<_>, Vec<_>) = keys.iter().map(|(_, key)| of_user(key)).unzip();
        let rows = sqlx::query!(
            r#"select place as "place!", outcome as "outcome!"
               from brigade.read_outcomes($1, $2, $3, $4, $5)"#,
            era.as_sql(),
            &tenants as _,
            &ids,
            &users as _,
            &of_users as _,
        )
        .fetch_all(connection)
        .await?;
        let found = rows.into_iter().filter_map(|row| {
            let key = keys.get(usize::try_from(row.place - 1).ok()?)?;
            Some((key.clone(), Bytes::from(row.outcome)))
        });
        Ok(found.collect())
    }
}

/// Returns the user in whose name space a key is, and the id there.
fn of_user(key: &CommandKey) -> (Option<&str>, Option<&str>) {
    match &key.space {
        IdSpace::User(user) => (Some(user.as_str()), Some(key.id.as_str())),
        IdSpace::Nats | IdSpace::Stranger(_) => (None, None),
    }
}

fn not_decided() -> QueryReply {
    let message = "no command of this id is decided, as far as is known";
    Refusal::new(404, "not_decided", message).into()
}
