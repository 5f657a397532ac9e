use std::process::ExitCode;

use anyhow::{Result, anyhow};
use brigade::{fleet::config::RunConfig, infra::postgres::operator_pool};
use brigade_contracts::Timestamp;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;

use super::{
    output::line,
    printable::{printable, printable_json},
};

/// Reads SQL by BRIGADE_DATABASE_URL.
#[derive(clap::Args)]
pub struct SecurityLogArgs {
    #[command(subcommand)]
    action: SecurityLogAction,
}

#[derive(clap::Subcommand)]
enum SecurityLogAction {
    /// List what happened, newest first
    Ls(LogFilter),
}

#[derive(clap::Args)]
struct LogFilter {
    /// Only of this restaurant
    #[arg(long)]
    tenant: Option<String>,
    /// Only of this kind, such as `login_failed`
    #[arg(long)]
    kind: Option<String>,
    /// Only since then, such as 2026-01-02T03:04:05Z
    #[arg(long, value_parser = time)]
    since: Option<Timestamp>,
    /// Rows at most
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// One line of JSON each
    #[arg(long)]
    json: bool,
}

/// A row of the security log.
struct Row {
    at: OffsetDateTime,
    tenant: String,
    kind: String,
    actor: Option<String>,
    via: String,
    source: Option<String>,
    subject: String,
    command_id: Option<String>,
    detail: Value,
}

fn time(text: &str) -> Result<Timestamp> {
    Timestamp::parse(text).map_err(|_| anyhow!("expected a time such as 2026-01-02T03:04:05Z"))
}

pub async fn run(args: SecurityLogArgs) -> Result<ExitCode> {
    let postgres = operator_pool(RunConfig::from_env()?.database_url()?).await?;
    let SecurityLogAction::Ls(filter) = args.action;
    let rows = rows(&postgres, &filter).await?;
    if !filter.json {
        line(format_args!(
            "{:<24}  {:<12}  {:<20}  {:<24}  {:<16}  {:<5}  {:<15}  detail",
            "at", "tenant", "kind", "subject", "actor", "via", "source"
        ))?;
        if rows.is_empty() {
            eprintln!("(nothing)");
        }
    }
    for row in &rows {
        if filter.json {
            line(format_args!("{}", printable_json(&as_json(row))))?;
        } else {
            print(row)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn rows(postgres: &PgPool, filter: &LogFilter) -> Result<Vec<Row>> {
    let rows = sqlx::query_as!(
        Row,
        "select at, tenant, kind, actor, via, source, subject, command_id, detail
         from brigade.security_log
         where ($1::text is null or tenant = $1) and ($2::text is null or kind = $2)
           and ($3::timestamptz is null or at >= $3)
         order by seq desc limit $4",
        filter.tenant,
        filter.kind,
        filter.since.map(Timestamp::inner),
        i64::from(filter.limit),
    );
    Ok(rows.fetch_all(postgres).await?)
}

fn print(row: &Row) -> Result<()> {
    let or_dash = |text: &Option<String>| printable(text.as_deref().unwrap_or("-"));
    let [tenant, kind, subject, via] =
        [&row.tenant, &row.kind, &row.subject, &row.via].map(|text| printable(text));
    let (actor, source) = (or_dash(&row.actor), or_dash(&row.source));
    let (at, detail) = (Timestamp::from(row.at), printable_json(&row.detail));
    line(format_args!(
        "{at:<24}  {tenant:<12}  {kind:<20}  {subject:<24}  {actor:<16}  {via:<5}  {source:<15}  \
         {detail}"
    ))
}

fn as_json(row: &Row) -> Value {
    json!({
        "at": Timestamp::from(row.at), "tenant": row.tenant, "kind": row.kind,
        "subject": row.subject, "actor": row.actor, "via": row.via, "source": row.source,
        "command_id": row.command_id, "detail": row.detail,
    })
}
