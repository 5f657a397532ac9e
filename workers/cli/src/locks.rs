use std::process::ExitCode;

use anyhow::Result;
use brigade::{fleet::config::RunConfig, infra::postgres::operator_pool};
use brigade_contracts::Timestamp;
use sqlx::PgPool;

use super::{output::line, printable::printable};

/// Reads SQL by BRIGADE_DATABASE_URL.
#[derive(clap::Args)]
pub struct LocksArgs {
    #[command(subcommand)]
    action: LocksAction,
}

#[derive(clap::Subcommand)]
enum LocksAction {
    /// List the locks that are held
    Ls {
        /// Only locks of this restaurant
        #[arg(long)]
        tenant: Option<String>,
    },
    /// List what was done with an owner's locks, newest first
    History {
        /// The restaurant, such as `demo`
        tenant: String,
        /// A user, or a session before login
        owner: String,
        /// Entries at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}

pub async fn run(args: LocksArgs) -> Result<ExitCode> {
    let postgres = operator_pool(RunConfig::from_env()?.database_url()?).await?;
    match args.action {
        LocksAction::Ls { tenant } => list(&postgres, tenant.as_deref()).await?,
        LocksAction::History { tenant, owner, limit } => {
            history(&postgres, &tenant, &owner, limit).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(postgres: &PgPool, tenant: Option<&str>) -> Result<()> {
    let locks = sqlx::query!(
        r#"select tenant, owner, cart_id, method, token, acquired_at, expires_at,
                  expires_at <= clock_timestamp() as "overdue!"
           from brigade.cart_locks
           where state = 'held' and ($1::text is null or tenant = $1)
           order by expires_at"#,
        tenant,
    )
    .fetch_all(postgres)
    .await?;
    line(format_args!(
        "{:<16}  {:<24}  {:<24}  {:<8}  {:>8}  {:<24}  expires",
        "tenant", "owner", "cart", "method", "token", "acquired"
    ))?;
    if locks.is_empty() {
        eprintln!("(nothing)");
    }
    for lock in locks {
        let overdue = if lock.overdue { " [overdue]" } else { "" };
        let (acquired, expires) =
            (Timestamp::from(lock.acquired_at), Timestamp::from(lock.expires_at));
        line(format_args!(
            "{:<16}  {:<24}  {:<24}  {:<8}  {:>8}  {acquired:<24}  {expires}{overdue}",
            lock.tenant, lock.owner, lock.cart_id, lock.method, lock.token
        ))?;
    }
    Ok(())
}

async fn history(postgres: &PgPool, tenant: &str, owner: &str, limit: u32) -> Result<()> {
    let entries = sqlx::query!(
        "select at, action, cart_id, token, method, actor, reason
         from brigade.cart_lock_history where tenant = $1 and owner = $2
         order by seq desc limit $3",
        tenant,
        owner,
        i64::from(limit),
    )
    .fetch_all(postgres)
    .await?;
    line(format_args!(
        "{:<24}  {:<8}  {:<24}  {:>8}  {:<8}  {:<24}  reason",
        "at", "action", "cart", "token", "method", "actor"
    ))?;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    if entries.is_empty() {
        eprintln!("(nothing)");
    }
    for entry in entries {
        line(format_args!(
            "{:<24}  {:<8}  {:<24}  {:>8}  {:<8}  {:<24}  {}",
            Timestamp::from(entry.at),
            entry.action,
            entry.cart_id,
            or_dash(entry.token.map(|token| token.to_string())),
            or_dash(entry.method),
            or_dash(entry.actor),
            printable(&or_dash(entry.reason)),
        ))?;
    }
    Ok(())
}
