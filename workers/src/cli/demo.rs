use std::process::ExitCode;

use anyhow::Result;

#[derive(clap::Args)]
pub struct Args {}

pub async fn run(_args: Args) -> Result<ExitCode> {
    anyhow::bail!("not there yet")
}
