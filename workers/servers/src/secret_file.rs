//! Files and folders that are their owner's alone: passwords, data, logs.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Makes a folder, and those above it that are missing, into which nobody else can look. One that
/// is there stays as it is.
pub fn private_folder(path: &Path) -> Result<()> {
    let mut folder = DirBuilder::new();
    let made = folder.recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))
}

/// Writes a text beside `path`, readable by its owner alone from its first byte on. Returns the new
/// file, which the caller renames to `path`.
pub fn write_secret(path: &Path, text: &str) -> Result<PathBuf> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let _absent = fs::remove_file(&fresh);
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| format!("cannot write {}", fresh.display()))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(fresh)
}
