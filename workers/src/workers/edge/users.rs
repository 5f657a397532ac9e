//! Whether a token is that of a user's session, and what is known of a user.
//!
//! Both are read from SQL, in one statement for all who wait, so that a token that was just issued
//! is good and one that was just replaced is not. A look at the version first, and at KV then,
//! would cost the same statement and save nothing: it is one row. While Postgres is away nothing is
//! certain, and nobody is let in.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{
    Address, Part, Refusal, Timestamp,
    user::{Roles, SubscriptionPart, UserState, Valid, Validate},
};
use brigade_domain::User;
use serde::Serialize;
use sqlx::PgConnection;

use super::{Edge, reply::Reply, together::Question};
use crate::store::{rows::keys, users::from_row};

/// A user, and the database's time when it was read.
#[derive(Debug)]
pub struct Known {
    user: User,
    now: Timestamp,
}

/// Asks for users.
pub struct Users;

impl Question for Users {
    type Key = Address;
    type Row = Arc<Known>;
    /// With one alone, a query would wait for the end of a statement that came just before it.
    const AT_ONCE: usize = 3;
    const MAX_KEYS: usize = 256;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, Arc<Known>>> {
        let (tenants, ids) = keys(brigade_contracts::Aggregate::User, addresses.iter());
        let rows = sqlx::query!(
            r#"select row_to_json(u)::text as "row!", clock_timestamp() as "now!"
               from unnest($1::text[], $2::text[]) as requested (tenant, id)
               join brigade.users u using (tenant, id)
               where (select pg_current_wal_lsn()) is not null"#,
            &tenants as _,
            &ids as _,
        )
        .fetch_all(connection)
        .await?;
        let known = |user: User, now| (user.head.address.clone(), Arc::new(Known { user, now }));
        rows.into_iter().map(|row| Ok(known(from_row(&row.row)?, row.now.into()))).collect()
    }
}

impl Known {
    /// The answer to whoever shows this token.
    fn valid(&self, asked: &Validate) -> Option<Valid> {
        let Self { user, now } = self;
        let expires_at = user.auth().valid_until(&asked.access_token, *now)?;
        Some(Valid {
            user: user.head.address.id.clone(),
            profile_id: user.profile_id.clone(),
            roles: user.roles.clone(),
            subscription: user.subscription.clone(),
            expires_at,
        })
    }

    fn state(&self) -> UserState {
        let user = &self.user;
        let (version, at) = user.head.part(Part::Subscription);
        let subscription = SubscriptionPart::new(version, at, user.subscription.as_ref());
        let (version, at) = user.head.part(Part::Roles);
        UserState {
            version: user.head.version,
            auth: user.auth().shown(),
            subscription,
            roles: Roles { version, at, roles: user.roles.clone() },
        }
    }
}

impl Edge {
    pub(super) async fn user_validate(
        &self,
        user: Address,
        asked: &Validate,
    ) -> Result<Reply, Reply> {
        self.valid(user, asked).await.map(|valid| ok(&valid))
    }

    /// Whose session a token is.
    pub(super) async fn valid(&self, user: Address, asked: &Validate) -> Result<Valid, Reply> {
        let known = self.users.get(user).await.map_err(|_| Reply::unconfirmed())?;
        known.and_then(|known| known.valid(asked)).ok_or_else(|| invalid_token().into())
    }

    pub(super) async fn user_state(&self, user: Address) -> Result<Reply, Reply> {
        match self.users.get(user).await {
            Ok(Some(known)) => Ok(ok(&known.state())),
            Ok(None) => Err(Refusal::new(404, "not_found", "there is no such user").into()),
            Err(_) => Err(Reply::unconfirmed()),
        }
    }
}

/// Of a user that is not there as well: who asks learns nothing about who is.
pub(super) fn invalid_token() -> Refusal {
    Refusal::new(401, "invalid_token", "this is not the token of a session")
}

fn ok(body: &impl Serialize) -> Reply {
    Reply::ok(serde_json::to_vec(body).expect("shapes of ours serialise").into())
}
