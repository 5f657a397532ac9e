use std::{collections::HashMap, process::ExitCode};

use anyhow::Result;
use brigade::{fleet::config::RunConfig, operations::migrate};
use brigade_contracts::WorkerName;
use clap::Args;

#[derive(Args)]
pub struct MigrateArgs {
    /// Leave the roles what workers of the release before need, as long as some of them run
    #[arg(long)]
    beside_former: bool,
}

pub async fn run(args: &MigrateArgs) -> Result<ExitCode> {
    let config = RunConfig::from_env()?;
    let passwords = WorkerName::ALL
        .into_iter()
        .map(|worker| Ok((worker, config.database_password(worker)?)))
        .collect::<Result<HashMap<_, _>>>()?;
    let password = |worker| passwords.get(&worker).cloned().flatten();
    let (url, prefix) = (config.database_url()?, &config.role_prefix);
    if args.beside_former {
        migrate::run_beside_former(url, prefix, password).await?;
    } else {
        migrate::run(url, prefix, password).await?;
    }
    eprintln!("brigade: schema and roles are up to date");
    Ok(ExitCode::SUCCESS)
}
