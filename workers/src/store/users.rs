//! Users in SQL. Everybody reads them in this way; only command-handler locks and saves them.

use std::collections::{BTreeMap, HashMap};

use brigade_contracts::{
    Address, Aggregate, Email, Part, PartVersions, Secret, Timestamp, Token,
    user::{Status, Subscription},
};
use brigade_domain::{
    User,
    user::{Rotated, Session},
};
use serde::{Deserialize, Serialize, Serializer};
use sqlx::{PgConnection, PgExecutor};

use super::rows::{head, keys, parse, refused, to_rows};

/// A row of `brigade.users`.
#[derive(Serialize, Deserialize)]
struct UserRow {
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
    status: Status,
    roles: Vec<Token>,
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
    parse::<UserRow>(row).map(User::from)
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
              password_hash, status, roles, session_hash, access_hash, access_expires_at,
              refresh_hash, refresh_expires_at, rotated_hash, rotated_by, last_login_at,
              subscription)
         select tenant, id, version, updated_at, parts, parts_at, email, email_folded, profile_id,
                password_hash, status, roles, session_hash, access_hash, access_expires_at,
                refresh_hash, refresh_expires_at, rotated_hash, rotated_by, last_login_at,
                subscription
         from jsonb_populate_recordset(null::brigade.users, $1)
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             parts = excluded.parts, parts_at = excluded.parts_at,
             email = excluded.email, email_folded = excluded.email_folded,
             profile_id = excluded.profile_id, password_hash = excluded.password_hash,
             status = excluded.status, roles = excluded.roles,
             session_hash = excluded.session_hash, access_hash = excluded.access_hash,
             access_expires_at = excluded.access_expires_at,
             refresh_hash = excluded.refresh_hash,
             refresh_expires_at = excluded.refresh_expires_at,
             rotated_hash = excluded.rotated_hash, rotated_by = excluded.rotated_by,
             last_login_at = excluded.last_login_at, subscription = excluded.subscription",
        to_rows::<UserRow, _>(users.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Loads the password hash of each addressed user that has the folded email beside it; `None` for
/// the others. In the order of the request.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn password_hashes(
    executor: impl PgExecutor<'_>,
    requested: &[(&Address, String)],
) -> sqlx::Result<Vec<Option<Secret>>> {
    let column = |f: fn(&Address) -> &str| requested.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
    let emails: Vec<_> = requested.iter().map(|(_, email)| email.as_str()).collect();
    let hashes = sqlx::query_scalar!(
        r#"select u.password_hash as "hash?"
           from unnest($1::text[], $2::text[], $3::text[])
                with ordinality as requested (tenant, id, email, place)
           left join brigade.users u
               on (u.tenant, u.id, u.email_folded)
                  = (requested.tenant, requested.id, requested.email)
           order by requested.place"#,
        &column(|a| a.tenant.as_str()) as _,
        &column(|a| a.id.as_str()) as _,
        &emails as _,
    )
    .fetch_all(executor)
    .await?;
    hashes.into_iter().map(|hash| hash.map(Secret::new).transpose().map_err(refused)).collect()
}

/// Loads who has these emails; those that nobody has are in the answer too. The users that may
/// change theirs are to be locked before.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn owners(
    executor: impl PgExecutor<'_>,
    emails: &[(Token, String)],
) -> sqlx::Result<HashMap<(Token, String), Option<Address>>> {
    let tenants: Vec<_> = emails.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let folded: Vec<_> = emails.iter().map(|(_, email)| email.as_str()).collect();
    let rows = sqlx::query!(
        "select u.tenant, u.email_folded, u.id
         from unnest($1::text[], $2::text[]) as requested (tenant, email)
         join brigade.users u on (u.tenant, u.email_folded) = (requested.tenant, requested.email)",
        &tenants as _,
        &folded as _,
    )
    .fetch_all(executor)
    .await?;
    let mut owners: HashMap<_, _> = emails.iter().cloned().map(|email| (email, None)).collect();
    for row in rows {
        let owner = Address::new(&row.tenant, Aggregate::User, &row.id).map_err(refused)?;
        owners.insert((owner.tenant.clone(), row.email_folded), Some(owner));
    }
    Ok(owners)
}

impl From<&User> for UserRow {
    fn from(user: &User) -> Self {
        let session = user.session.as_ref();
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
            status: user.status,
            roles: user.roles.clone(),
            session_hash: session.map(|session| session.hash.clone()),
            access_hash: session.map(|session| session.access_hash.clone()),
            access_expires_at: session.map(|session| session.access_expires_at),
            refresh_hash: session.map(|session| session.refresh_hash.clone()),
            refresh_expires_at: session.map(|session| session.refresh_expires_at),
            rotated_hash: rotated.map(|rotated| rotated.hash.clone()),
            rotated_by: rotated.map(|rotated| rotated.by.clone()),
            last_login_at: user.last_login_at,
            subscription: user.subscription.clone(),
        }
    }
}

impl From<UserRow> for User {
    fn from(mut row: UserRow) -> Self {
        let session = row.take_session();
        let (key, at) = ((row.tenant, row.id), row.updated_at);
        Self {
            head: head(Aggregate::User, key, row.version, at, row.parts, &row.parts_at),
            email: row.email,
            profile_id: row.profile_id,
            password_hash: row.password_hash,
            status: row.status,
            roles: row.roles,
            session,
            last_login_at: row.last_login_at,
            subscription: row.subscription,
        }
    }
}

impl UserRow {
    fn take_session(&mut self) -> Option<Session> {
        let rotated = self.rotated_hash.take().zip(self.rotated_by.take());
        Some(Session {
            hash: self.session_hash.take()?,
            access_hash: self.access_hash.take()?,
            access_expires_at: self.access_expires_at?,
            refresh_hash: self.refresh_hash.take()?,
            refresh_expires_at: self.refresh_expires_at?,
            rotated: rotated.map(|(hash, by)| Rotated { hash, by }),
        })
    }
}

fn exposed<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}
