use std::process::ExitCode;

use anyhow::Result;
use brigade::{fleet::config::RunConfig, operations::migrate};

pub async fn run() -> Result<ExitCode> {
    let config = RunConfig::from_env()?;
    migrate::run(config.database_url()?, |worker| config.database_password(worker)).await?;
    eprintln!("brigade: schema and roles are up to date");
    Ok(ExitCode::SUCCESS)
}
