use std::process::ExitCode;

use anyhow::Result;
use brigade::fleet::{
    config::{RunConfig, VARIABLES},
    process::Process,
    registry::parse,
};
use brigade_contracts::WorkerName;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

#[derive(clap::Args)]
#[command(after_help = VARIABLES)]
pub struct RunArgs {
    /// Workers by name, or `all`
    #[arg(required = true, value_name = "WORKER")]
    workers: Vec<String>,
}

impl RunArgs {
    /// Returns true if one thread is best, as measured on 2 cores: a worker by itself is one loop,
    /// of which others only take parts over, and a command takes some 60 us of it. edge answers
    /// many at once.
    pub fn is_one_loop(&self) -> bool {
        parse(&self.workers).is_ok_and(|all| all.len() == 1 && all[0] != WorkerName::Edge)
    }
}

pub async fn run(args: RunArgs) -> Result<ExitCode> {
    let workers = parse(&args.workers)?;
    let config = RunConfig::from_env()?;
    let servers = config.servers(&workers)?;
    let _hangups = stay_on_hangup()?;
    let process = Process::start(servers, config.listeners, config.fail_point.as_deref()).await?;
    tracing::info!(
        http = process.api.as_ref().map(|api| tracing::field::display(api.address)),
        admin = %process.admin.address,
        workers = args.workers.join(" "),
        "running"
    );
    process.until_signal(|| tracing::info!("ready"), std::future::pending()).await
}

/// Keeps SIGHUP from ending the process: whoever sends it wants files to be read again, and that is
/// done anyway.
fn stay_on_hangup() -> Result<AbortOnDropHandle<()>> {
    let mut hangups = signal(SignalKind::hangup())?;
    let stay = async move {
        while hangups.recv().await.is_some() {
            tracing::info!("SIGHUP: files are read again by themselves when they have changed");
        }
    };
    Ok(AbortOnDropHandle::new(tokio::spawn(stay)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_is_for_one_worker_that_is_not_edge() {
        let is_one_loop = |names: &[&str]| {
            RunArgs { workers: names.iter().map(|&name| name.to_owned()).collect() }.is_one_loop()
        };
        assert!(is_one_loop(&["command-handler"]));
        assert!(is_one_loop(&["outbox-relay", "outbox-relay"]));
        for names in [&["edge"][..], &["all"], &["outbox-relay", "edge"], &["no-such-worker"], &[]]
        {
            assert!(!is_one_loop(names), "{names:?}");
        }
    }
}
