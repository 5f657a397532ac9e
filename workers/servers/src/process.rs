//! One child process that cannot outlive this one.

use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    path::Path,
    process::{ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::{
    account::SystemAccount,
    log::{Log, Mark},
};

/// Becomes the program, after leaving a watchdog behind that reads from the pipe `leash`. The pipe
/// ends when this process is gone, however it went, and the watchdog then ends the program; a line
/// on the pipe sends the watchdog home. It is there before the program, so no moment is unguarded,
/// and it is nobody's child (the inner `&`), because Postgres minds children it did not start. Its
/// output goes nowhere: it must not share the lock on the log. What the program writes is for its
/// own account alone.
const LEASHED: &str = r#"
umask 077
exec 3<&0 </dev/null
( {
    trap '' HUP INT QUIT TERM
    read -r _ <&3 && exit
    kill -s "$0" $$
    for _ in 1 2 3 4 5; do sleep 1; kill -0 $$ || exit; done
    kill -s KILL $$
} >/dev/null 2>&1 & )
exec 3<&-
exec "$@"
"#;

/// Chosen against the start of a server (10 to 100 ms): often enough not to be felt.
const POLL: Duration = Duration::from_millis(3);

/// The time that dropping a handle waits for a killed child. Only one that hangs in the kernel
/// needs it.
const REAP_LIMIT: Duration = Duration::from_secs(2);

pub struct Program<'a> {
    pub binary: &'a Path,
    pub arguments: Vec<OsString>,
    /// Variables on top of this process's own.
    pub environment: Vec<(String, String)>,
    /// The working folder.
    pub dir: &'a Path,
    pub log: &'a Log,
    /// The account that it runs as, if not that of this process.
    pub account: Option<&'a SystemAccount>,
    /// The signal's name with which the watchdog ends it first; KILL follows after 5 s.
    pub last_signal: &'static str,
}

/// A running or dead child. Dropping it kills and reaps the child.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    pid: u32,
    leash: Option<File>,
    log: Mark,
}

impl ChildProcess {
    pub fn spawn(program: &Program<'_>) -> Result<Self> {
        let binary = std::path::absolute(program.binary)?;
        let log = program.log.mark()?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LEASHED, program.last_signal])
            .arg(&binary)
            .args(&program.arguments)
            .envs(program.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(program.dir)
            // Messages are searched and quoted, so they are in one language everywhere.
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(program.log.share()?)
            .stderr(program.log.share()?)
            .process_group(0);
        if let Some(account) = program.account {
            command.uid(account.uid).gid(account.gid);
        }
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let pid = child.id().context("a new child has a process id")?;
        let leash = child.stdin.take().context("stdin was asked to be piped")?;
        Ok(Self { child, pid, leash: Some(File::from(leash.into_owned_fd()?)), log })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn log(&self) -> &Mark {
        &self.log
    }

    /// Returns true if the child has not been seen to end.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal, unless the child was reaped: its id might be somebody else's by then.
    pub fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            signal_pid(self.pid, signal);
        }
    }

    pub async fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().await;
        self.unleash();
        status.expect("a child is reaped by its handle alone")
    }

    pub async fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// Returns true if the child ended within the limit after the signal.
    pub async fn ends_after(&mut self, signal: Signal, limit: Duration) -> bool {
        self.signal(signal);
        timeout(limit, self.wait()).await.is_ok()
    }

    /// Polls until the server is ready; its death, or the limit, is an error that quotes the log.
    pub async fn ready(
        &mut self,
        what: &str,
        limit: Duration,
        mut check: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !check().await {
            let log = self.log.path().display();
            if let Some(status) = self.child.try_wait()? {
                let tail = self.log.tail();
                bail!("{what} ended at its start ({status}); the end of {log}:\n{tail}");
            }
            if Instant::now() > deadline {
                let tail = self.log.tail();
                bail!("{what} was not ready after {limit:?}; the end of {log}:\n{tail}");
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Sends the watchdog home. It comes after the reaping: in the other order, a death of this
    /// process in between would leave the child unguarded.
    fn unleash(&mut self) {
        if let Some(mut leash) = self.leash.take() {
            // An error means that the watchdog is gone, which is what is wanted.
            let _ = leash.write_all(b"\n");
        }
    }
}

impl Drop for ChildProcess {
    #[expect(clippy::disallowed_methods, reason = "a drop cannot await")]
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let deadline = Instant::now() + REAP_LIMIT;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.unleash();
    }
}

/// A process that is gone already is no fault: that is what signals here are for.
pub fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
