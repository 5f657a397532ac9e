//! `brigade dlq`: dead letters are found, understood, mended and sent again.

mod args;
mod edit;
mod jobs;
mod print;
mod watch;

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use brigade::{
    fleet::config::RunConfig,
    infra::{nats::OperatorConnection, postgres::operator_pool},
    operations::dead_letters::{DeadLetters, Letter, Number, grouped, jobs::JobAction},
};

pub use self::args::DlqArgs;
use self::args::{Chosen, DlqAction};
use super::{causes::causes, output::progress, printable::printable};

pub async fn run(args: DlqArgs) -> Result<ExitCode> {
    let config = RunConfig::from_env()?;
    let (nats_url, database_url) = config.operators_urls()?;
    let operator = OperatorConnection::open(nats_url, &config.nats_options(), "dlq").await?;
    if let DlqAction::Watch { worker, json } = args.action {
        return watch::run(&operator, worker.as_ref(), json).await;
    }
    let postgres = operator_pool(database_url).await?;
    let jetstream = operator.jetstream.clone();
    let letters = operator.explain(DeadLetters::open(jetstream, postgres).await)?;
    match args.action {
        DlqAction::Ls { filter, all, page } => {
            let limit = usize::try_from(page.limit)?;
            let filter = filter.filter(&letters, all).await?;
            let found = letters.page(&filter, page.after, limit).await?;
            print::list(&found, page.json)?;
            print::list_overflow(&letters.overflow(&filter).await?, page.json)?;
        }
        DlqAction::Groups { filter, json } => {
            let filter = filter.filter(&letters, false).await?;
            print::groups(&grouped(&letters.list(&filter).await?), json)?;
            print::list_overflow(&letters.overflow(&filter).await?, json)?;
        }
        DlqAction::Show { number, payload, json } => show(&letters, number, payload, json).await?,
        DlqAction::Edit(args) => edit::run(&letters, args).await?,
        DlqAction::Replay { chosen, force } => {
            return act(&letters, chosen, JobAction::Replay { force }).await;
        }
        DlqAction::Drop { chosen, because } => {
            return act(&letters, chosen, JobAction::Drop { because }).await;
        }
        DlqAction::Jobs { number: None, json, .. } => jobs::list(&letters, json).await?,
        DlqAction::Jobs { number: Some(number), follow: true, .. } => {
            return jobs::follow(&letters, number).await;
        }
        DlqAction::Jobs { number: Some(number), json, .. } => {
            jobs::show(&letters, number, json).await?;
        }
        DlqAction::Cancel { number, by } => jobs::cancel(&letters, number, &by.name()).await?,
        DlqAction::Watch { .. } => bail!("watched before"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(letters: &DeadLetters, number: Number, payload: bool, json: bool) -> Result<()> {
    let letter = letters.get(number).await?;
    let content = letters.payload(number).await?;
    if payload {
        return print::payload(&content);
    }
    let replay = letters.check_replay(&letter, false).await;
    if json {
        print::show_json(&letter, &content, &replay)
    } else {
        print::show(&letter, &content, &replay)
    }
}

/// Acts on the letters of these numbers, or lets the fleet act on all that a filter selects.
async fn act(letters: &DeadLetters, chosen: Chosen, action: JobAction) -> Result<ExitCode> {
    ensure!(
        chosen.matching || !chosen.numbers.is_empty(),
        "give numbers, or --matching with a filter"
    );
    let by = chosen.by.name();
    let found = if chosen.matching {
        letters.list(&chosen.filter.filter(letters, false).await?).await?
    } else {
        let mut found = Vec::new();
        for number in &chosen.numbers {
            found.push(letters.get(*number).await?);
        }
        found
    };
    if chosen.dry_run {
        return dry_run(letters, &found, &action).await;
    }
    if chosen.matching {
        let selection = chosen.filter.written();
        return jobs::begin(letters, &action, &by, &selection, &found, chosen.detach).await;
    }
    let mut code = ExitCode::SUCCESS;
    for letter in &found {
        let acted = match &action {
            JobAction::Replay { force: Some(why) } => letters.force(letter, why, &by).await,
            JobAction::Replay { force: None } => letters.replay(letter, &by).await,
            JobAction::Drop { because } => letters.drop(letter, because, &by).await,
        };
        report(letter, acted, done(&action), "", &mut code)?;
    }
    Ok(code)
}

async fn dry_run(letters: &DeadLetters, found: &[Letter], action: &JobAction) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for letter in found {
        let checked = match action {
            JobAction::Replay { force } => letters.check_replay(letter, force.is_some()).await,
            JobAction::Drop { .. } => Ok(()),
        };
        report(letter, checked, done(action), "would be ", &mut code)?;
    }
    Ok(code)
}

fn report(
    letter: &Letter,
    acted: Result<()>,
    done: &str,
    would_be: &str,
    code: &mut ExitCode,
) -> Result<()> {
    let (number, subject) = (letter.number, printable(&letter.subject));
    if let Err(error) = acted {
        eprintln!("not {done} {number} {subject}: {}", printable(&causes(&error)));
        *code = ExitCode::FAILURE;
        return Ok(());
    }
    progress(format_args!("{would_be}{done} {number} {subject}"))
}

fn done(action: &JobAction) -> &'static str {
    match action {
        JobAction::Replay { .. } => "replayed",
        JobAction::Drop { .. } => "dropped",
    }
}
