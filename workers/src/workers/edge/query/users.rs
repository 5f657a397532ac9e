//! Queries of users: whether a token is that of a user's session, and the state of a user.
//!
//! Both are read from SQL, in one statement for all who wait, so that a token that was just issued
//! is good and one that was just replaced is not. To confirm the version and then to read KV would
//! cost the same statement and save nothing: it is one row. While Postgres is unavailable nothing
//! is certain, and nobody is let in.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{
    Address, Era, Part, Refusal, Timestamp, Token,
    user::{Roles, Sessions, SubscriptionPart, UserState, Valid, Validate},
};
use brigade_domain::{User, user::Session};
use serde::Deserialize;
use sqlx::PgConnection;

use super::{
    batch_loader::BatchLoader,
    database::ReadDatabase,
    loader::{AddressColumns, Loader},
    reply::QueryReply,
};
use crate::store::{rows::parse, users::from_row};

/// Answers queries of users.
pub struct Users {
    snapshots: BatchLoader<UserLoader>,
}

impl Users {
    /// Reads users from this database.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>) -> Self {
        Self { snapshots: BatchLoader::new(database, UserLoader) }
    }

    /// Returns the session that an access token belongs to.
    ///
    /// # Errors
    /// `401 invalid_token`, of a user that does not exist as well; `503 unconfirmed`.
    pub async fn validate(
        &self,
        user: Address,
        credentials: &Validate,
    ) -> Result<Valid, QueryReply> {
        let access_hash = credentials.access_token.sha256();
        let snapshot = self.snapshots.load((user, Some(access_hash))).await?;
        let session = snapshot.and_then(|snapshot| snapshot.session());
        session.ok_or_else(|| invalid_token().into())
    }

    /// Returns all parts of a user.
    ///
    /// # Errors
    /// `404 not_found`; `503 unconfirmed`.
    pub async fn state(&self, user: Address) -> Result<UserState, QueryReply> {
        Ok(self.snapshot(user).await?.state())
    }

    /// Returns the sessions of a user.
    ///
    /// # Errors
    /// `404 not_found`; `503 unconfirmed`.
    pub async fn sessions(&self, user: Address) -> Result<Sessions, QueryReply> {
        Ok(self.snapshot(user).await?.sessions())
    }

    async fn snapshot(&self, user: Address) -> Result<Arc<UserSnapshot>, QueryReply> {
        let snapshot = self.snapshots.load((user, None)).await?;
        Ok(snapshot.ok_or_else(|| Refusal::new(404, "not_found", "there is no such user"))?)
    }
}

/// A user without hashes, and the database's time when it was read.
#[derive(Debug)]
pub struct UserSnapshot {
    user: User,
    token: OfToken,
    read_at: Timestamp,
}

/// The answer about an access token; nothing if it is not valid.
#[derive(Debug, Deserialize)]
struct OfToken {
    #[serde(rename = "token_session")]
    session: Option<Token>,
    #[serde(rename = "token_expires_at")]
    expires_at: Option<Timestamp>,
}

impl UserSnapshot {
    /// Returns the session of the access token, if it is valid.
    fn session(&self) -> Option<Valid> {
        let Self { user, token, .. } = self;
        Some(Valid {
            user: user.head.address.id.clone(),
            profile_id: user.profile_id.clone(),
            roles: user.roles.clone(),
            subscription: user.subscription.clone(),
            expires_at: token.expires_at?,
            session: Some(token.session.clone()?),
        })
    }

    fn sessions(&self) -> Sessions {
        let live = self.user.sessions.iter().filter(|s| self.read_at < s.refresh_expires_at);
        Sessions {
            user: self.user.head.address.id.clone(),
            sessions: live.rev().map(Session::shown).collect(),
        }
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

/// Loads users, each with or without the hash of an access token that may be its session's. SQL
/// compares them: this worker may read no hash.
pub struct UserLoader;

impl Loader for UserLoader {
    type Key = (Address, Option<String>);
    type Row = Arc<UserSnapshot>;
    /// With one alone, a query would wait for the end of a statement that came just before it.
    const CONCURRENCY: usize = 3;
    const MAX_KEYS: usize = 256;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[Self::Key],
    ) -> sqlx::Result<HashMap<Self::Key, Arc<UserSnapshot>>> {
        let addresses = keys.iter().map(|(address, _)| address);
        let AddressColumns { tenants, ids, .. } = AddressColumns::new(addresses);
        let hashes: Vec<_> = keys.iter().map(|(_, hash)| hash.as_deref()).collect();
        let rows = sqlx::query!(
            r#"select place as "place!", body as "body!", clock_timestamp() as "now!"
               from brigade.read_users($1, $2, $3)
               where (select brigade.assert_era($4))"#,
            &tenants as _,
            &ids as _,
            &hashes as _,
            era.as_sql(),
        )
        .fetch_all(connection)
        .await?;
        let mut loaded = HashMap::with_capacity(rows.len());
        for row in rows {
            let asked = usize::try_from(row.place - 1).ok().and_then(|place| keys.get(place));
            if let Some(key) = asked {
                let (user, token) = (from_row(&row.body)?, parse(&row.body)?);
                let snapshot = UserSnapshot { user, token, read_at: row.now.into() };
                loaded.insert(key.clone(), Arc::new(snapshot));
            }
        }
        Ok(loaded)
    }
}

/// Returns `401 invalid_token`. It is the same for users that do not exist, so nobody learns which
/// do.
pub fn invalid_token() -> Refusal {
    Refusal::new(401, "invalid_token", "this is not the token of a session")
}
