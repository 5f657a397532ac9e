//! The stored outcome of a command, byte for byte.

use std::{collections::HashMap, ops::ControlFlow, time::Duration};

use brigade_contracts::{Refusal, Token, subject};
use bytes::Bytes;
use sqlx::PgConnection;

use super::{Edge, reply::Reply, together::Question};

/// Asks for stored outcomes, by tenant and Command-Id.
pub struct Inbox;

impl Question for Inbox {
    type Key = (Token, Token);
    type Row = Bytes;
    const AT_ONCE: usize = 1;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        keys: &[(Token, Token)],
    ) -> sqlx::Result<HashMap<(Token, Token), Bytes>> {
        let (tenants, ids): (Vec<_>, Vec<_>) =
            keys.iter().map(|(tenant, id)| (tenant.as_str(), id.as_str())).unzip();
        let rows = sqlx::query!(
            r#"select tenant, command_id, inbox.outcome::text as "outcome!"
               from unnest($1::text[], $2::text[]) as asked (tenant, command_id)
               join brigade.command_inbox inbox using (tenant, command_id)"#,
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
                Ok(((tenant.map_err(decode)?, id.map_err(decode)?), row.outcome.into()))
            })
            .collect()
    }
}

impl Edge {
    pub(super) async fn outcome(
        &self,
        tenant: Token,
        id: Token,
        wait: Duration,
    ) -> Result<Reply, Reply> {
        let wake_on = subject::outcome(&tenant, &id);
        let ask = async || match self.inbox.get((tenant.clone(), id.clone())).await {
            Ok(Some(outcome)) => ControlFlow::Break(Ok(Reply::ok(outcome))),
            Ok(None) => ControlFlow::Continue(Err(not_decided())),
            Err(_) => ControlFlow::Break(Err(Reply::unconfirmed())),
        };
        self.ask_until(wait, wake_on, ask).await?
    }
}

fn not_decided() -> Reply {
    let message = "no command of this id is decided, as far as is known";
    Refusal::new(404, "not_decided", message).into()
}
