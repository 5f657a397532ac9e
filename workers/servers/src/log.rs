//! A server's log file, which is also the lock on its folder.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

/// The time that a new server waits for the processes of the former one: the watchdog gives a
/// server 5 s to end by itself, and a Postgres backend in the middle of a statement may need as
/// long.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);

/// Chosen against the start of a server (10 to 100 ms): often enough not to be felt.
const POLL: Duration = Duration::from_millis(3);

/// Lines of the log that an error quotes.
const TAIL_LINES: usize = 15;

/// The log, opened and locked. The lock is for correctness: two servers on one folder would spoil
/// its data. Children that get the file as their output share the lock, and keep it when this
/// process dies. (So does, until it becomes its program, any child that another thread starts: a
/// lock that was let go may be held for a moment longer.)
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Waits for processes of an earlier server, which a kill may have left behind for a moment.
    pub async fn claim(path: &Path) -> Result<Self> {
        let deadline = Instant::now() + CLAIM_LIMIT;
        let mut waits = false;
        loop {
            if let Some(log) = Self::try_claim(path)? {
                return Ok(log);
            }
            if !std::mem::replace(&mut waits, true) {
                let (dir, seconds) = (path.parent().unwrap_or(path), CLAIM_LIMIT.as_secs());
                tracing::info!(dir = %dir.display(), seconds, "another server still runs: waiting");
            }
            if Instant::now() > deadline {
                bail!(
                    "another server still runs in {}: stop it, or name another folder",
                    path.parent().unwrap_or(path).display()
                );
            }
            sleep(POLL).await;
        }
    }

    pub fn try_claim(path: &Path) -> Result<Option<Self>> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot open the log {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// The same open file for a child's output, with its share of the lock.
    pub fn share(&self) -> Result<File> {
        self.file.try_clone().context("cannot share the log")
    }

    /// Returns the end of the log, from which on new lines are read.
    pub fn mark(&self) -> Result<Mark> {
        Ok(Mark { path: self.path.clone(), start: self.file.metadata()?.len() })
    }
}

/// A place in a log, so that an error quotes this run of the server and not the one before.
#[derive(Clone, Debug)]
pub struct Mark {
    path: PathBuf,
    start: u64,
}

impl Mark {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines since the mark; empty when nothing can be read, as it only adorns an error.
    pub fn tail(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.start)).is_ok()
        {
            let _ = file.read_to_end(&mut text);
        }
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_log_is_claimed_once_and_by_whoever_shares_it() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let log = Log::try_claim(&path)?.context("a new log is free")?;
        assert!(Log::try_claim(&path)?.is_none());
        let share = log.share()?;
        drop(log);
        assert!(Log::try_claim(&path)?.is_none(), "the share still holds it");
        drop(share);
        Log::claim(&path).await?;
        Ok(())
    }

    #[test]
    fn the_tail_begins_at_the_mark() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let log = Log::try_claim(&path)?.context("a new log is free")?;
        writeln!(log.share()?, "the run before")?;
        let mark = log.mark()?;
        for n in 0..20 {
            writeln!(log.share()?, "line {n}")?;
        }
        let tail = mark.tail();
        assert!(tail.starts_with("line 5\n") && tail.ends_with("line 19"));
        Ok(())
    }
}
