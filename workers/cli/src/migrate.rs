use std::{collections::HashMap, process::ExitCode};

use anyhow::Result;
use brigade::{fleet::config::RunConfig, operations::migrate};
use brigade_contracts::WorkerName;

pub async fn run() -> Result<ExitCode> {
    let config = RunConfig::from_env()?;
    let passwords = WorkerName::ALL
        .into_iter()
        .map(|worker| Ok((worker, config.database_password(worker)?)))
        .collect::<Result<HashMap<_, _>>>()?;
    let password = |worker| passwords.get(&worker).cloned().flatten();
    migrate::run(config.database_url()?, &config.role_prefix, password).await?;
    eprintln!("brigade: schema and roles are up to date");
    Ok(ExitCode::SUCCESS)
}
