//! The settings of the workers' roles: `brigade migrate` gives them to the roles, and each new
//! connection is checked for them.
//!
//! They belong to the role and not to the session, since a pooler in transaction mode passes no
//! start-up parameters on and gives each transaction to another session of the server.

use brigade_contracts::WorkerName;
use sqlx::{Error, FromRow, PgConnection};

/// The name and the value of a setting, spelled as Postgres shows it.
pub type Setting = (&'static str, &'static str);

/// The settings of every worker's role.
pub const COMMON: [Setting; 8] = [
    // A batch reads what it has locked before: that is right at this level only.
    ("default_transaction_isolation", "read committed"),
    ("lock_timeout", "500ms"),
    // Else a statement with arrays is planned again each time, which takes longer than executing
    // it: the planner thinks that it knows their lengths.
    ("plan_cache_mode", "force_generic_plan"),
    // Plans are kept, and a table that is empty when they are made is large later. What has no
    // index to go by looks expensive then, and is not worth compiling.
    ("enable_seqscan", "off"),
    ("jit", "off"),
    // How long a process that is stopped can hold anything up.
    ("idle_in_transaction_session_timeout", "1s"),
    ("statement_timeout", "3500ms"),
    // A statement that nobody waits for any more ends.
    ("client_connection_check_interval", "1s"),
];

/// The settings of outbox-relay's role instead of these, or besides.
const OUTBOX_RELAY: [Setting; 5] = [
    // A lost delete repeats an event; a lost lease is taken again.
    ("synchronous_commit", "off"),
    // The first read of a shard has no watermark. Should millions of dead entries lie there, it
    // must take its time once instead of failing for ever.
    ("statement_timeout", "30s"),
    // The outbox is empty when statistics are taken and full when it matters. Everything is found
    // by key; a plan that reads or hashes a whole table is always wrong.
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// Bounds what is sent and never acknowledged. Postgres shows the value that the kernel has, and
/// none on a socket of the machine, so it is given and not checked.
const UNACKNOWLEDGED: Setting = ("tcp_user_timeout", "2s");

/// Returns the settings that a connection of a worker has to have.
#[must_use]
pub fn checked_settings(worker: WorkerName) -> Vec<Setting> {
    let own: &[Setting] = match worker {
        WorkerName::OutboxRelay => &OUTBOX_RELAY,
        _ => &[],
    };
    let is_own = |name: &str| own.iter().any(|(own, _)| *own == name);
    COMMON.into_iter().filter(|(name, _)| !is_own(name)).chain(own.iter().copied()).collect()
}

/// Returns the settings that `brigade migrate` gives to the role of a worker.
#[must_use]
pub fn role_settings(worker: WorkerName) -> Vec<Setting> {
    let mut settings = checked_settings(worker);
    settings.push(UNACKNOWLEDGED);
    settings
}

/// Refuses a connection that does not have these settings: nothing would protect this server from a
/// process that is stopped, and a batch could decide on what has changed since. Refuses a server in
/// recovery too, as [`super::refuse_standby`] does, in the same statement.
///
/// # Errors
/// [`Error::Configuration`] with the settings that differ; otherwise that of Postgres, `55000` in
/// recovery.
pub async fn check(connection: &mut PgConnection, settings: &[Setting]) -> sqlx::Result<()> {
    let names: Vec<_> = settings.iter().map(|(name, _)| format!("'{name}'")).collect();
    let read = format!(
        "select name, current_setting(name), current_user::text
         from unnest(array[{}]) with ordinality as asked (name, place)
         where (select pg_current_wal_lsn()) is not null order by place",
        names.join(", ")
    );
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(read)).fetch_all(connection).await?;
    let mut differing = Vec::new();
    let mut role = String::new();
    for (row, (_, wanted)) in rows.iter().zip(settings) {
        let (name, found, user): (String, String, String) = FromRow::from_row(row)?;
        role = user;
        if found != *wanted {
            differing.push(format!("{name} = {found} instead of {wanted}"));
        }
    }
    if differing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "the role {role} of Postgres has {}: run `brigade migrate`, which gives the roles their \
         settings; a pooler in between then has to open its connections again",
        differing.join(", ")
    );
    Err(Error::Configuration(why.into()))
}
