use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result};

/// The passwords of a folder, by user: random, made when first asked for, kept in a file that
/// only its owner can read. A worker's is that of its NATS user and of its Postgres role.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    passwords: BTreeMap<String, String>,
}

const FILE: &str = "credentials.json";

impl Credentials {
    /// Loads the credentials of the folder, with new ones for users that had none yet.
    ///
    /// # Errors
    /// If the file can be neither read nor written.
    pub fn of(dir: &Path, users: impl IntoIterator<Item = String>) -> Result<Self> {
        let path = dir.join(FILE);
        let mut passwords: BTreeMap<String, String> = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is not readable", path.display()))?,
            Err(_) => BTreeMap::new(),
        };
        for user in users {
            passwords.entry(user).or_insert_with(|| hex::encode(rand::random::<[u8; 16]>()));
        }
        // Written beside and moved, so that a crash leaves the old file or the new one.
        let draft = dir.join("credentials.json.new");
        let _earlier_draft = fs::remove_file(&draft);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(&passwords)?)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        Ok(Self { passwords })
    }

    /// The password of a user; empty for one that is not known, which no server lets in.
    #[must_use]
    pub fn password(&self, user: &str) -> &str {
        self.passwords.get(user).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_keeps_its_passwords_and_gets_more() {
        let dir = tempfile::tempdir().unwrap();
        let first = Credentials::of(dir.path(), ["a".to_owned()]).unwrap();
        let second = Credentials::of(dir.path(), ["a".to_owned(), "b".to_owned()]).unwrap();
        assert_eq!(first.password("a"), second.password("a"));
        assert_ne!(second.password("a"), second.password("b"));
        assert_eq!(second.password("b").len(), 32);
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
