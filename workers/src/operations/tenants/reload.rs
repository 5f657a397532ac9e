use std::{fs, io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::sleep;

/// nats-server 2.15.1 answers "no responders" to the requests of an account that came with a
/// reload, until the next one. The first takes milliseconds; a second signal that comes while the
/// server still reads the configuration is kept, one that comes before it began is not.
const PAUSE: Duration = Duration::from_secs(1);

/// Has a nats-server of this machine read its configuration again, twice. Nobody is disconnected
/// but users that are there no more.
///
/// # Errors
/// If the file names no nats-server, or one that may not be signalled.
pub async fn reload(pid_file: &Path) -> Result<()> {
    let pid = server(pid_file)?;
    let signal = || {
        kill_process(pid, Signal::HUP)
            .with_context(|| format!("cannot signal nats-server, process {}", pid.as_raw_pid()))
    };
    signal()?;
    sleep(PAUSE).await;
    signal()
}

/// Checks that a file names a nats-server that may be signalled.
///
/// # Errors
/// If it does not.
pub fn check(pid_file: &Path) -> Result<()> {
    server(pid_file).map(drop)
}

fn server(pid_file: &Path) -> Result<Pid> {
    let file = pid_file.display();
    let text = match fs::read_to_string(pid_file) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("{file} is missing"),
        text => text.with_context(|| format!("cannot read {file}"))?,
    };
    let raw = text.trim().parse().ok().filter(|raw| *raw > 0);
    let pid = raw.and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{file} holds no process id"))?;
    let raw = pid.as_raw_pid();
    test_kill_process(pid)
        .with_context(|| format!("cannot signal process {raw}, which {file} names"))?;
    // Only Linux tells.
    if let Ok(name) = fs::read_to_string(format!("/proc/{raw}/comm")) {
        let name = name.trim();
        ensure!(
            name.contains("nats"),
            "{file} names process {raw}, which is {name}, not nats-server"
        );
    }
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_names_no_server_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let refused = || format!("{:#}", check(&file).unwrap_err());
        assert!(refused().contains("is missing"), "{}", refused());
        // Above the highest process id of Linux.
        for (text, expected) in [
            ("", "holds no process id"),
            ("one", "holds no process id"),
            ("0", "holds no process id"),
            ("-1", "holds no process id"),
            ("4194999", "cannot signal process 4194999"),
        ] {
            fs::write(&file, text).unwrap();
            assert!(refused().contains(expected), "{text}: {}", refused());
        }
        if Path::new("/proc/self/comm").exists() {
            fs::write(&file, std::process::id().to_string()).unwrap();
            assert!(refused().contains("not nats-server"), "{}", refused());
        }
    }
}
