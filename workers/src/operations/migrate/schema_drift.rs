use anyhow::Result;
use sqlx::PgConnection;

use super::MIGRATIONS;

/// Returns what of the schema is not as this version of the program has it.
///
/// # Errors
/// If Postgres refuses a statement.
pub async fn schema_drift(connection: &mut PgConnection) -> Result<Vec<String>> {
    let there: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        return Ok(vec!["there is no schema".to_owned()]);
    }
    let done: Vec<(i64, bool, Vec<u8>)> =
        sqlx::query_as("select version, success, checksum from _sqlx_migrations order by version")
            .fetch_all(connection)
            .await?;
    let mut drift = Vec::new();
    let known: Vec<_> = MIGRATIONS.iter().collect();
    for migration in &known {
        let version = migration.version;
        match done.iter().find(|(done, ..)| *done == version) {
            None => drift.push(format!("migration {version} is not done")),
            Some((_, false, _)) => drift.push(format!("migration {version} was not finished")),
            Some((_, true, checksum)) if **checksum != *migration.checksum => {
                drift.push(format!("migration {version} has another text"));
            }
            Some(_) => {}
        }
    }
    for (version, ..) in done {
        if !known.iter().any(|migration| migration.version == version) {
            drift.push(format!("migration {version} is of a newer version of brigade"));
        }
    }
    Ok(drift)
}
