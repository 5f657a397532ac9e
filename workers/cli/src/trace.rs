use std::process::ExitCode;

use anyhow::Result;
use brigade::{
    fleet::config::RunConfig,
    operations::trace::{Passed, Trace, Traced, Tracer},
};

use super::{
    output::line,
    printable::{printable, printable_json},
    status::servers,
};

/// Reads NATS by BRIGADE_NATS_URL, as its operator, and SQL by BRIGADE_DATABASE_URL. What nobody
/// keeps is said to be unknown.
#[derive(clap::Args)]
pub struct TraceArgs {
    /// A Command-Id (over HTTP `<user>.<Idempotency-Key>`), or an aggregate such as cart.c1, whose
    /// 20 newest commands are traced
    what: Traced,
    /// Only of this restaurant
    #[arg(long)]
    tenant: Option<String>,
    /// One line of JSON for each command
    #[arg(long)]
    json: bool,
}

pub async fn run(args: TraceArgs) -> Result<ExitCode> {
    let tracer = Tracer::open(&servers(&RunConfig::from_env()?)?).await?;
    for trace in tracer.trace(&args.what, args.tenant.as_deref()).await? {
        if args.json {
            line(format_args!("{}", printable_json(&serde_json::to_value(&trace)?)))?;
        } else {
            print(&trace)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(trace: &Trace) -> Result<()> {
    line(format_args!("{} of {}", printable(&trace.command_id), printable(&trace.tenant)))?;
    for step in &trace.steps {
        let when = match (step.passed, step.at) {
            (_, Some(at)) => at.to_string(),
            (Passed::Yes, None) => "at an unknown time".to_owned(),
            (Passed::NotYet, None) => "not yet".to_owned(),
            (Passed::Unknown, None) => "unknown".to_owned(),
        };
        let who = step.who.as_deref().map_or_else(String::new, |who| format!(" [{who}]"));
        let (what, who) = (printable(&step.what), printable(&who));
        line(format_args!("  {:<10}  {when:<24}  {what}{who}", step.station.as_str()))?;
    }
    Ok(())
}
