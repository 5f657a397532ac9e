use std::process::ExitCode;

use anyhow::Result;
use brigade::{fleet::config::RunConfig, operations::provision};

/// Exit status 1 where something differs that only an operator may change.
pub async fn run() -> Result<ExitCode> {
    let config = RunConfig::from_env()?;
    let report =
        provision::run_with(config.nats_url()?, &config.nats_options(), config.replicas).await?;
    for name in &report.created {
        eprintln!("created {name}");
    }
    for name in &report.updated {
        eprintln!("updated {name}");
    }
    for drift in &report.drift {
        eprintln!("drift   {drift}");
    }
    if report.drift.is_empty() {
        eprintln!("brigade: streams, buckets and consumers are as declared");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
