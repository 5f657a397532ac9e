use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Subcommand;
use sqlx::PgPool;

use crate::{
    config::{self, RunConfig},
    dead_letters::{DeadLetters, Filter, Letter},
    runtime::{
        connect::as_user_of,
        dead_letter::{RAW_HEADERS, RAW_SUBJECT},
        delivery::pairs,
    },
};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List dead letters that nothing was done with yet
    Ls {
        #[command(flatten)]
        filter: FilterArgs,
        /// Also those that were replayed or dropped
        #[arg(long)]
        all: bool,
    },
    /// Show one whole: headers and payload
    Show { number: u64 },
    /// Send commands again, put events back into the outbox; each once
    Replay(Chosen),
    /// Give letters up; a command without an outcome gets `500 dropped`
    Drop {
        #[command(flatten)]
        chosen: Chosen,
        /// Why; kept for the audit and told to whoever asks for the outcome
        #[arg(long)]
        because: String,
    },
}

#[derive(clap::Args)]
struct FilterArgs {
    /// Of this worker
    #[arg(long)]
    worker: Option<String>,
    /// Of this restaurant
    #[arg(long)]
    tenant: Option<String>,
    /// With this in their reason
    #[arg(long)]
    reason: Option<String>,
}

#[derive(clap::Args)]
struct Chosen {
    /// By number, as `ls` shows them
    numbers: Vec<u64>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All that the filter names, instead of numbers
    #[arg(long, conflicts_with = "numbers")]
    matching: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Who does it, for the audit
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl FilterArgs {
    fn filter(self, all: bool) -> Filter {
        Filter { worker: self.worker, tenant: self.tenant, reason: self.reason, all }
    }
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = RunConfig::from_env()?;
    let (options, address) = as_user_of(config.nats_url()?)?;
    let nats = options.name("dlq").connect(address).await.context("cannot connect to NATS")?;
    let postgres = PgPool::connect(config.database_url()?).await?;
    let letters = DeadLetters::open(async_nats::jetstream::new(nats), postgres).await?;
    let mut code = ExitCode::SUCCESS;
    match args.action {
        Action::Ls { filter, all } => list(&letters.list(&filter.filter(all)).await?),
        Action::Show { number } => show(&letters.get(number).await?),
        Action::Replay(chosen) => {
            let (by, dry_run) = (by(&chosen), chosen.dry_run);
            for letter in choose(&letters, chosen).await? {
                if !dry_run && let Err(error) = letters.replay(&letter, &by).await {
                    eprintln!("not replayed {} {}: {error:#}", letter.sequence, letter.subject);
                    code = ExitCode::FAILURE;
                    continue;
                }
                println!("{} {} {}", done(dry_run, "replayed"), letter.sequence, letter.subject);
            }
        }
        Action::Drop { chosen, because } => {
            let (by, dry_run) = (by(&chosen), chosen.dry_run);
            for letter in choose(&letters, chosen).await? {
                if !dry_run {
                    letters.drop(&letter, &because, &by).await?;
                }
                println!("{} {} {}", done(dry_run, "dropped"), letter.sequence, letter.subject);
            }
        }
    }
    Ok(code)
}

fn by(chosen: &Chosen) -> String {
    chosen.by.clone().or_else(config::user).unwrap_or_else(|| "operator".to_owned())
}

fn done(dry_run: bool, what: &str) -> String {
    if dry_run { format!("would be {what}") } else { what.to_owned() }
}

async fn choose(letters: &DeadLetters, chosen: Chosen) -> Result<Vec<Letter>> {
    ensure!(
        chosen.matching || !chosen.numbers.is_empty(),
        "give numbers, or --matching with a filter"
    );
    if chosen.matching {
        return letters.list(&chosen.filter.filter(false)).await;
    }
    let mut found = Vec::new();
    for number in chosen.numbers {
        found.push(letters.get(number).await?);
    }
    Ok(found)
}

fn list(letters: &[Letter]) {
    println!("{:>8}  {:<24}  {:<22}  {:<40}  reason", "number", "at", "worker", "subject");
    for letter in letters {
        let Letter { sequence, at, worker, subject, reason, action, .. } = letter;
        let action = action.as_ref().map(|action| format!(" [{action}]")).unwrap_or_default();
        println!("{sequence:>8}  {at:<24}  {worker:<22}  {subject:<40}  {reason}{action}");
    }
}

fn show(letter: &Letter) {
    println!("{} (dead letter {} of {})", letter.subject, letter.sequence, letter.worker);
    for (name, value) in pairs(Some(&letter.headers)) {
        println!("{name}: {value}");
        if [RAW_HEADERS, RAW_SUBJECT].contains(&name)
            && let Ok(raw) = BASE64_STANDARD.decode(value)
        {
            println!("  = {}", raw.escape_ascii());
        }
    }
    println!("\n{}", String::from_utf8_lossy(&letter.payload));
}
