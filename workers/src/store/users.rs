//! Users in SQL, as every reader gets them. Only command-handler locks and writes them.

use std::collections::{BTreeMap, HashMap};

use brigade_contracts::{
    Address, Aggregate, Email, Part, PartVersions, Secret, Timestamp, Token,
    user::{Status, Subscription},
};
use brigade_domain::{
    User,
    user::{Count, FailureKey, Rotated, Session, WINDOW},
};
use serde::Deserialize;
use sqlx::PgExecutor;

use super::rows::{head, keys, parse, refused};

/// A row of `brigade.users`.
#[derive(Deserialize)]
struct UserRow {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    parts: PartVersions,
    parts_at: BTreeMap<Part, Timestamp>,
    email: Email,
    profile_id: Token,
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

impl UserRow {
    fn session(&self) -> Option<Session> {
        let rotated = self.rotated_hash.clone().zip(self.rotated_by.clone());
        Some(Session {
            hash: self.session_hash.clone()?,
            access_hash: self.access_hash.clone()?,
            access_expires_at: self.access_expires_at?,
            refresh_hash: self.refresh_hash.clone()?,
            refresh_expires_at: self.refresh_expires_at?,
            rotated: rotated.map(|(hash, by)| Rotated { hash, by }),
        })
    }
}

/// Reads users without a lock.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<User>> {
    let (tenants, ids) = keys(Aggregate::User, addresses);
    let rows = sqlx::query_scalar!(
        r#"select row_to_json(u)::text as "row!"
           from unnest($1::text[], $2::text[]) as asked (tenant, id)
           join brigade.users u using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| from_row(row)).collect()
}

/// A user of its row as JSON.
///
/// # Errors
/// Where command-handler did not write it.
pub(crate) fn from_row(row: &str) -> sqlx::Result<User> {
    let row: UserRow = parse(row)?;
    let session = row.session();
    let (key, at) = ((row.tenant, row.id), row.updated_at);
    Ok(User {
        head: head(Aggregate::User, key, row.version, at, row.parts, &row.parts_at),
        email: row.email,
        profile_id: row.profile_id,
        password_hash: row.password_hash,
        status: row.status,
        roles: row.roles,
        session,
        last_login_at: row.last_login_at,
        subscription: row.subscription,
    })
}

/// The password hash of each addressed user that has the folded email beside it; `None` of the
/// others. In the order asked for.
///
/// # Errors
/// Those of Postgres.
pub async fn password_hashes(
    executor: impl PgExecutor<'_>,
    asked: &[(&Address, String)],
) -> sqlx::Result<Vec<Option<Secret>>> {
    let column = |f: fn(&Address) -> &str| asked.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
    let emails: Vec<_> = asked.iter().map(|(_, email)| email.as_str()).collect();
    let hashes = sqlx::query_scalar!(
        r#"select u.password_hash as "hash?"
           from unnest($1::text[], $2::text[], $3::text[])
                with ordinality as asked (tenant, id, email, place)
           left join brigade.users u
               on (u.tenant, u.id, u.email_folded) = (asked.tenant, asked.id, asked.email)
           order by asked.place"#,
        &column(|a| a.tenant.as_str()) as _,
        &column(|a| a.id.as_str()) as _,
        &emails as _,
    )
    .fetch_all(executor)
    .await?;
    hashes.into_iter().map(|hash| hash.map(Secret::new).transpose().map_err(refused)).collect()
}

/// Who has these emails; those that nobody has are in the answer too. To be read while the users
/// that may change theirs are locked.
///
/// # Errors
/// Those of Postgres.
pub async fn owners(
    executor: impl PgExecutor<'_>,
    emails: &[(Token, String)],
) -> sqlx::Result<HashMap<(Token, String), Option<Address>>> {
    let tenants: Vec<_> = emails.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let folded: Vec<_> = emails.iter().map(|(_, email)| email.as_str()).collect();
    let rows = sqlx::query!(
        "select u.tenant, u.email_folded, u.id
         from unnest($1::text[], $2::text[]) as asked (tenant, email)
         join brigade.users u on (u.tenant, u.email_folded) = (asked.tenant, asked.email)",
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

/// How often each of these keys has failed within [`WINDOW`], by the database's clock.
///
/// # Errors
/// Those of Postgres.
pub async fn failures(
    executor: impl PgExecutor<'_>,
    keys: &[FailureKey],
) -> sqlx::Result<Vec<(FailureKey, Count)>> {
    let column = |f: fn(&FailureKey) -> &str| keys.iter().map(f).collect::<Vec<_>>();
    let rows = sqlx::query!(
        r#"select count(f.at) as "failures!", min(f.at) as oldest
           from unnest($1::text[], $2::text[], $3::text[])
                with ordinality as asked (tenant, kind, key, place)
           left join brigade.login_failures f
               on (f.tenant, f.kind, f.key) = (asked.tenant, asked.kind, asked.key)
              and f.at > clock_timestamp() - make_interval(secs => $4)
           group by asked.place order by asked.place"#,
        &column(|key| key.tenant.as_str()) as _,
        &column(|key| key.kind.as_str()) as _,
        &column(|key| key.key.as_str()) as _,
        WINDOW.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?;
    let count = |failures, oldest: Option<time::OffsetDateTime>| Count {
        failures: u32::try_from(failures).unwrap_or(u32::MAX),
        oldest: oldest.map(Timestamp::from),
    };
    Ok(keys.iter().cloned().zip(rows.into_iter().map(|r| count(r.failures, r.oldest))).collect())
}
