use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

/// nats-server 2.15.1 answers "no responders" to the requests of an account that came with a
/// reload, until the next one. The first takes milliseconds; a second signal that comes while the
/// server still reads the configuration is kept, one that comes before it began is not.
const PAUSE: Duration = Duration::from_secs(1);

/// Has a nats-server of this machine read its configuration again, twice. Nobody is disconnected
/// but users that are there no more.
///
/// # Errors
/// If the file names no process, or one that may not be signalled.
pub async fn reload(pid_file: &Path) -> Result<()> {
    let pid = || {
        let text = fs::read_to_string(pid_file).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    };
    let pid = pid().with_context(|| format!("{} holds no process id", pid_file.display()))?;
    let signal = || {
        kill_process(pid, Signal::HUP)
            .with_context(|| format!("cannot signal nats-server, process {}", pid.as_raw_pid()))
    };
    signal()?;
    sleep(PAUSE).await;
    signal()
}
