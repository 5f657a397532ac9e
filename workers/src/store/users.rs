//! Users in SQL. Everybody reads them in this way; only command-handler locks and saves them.

use std::collections::BTreeMap;

use brigade_contracts::{
    Address, Aggregate, Email, Part, PartVersions, Secret, Timestamp, Token,
    user::{Status, Subscription},
};
use brigade_domain::{
    User,
    user::{Issued, Reset, Rotated, Session},
};
use serde::{Deserialize, Serialize, Serializer};
use sqlx::{PgConnection, PgExecutor};

use super::rows::{head, keys, parse, to_rows};

/// A row of `brigade.users`.
#[derive(Serialize, Deserialize)]
struct StoredUser {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    parts: PartVersions,
    parts_at: BTreeMap<Part, Timestamp>,
    email: Email,
    email_folded: String,
    profile_id: Token,
    #[serde(serialize_with = "exposed")]
    password_hash: Secret,
    /// The status that a release before knows: always active.
    status: Status,
    #[serde(default = "active")]
    account_status: Status,
    #[serde(default)]
    reset: Option<Reset>,
    roles: Vec<Token>,
    /// In the order of their last use. The last one stands in the columns below as well, where a
    /// release before finds it.
    #[serde(default)]
    sessions: Vec<Session>,
    #[serde(default)]
    known_sources: Vec<String>,
    session_hash: Option<String>,
    access_hash: Option<String>,
    access_expires_at: Option<Timestamp>,
    refresh_hash: Option<String>,
    refresh_expires_at: Option<Timestamp>,
    rotated_hash: Option<String>,
    rotated_by: Option<Token>,
    last_login_at: Option<Timestamp>,
    subscription: Option<Subscription>,
}

/// Loads users without a lock.
///
/// # Errors
/// If Postgres refuses the statement, or command-handler did not write a row.
pub async fn load(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<User>> {
    let (tenants, ids) = keys(Aggregate::User, addresses);
    let rows = sqlx::query_scalar!(
        r#"select row_to_json(u)::text as "row!"
           from unnest($1::text[], $2::text[]) as requested (tenant, id)
           join brigade.users u using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| from_row(row)).collect()
}

/// Loads users without a lock and without their hashes, each of which is `-`.
///
/// # Errors
/// If Postgres refuses the statement, or command-handler did not write a row.
pub async fn load_without_hashes(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<User>> {
    let (tenants, ids) = keys(Aggregate::User, addresses);
    let rows = sqlx::query_scalar!(
        r#"select body as "body!" from brigade.read_users($1, $2, '{}')"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| from_row(row)).collect()
}

/// Returns the user of a row as JSON.
///
/// # Errors
/// If command-handler did not write it.
pub(crate) fn from_row(row: &str) -> sqlx::Result<User> {
    parse::<StoredUser>(row).map(User::from)
}

/// Saves users that are locked, or new; see [`super::carts::save`]. If another handler gave the
/// same email to somebody else meanwhile, the unique index lets the transaction fail too.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(connection: &mut PgConnection, users: &[&User]) -> sqlx::Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.users
             (tenant, id, version, updated_at, parts, parts_at, email, email_folded, profile_id,
              password_hash, status, account_status, reset, roles, sessions, known_sources,
              session_hash, access_hash, access_expires_at, refresh_hash, refresh_expires_at, rotated_hash, rotated_by,
              last_login_at, subscription)
         select tenant, id, version, updated_at, parts, parts_at, email, email_folded, profile_id,
                password_hash, status, account_status, reset, roles, sessions, known_sources,
                session_hash, access_hash, access_expires_at, refresh_hash, refresh_expires_at, rotated_hash, rotated_by,
                last_login_at, subscription
         from jsonb_populate_recordset(null::brigade.users, $1)
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             parts = excluded.parts, parts_at = excluded.parts_at,
             email = excluded.email, email_folded = excluded.email_folded,
             profile_id = excluded.profile_id, password_hash = excluded.password_hash,
             status = excluded.status, account_status = excluded.account_status,
             reset = excluded.reset, roles = excluded.roles, sessions = excluded.sessions,
             known_sources = excluded.known_sources, session_hash = excluded.session_hash, access_hash = excluded.access_hash,
             access_expires_at = excluded.access_expires_at,
             refresh_hash = excluded.refresh_hash,
             refresh_expires_at = excluded.refresh_expires_at,
             rotated_hash = excluded.rotated_hash, rotated_by = excluded.rotated_by,
             last_login_at = excluded.last_login_at, subscription = excluded.subscription",
        to_rows::<StoredUser, _>(users.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl From<&User> for StoredUser {
    fn from(user: &User) -> Self {
        let session = user.sessions.last();
        let issued = session.map(|session| &session.issued);
        let rotated = session.and_then(|session| session.rotated.as_ref());
        Self {
            tenant: user.head.address.tenant.clone(),
            id: user.head.address.id.clone(),
            version: user.head.version,
            updated_at: user.head.at,
            parts: user.head.part_versions(),
            parts_at: user.head.part_times(),
            email: user.email.clone(),
            email_folded: user.email.folded(),
            profile_id: user.profile_id.clone(),
            password_hash: user.password_hash.clone(),
            status: Status::Active,
            account_status: user.status,
            reset: user.reset.clone(),
            roles: user.roles.clone(),
            sessions: user.sessions.clone(),
            known_sources: user.known_sources.clone(),
            session_hash: session.map(|session| session.hash.clone()),
            access_hash: issued.map(|issued| issued.access_hash.clone()),
            access_expires_at: issued.map(|issued| issued.access_expires_at),
            refresh_hash: issued.map(|issued| issued.refresh_hash.clone()),
            refresh_expires_at: session.map(|session| session.refresh_expires_at),
            rotated_hash: rotated.map(|rotated| rotated.hash.clone()),
            rotated_by: rotated.and(issued).and_then(|issued| issued.by.clone()),
            last_login_at: user.last_login_at,
            subscription: user.subscription.clone(),
        }
    }
}

impl From<StoredUser> for User {
    fn from(mut row: StoredUser) -> Self {
        let sessions = row.take_sessions();
        let (key, at) = ((row.tenant, row.id), row.updated_at);
        Self {
            head: head(Aggregate::User, key, row.version, at, row.parts, &row.parts_at),
            email: row.email,
            profile_id: row.profile_id,
            password_hash: row.password_hash,
            status: row.account_status,
            reset: row.reset,
            roles: row.roles,
            sessions,
            known_sources: row.known_sources,
            last_login_at: row.last_login_at,
            subscription: row.subscription,
        }
    }
}

impl StoredUser {
    /// Returns the sessions. A release before knows only the last one: what it has done with that
    /// one stands in the columns alone. Where it has ended it, it shows the user as one without a
    /// session, so there is none.
    fn take_sessions(&mut self) -> Vec<Session> {
        let mut sessions = std::mem::take(&mut self.sessions);
        let last = sessions.pop();
        let Some(present) = self.session_in_columns() else { return Vec::new() };
        let known = |last: &Session, present: &Session| {
            (&last.hash, &last.issued.refresh_hash) == (&present.hash, &present.issued.refresh_hash)
        };
        sessions.push(match last {
            Some(last) if known(&last, &present) => last,
            Some(Session { name, began_at, begun_by, hash, .. }) if hash == present.hash => {
                Session { name, began_at, begun_by, ..present }
            }
            _ => present,
        });
        sessions
    }

    fn session_in_columns(&mut self) -> Option<Session> {
        let by = self.rotated_by.take();
        let rotated = self.rotated_hash.take();
        Some(Session {
            hash: self.session_hash.take()?,
            name: None,
            began_at: self.last_login_at?,
            begun_by: None,
            used_at: self.updated_at,
            refresh_expires_at: self.refresh_expires_at?,
            issued: Issued {
                access_hash: self.access_hash.take()?,
                access_expires_at: self.access_expires_at?,
                refresh_hash: self.refresh_hash.take()?,
                by,
            },
            raced: Vec::new(),
            rotated: rotated.map(|hash| Rotated { hash, others: Vec::new(), at: None }),
        })
    }
}

fn active() -> Status {
    Status::Active
}

fn exposed<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}
