use std::process::ExitCode;

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade::{
    fleet::config::{self, RunConfig},
    infra::Operator,
    operations::dead_letters::{DeadLetters, Filter, Letter, Number},
    runtime::{
        dead_letter::{RAW_HEADERS, RAW_SUBJECT},
        delivery::pairs,
    },
};
use clap::Subcommand;
use sqlx::PgPool;

use super::{causes::causes, printable::printable};

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
        /// Also those of the archive: replayed or dropped in the last 30 days
        #[arg(long)]
        all: bool,
    },
    /// Show one whole, also of the archive: headers and payload
    Show { number: Number },
    /// Send commands again, put events back into the outbox; each once
    Replay {
        #[command(flatten)]
        chosen: Chosen,
        /// Also commands that have an outcome by now, or may have had one that is forgotten after
        /// 30 days; why, kept for the audit
        #[arg(long, value_name = "WHY")]
        force: Option<String>,
    },
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
    numbers: Vec<Number>,
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
    let (nats_url, database_url) = config.operators_urls()?;
    let operator = Operator::connect(nats_url, "dlq").await?;
    let postgres = PgPool::connect(database_url).await?;
    let jetstream = async_nats::jetstream::new(operator.client.clone());
    let letters = operator.explain(DeadLetters::open(jetstream, postgres).await)?;
    let mut code = ExitCode::SUCCESS;
    match args.action {
        Action::Ls { filter, all } => list(&letters.list(&filter.filter(all)).await?),
        Action::Show { number } => {
            show(&letters.get(number).await?, &letters.payload(number).await?);
        }
        Action::Replay { chosen, force } => {
            let (by, dry_run) = (by(&chosen), chosen.dry_run);
            for letter in choose(&letters, chosen).await? {
                let replayed = match &force {
                    why if dry_run => letters.check_replay(&letter, why.is_some()).await,
                    Some(why) => letters.force(&letter, why, &by).await,
                    None => letters.replay(&letter, &by).await,
                };
                let (number, subject) = (letter.number, printable(&letter.subject));
                if let Err(error) = replayed {
                    let error = printable(&causes(&error));
                    eprintln!("not replayed {number} {subject}: {error}");
                    code = ExitCode::FAILURE;
                    continue;
                }
                println!("{} {number} {subject}", done(dry_run, "replayed"));
            }
        }
        Action::Drop { chosen, because } => {
            let (by, dry_run) = (by(&chosen), chosen.dry_run);
            for letter in choose(&letters, chosen).await? {
                if !dry_run {
                    letters.drop(&letter, &because, &by).await?;
                }
                let (number, subject) = (letter.number, printable(&letter.subject));
                println!("{} {number} {subject}", done(dry_run, "dropped"));
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
        let number = letter.number;
        let [at, worker, subject, reason] =
            [&letter.at, &letter.worker, &letter.subject, &letter.reason].map(|t| printable(t));
        let notes = notes(letter);
        println!("{number:>8}  {at:<24}  {worker:<22}  {subject:<40}  {reason}{notes}");
    }
}

/// What became of it.
fn notes(letter: &Letter) -> String {
    let action = letter.action.as_ref().map(|action| format!(" [{action}]"));
    let outcome = letter.outcome.map(|status| format!(" [has the outcome {status}]"));
    let other = letter.id_belongs_to.as_ref();
    let other = other.map(|other| format!(" [its Command-Id belongs to {}]", printable(other)));
    action.unwrap_or_default() + &outcome.or(other).unwrap_or_default()
}

fn show(letter: &Letter, payload: &[u8]) {
    let Letter { number, worker, subject, .. } = letter;
    let (worker, subject) = (printable(worker), printable(subject));
    println!("{subject} (dead letter {number} of {worker}){}", notes(letter));
    for (name, value) in pairs(Some(&letter.headers)) {
        println!("{}: {}", printable(name), printable(value));
        if [RAW_HEADERS, RAW_SUBJECT].contains(&name)
            && let Ok(raw) = BASE64_STANDARD.decode(value)
        {
            println!("  = {}", raw.escape_ascii());
        }
    }
    println!();
    for line in String::from_utf8_lossy(payload).lines() {
        println!("{}", printable(line));
    }
}
