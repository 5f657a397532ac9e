use std::{fs, path::PathBuf};

use anyhow::Context as _;

/// A setting that nobody else may know.
#[derive(Clone)]
pub struct SecretSetting {
    /// The value at the start.
    pub text: String,
    /// The file that holds it; what is written there later is the value from then on.
    pub file: Option<PathBuf>,
}

impl SecretSetting {
    /// Reads a secret from a file. Space around it, such as the end of its line, is no part of it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn from_file(file: PathBuf) -> anyhow::Result<Self> {
        Ok(Self { text: read(&file)?, file: Some(file) })
    }
}

/// Reads a file with a secret.
///
/// # Errors
/// If it cannot be read, or has nothing in it.
pub fn read(file: &std::path::Path) -> anyhow::Result<String> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = text.trim();
    anyhow::ensure!(!text.is_empty(), "{} is empty", file.display());
    Ok(text.to_owned())
}

impl std::fmt::Debug for SecretSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretSetting({:?})", self.file)
    }
}
