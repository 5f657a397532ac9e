//! A small disk that can be full: a file system in memory, where this program may mount one.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use brigade_servers::secret_file::private_folder;
use rustix::fs::statvfs;

/// The size while there is room, in KiB: more than streams reserve. Only what is used takes memory.
const ROOMY: u64 = 200 << 20;
/// Somebody may write in between.
const TRIES: usize = 20;

/// Returns true if this program may mount one.
pub fn is_possible() -> bool {
    tempfile::tempdir().is_ok_and(|dir| SmallDisk::mount(&dir.path().join("disk")).is_ok())
}

/// Unmounted when it is dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one on a folder, which is made for it.
    ///
    /// # Errors
    /// If this program may not mount anything: it is not root, or this is not Linux.
    pub fn mount(at: &Path) -> Result<Self> {
        private_folder(at)?;
        let options = format!("size={ROOMY}k,mode=0700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "brigade-chaos"]).arg(at))?;
        Ok(Self { at: at.to_owned() })
    }

    /// Makes it as large as what is on it.
    ///
    /// # Errors
    /// If that does not succeed.
    pub fn fill(&self) -> Result<()> {
        let mut tries = 0;
        loop {
            let disk = statvfs(&self.at)?;
            let used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize / 1024;
            match self.resize(used) {
                Err(_) if tries < TRIES => tries += 1,
                done => return done,
            }
        }
    }

    /// Makes it large again.
    ///
    /// # Errors
    /// If that does not succeed.
    pub fn free(&self) -> Result<()> {
        self.resize(ROOMY)
    }

    fn resize(&self, kilobytes: u64) -> Result<()> {
        let options = format!("remount,size={kilobytes}k");
        run(Command::new("mount").args(["-o", &options]).arg(&self.at))
    }

    /// Copies what is on it beside it, to `<name>.kept`.
    pub fn keep(&self) {
        let kept = self.at.with_extension("kept");
        let _copied = Command::new("cp").arg("-a").arg(&self.at).arg(kept).status();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: who still has a file open keeps it until it ends.
        let _unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("no such program")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
