//! The stored outcome of a command, byte for byte.

use std::{collections::HashMap, ops::ControlFlow, time::Duration};

use brigade_contracts::{Refusal, Token, subject};
use bytes::Bytes;
use sqlx::PgConnection;

use super::{Edge, reply::Reply, together::Question};

/// An outcome, and who sent its command, if that was told.
#[derive(Clone)]
pub struct Stored {
    outcome: Bytes,
    actor: Option<String>,
}

/// Asks for stored outcomes, by tenant and Command-Id.
pub struct Inbox;

impl Question for Inbox {
    type Key = (Token, Token);
    type Row = Stored;
    const AT_ONCE: usize = 2;
    /// An outcome may be as large as the aggregate that it shows.
    const MAX_KEYS: usize = 64;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        keys: &[(Token, Token)],
    ) -> sqlx::Result<HashMap<(Token, Token), Stored>> {
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
        let decode = |refusal: Refusal| sqlx::Error::Decode(refusal.into());
        rows.into_iter()
            .map(|row| {
                let tenant = Token::new(row.tenant.as_deref().unwrap_or_default());
                let id = Token::new(row.command_id.as_deref().unwrap_or_default());
                let stored = Stored { outcome: row.outcome.into(), actor: row.actor };
                Ok(((tenant.map_err(decode)?, id.map_err(decode)?), stored))
            })
            .collect()
    }
}

impl Edge {
    /// The outcome of a command; with `of` only of one that this user sent: any other is not
    /// decided as far as he can tell.
    pub(super) async fn outcome(
        &self,
        tenant: Token,
        id: Token,
        wait: Duration,
        of: Option<&Token>,
    ) -> Result<Reply, Reply> {
        let wake_on = subject::outcome(&tenant, &id);
        let ask = async || match self.inbox.get((tenant.clone(), id.clone())).await {
            Ok(Some(stored)) if stored.is_of(of) => {
                ControlFlow::Break(Ok(Reply::ok(stored.outcome)))
            }
            Ok(_) => ControlFlow::Continue(Err(not_decided())),
            Err(_) => ControlFlow::Break(Err(Reply::unconfirmed())),
        };
        self.ask_until(&tenant, wait, wake_on, ask).await?
    }
}

impl Stored {
    fn is_of(&self, user: Option<&Token>) -> bool {
        user.is_none_or(|user| self.actor.as_deref() == Some(user.as_str()))
    }
}

fn not_decided() -> Reply {
    let message = "no command of this id is decided, as far as is known";
    Refusal::new(404, "not_decided", message).into()
}
