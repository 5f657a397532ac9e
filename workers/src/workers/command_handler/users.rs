//! Writes users, and the failed logins that slow guessing down.

use brigade_contracts::Timestamp;
use brigade_domain::{
    User,
    user::{FailureKey, Session, Throttle},
};
use sqlx::{Postgres, Transaction, types::Json};
use time::OffsetDateTime;

use super::columns::Columns;

/// Writes users that are locked, or new; see [`super::carts::save`]. Where another handler gave the
/// same email to somebody else meanwhile, the unique index lets the transaction fail too.
///
/// # Errors
/// Those of Postgres.
pub async fn save(tx: &mut Transaction<'_, Postgres>, users: &[&User]) -> sqlx::Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    let c = Columns(users);
    let folded: Vec<String> = users.iter().map(|u| u.email.folded()).collect();
    let logins: Vec<_> = users.iter().map(|u| u.last_login_at.map(Timestamp::inner)).collect();
    let subscriptions: Vec<_> = users.iter().map(|u| u.subscription.as_ref().map(Json)).collect();
    sqlx::query_file!(
        "src/workers/command_handler/save_users.sql",
        &c.text(|u| u.head.address.tenant.as_str()) as _,
        &c.text(|u| u.head.address.id.as_str()) as _,
        &c.number(|u| u.head.version.cast_signed()),
        &c.time(|u| u.head.at),
        &c.document(|u| u.head.part_versions()) as _,
        &c.document(|u| u.head.part_times()) as _,
        &c.text(|u| u.email.as_str()) as _,
        &folded,
        &c.text(|u| u.profile_id.as_str()) as _,
        &c.text(|u| u.password_hash.expose()) as _,
        &c.text(|u| u.status.as_str()) as _,
        &c.document(|u| &u.roles) as _,
        &of_session(users, |s| &s.hash) as _,
        &of_session(users, |s| &s.access_hash) as _,
        &ends(users, |s| s.access_expires_at) as _,
        &of_session(users, |s| &s.refresh_hash) as _,
        &ends(users, |s| s.refresh_expires_at) as _,
        &c.optional(|u| Some(u.session.as_ref()?.rotated.as_ref()?.hash.as_str())) as _,
        &c.optional(|u| Some(u.session.as_ref()?.rotated.as_ref()?.by.as_str())) as _,
        &logins as _,
        &subscriptions as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn of_session<'a>(users: &[&'a User], field: fn(&'a Session) -> &'a str) -> Vec<Option<&'a str>> {
    users.iter().map(|user| user.session.as_ref().map(field)).collect()
}

fn ends(users: &[&User], field: fn(&Session) -> Timestamp) -> Vec<Option<OffsetDateTime>> {
    users.iter().map(|user| user.session.as_ref().map(|s| field(s).inner())).collect()
}

/// Writes what a batch adds to the failed logins, after it forgets those that are cleared.
///
/// # Errors
/// Those of Postgres.
pub async fn save_failures(
    tx: &mut Transaction<'_, Postgres>,
    throttle: &Throttle,
) -> sqlx::Result<()> {
    if !throttle.cleared().is_empty() {
        let (tenants, kinds, keys) = columns(throttle.cleared());
        sqlx::query!(
            "delete from brigade.login_failures f
             using unnest($1::text[], $2::text[], $3::text[]) as cleared (tenant, kind, key)
             where (f.tenant, f.kind, f.key) = (cleared.tenant, cleared.kind, cleared.key)",
            &tenants as _,
            &kinds as _,
            &keys as _,
        )
        .execute(&mut **tx)
        .await?;
    }
    if !throttle.added().is_empty() {
        let (tenants, kinds, keys) = columns(throttle.added().iter().map(|(key, _)| key));
        let times: Vec<_> = throttle.added().iter().map(|(_, at)| at.inner()).collect();
        sqlx::query!(
            "insert into brigade.login_failures (tenant, kind, key, at)
             select * from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[])",
            &tenants as _,
            &kinds as _,
            &keys as _,
            &times,
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

type KeyColumns<'a> = (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>);

fn columns<'a>(keys: impl IntoIterator<Item = &'a FailureKey>) -> KeyColumns<'a> {
    let row = |key: &'a FailureKey| (key.tenant.as_str(), key.kind.as_str(), key.key.as_str());
    keys.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests;
