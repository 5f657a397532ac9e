use std::process::ExitCode;

use anyhow::Result;
use brigade::{
    fleet::config::RunConfig,
    operations::doctor::{Examined, examine},
};

use super::{
    output::line,
    printable::printable_json,
    status::{or_unreachable, print_findings, servers},
};

/// Reads NATS by BRIGADE_NATS_URL, as its operator, and SQL by BRIGADE_DATABASE_URL; tries the
/// users of BRIGADE_NATS_URL_<WORKER>, and reads the certificates that the environment names.
/// Changes nothing. Exit status 0: all is well, 1: somebody should look, 2: something is wrong,
/// 3: a server cannot be asked.
#[derive(clap::Args)]
pub struct DoctorArgs {
    /// The monitoring of nats-server, which alone tells whether it syncs, such as
    /// http://127.0.0.1:8222; by default that of BRIGADE_NATS_MONITORING
    #[arg(long)]
    nats_monitoring: Option<String>,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: DoctorArgs) -> Result<ExitCode> {
    or_unreachable(examination(args).await)
}

async fn examination(args: DoctorArgs) -> Result<ExitCode> {
    let config = RunConfig::from_env()?;
    let examined = Examined {
        servers: servers(&config)?,
        role_prefix: config.role_prefix.clone(),
        workers: config.nats_users(),
        certificates: config.certificates(),
        monitoring: args.nats_monitoring.or_else(|| config.nats_monitoring.clone()),
    };
    let examination = examine(&examined).await;
    if args.json {
        line(format_args!("{}", printable_json(&serde_json::to_value(&examination)?)))?;
    } else {
        print_findings(&examination.findings)?;
    }
    Ok(ExitCode::from(examination.worst.exit_code()))
}
