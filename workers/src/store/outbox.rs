use brigade_contracts::{Address, Part, shard_of};
use sqlx::PgConnection;

/// Puts the newest event that carries each of these parts into the outbox again. Returns how many
/// there were.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn repeat_parts<'a>(
    postgres: &mut PgConnection,
    parts: impl IntoIterator<Item = &'a (Address, Part)>,
) -> sqlx::Result<u64> {
    let (addresses, parts): (Vec<_>, Vec<_>) =
        parts.into_iter().map(|(address, part)| (address, part.as_str())).unzip();
    if addresses.is_empty() {
        return Ok(0);
    }
    let text = |f: fn(&Address) -> &str| addresses.iter().map(|a| f(a)).collect::<Vec<_>>();
    let shards: Vec<i16> = addresses.iter().map(|a| i16::from(shard_of(a))).collect();
    let repeated = sqlx::query_file!(
        "src/store/repeat_parts.sql",
        &text(|a| a.tenant.as_str()) as _,
        &text(|a| a.aggregate.as_str()) as _,
        &text(|a| a.id.as_str()) as _,
        &shards,
        &parts as _,
    )
    .execute(postgres)
    .await?;
    Ok(repeated.rows_affected())
}
