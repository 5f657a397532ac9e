//! The files as nats-server and this program read them: comments, and members of a JSON object.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result};
use brigade_contracts::permissions::{NatsUser, listed_user};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The first line of every file.
pub const HEADER: &str = "# Written by `brigade tenants`, which writes it again: do not edit.\n";

/// A user as the files have it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct AccountUser {
    pub user: String,
    pub password: String,
}

/// Returns the users that entries name, with the permissions of the present release. One that the
/// release does not know is left out.
pub fn listed(
    known: &[NatsUser],
    is_of: impl Fn(&NatsUser, &str) -> bool,
    entries: &[AccountUser],
) -> Vec<Value> {
    let user = |entry: &AccountUser| {
        let user = known.iter().find(|user| is_of(user, &entry.user))?.clone();
        Some(listed_user(&NatsUser { name: entry.user.clone(), ..user }, &entry.password))
    };
    entries.iter().filter_map(user).collect()
}

/// Returns an object as nats-server reads it within a block: without its braces.
pub fn members(object: Value) -> String {
    let text = format!("{object:#}");
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    inner.unwrap_or_default().trim().to_owned()
}

/// Reads the users of a file that is the members of an object; none if there is no file.
pub fn read(
    path: &Path,
    users: impl Fn(&Map<String, Value>) -> Option<Value>,
) -> Result<Vec<AccountUser>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let members: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    let parsed = serde_json::from_str(&format!("{{{members}}}")).ok();
    let users = parsed.as_ref().and_then(users);
    let users = users.and_then(|users| serde_json::from_value(users).ok());
    users.with_context(|| format!("{} is not as `brigade tenants` wrote it", path.display()))
}

/// Writes a file, so that a crash leaves the old one or the new one. The folder's group may read it
/// if it may read the folder: nats-server is in it where it has a user of its own.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("conf.new");
    let write = || {
        let folder = path.parent().unwrap_or(Path::new("."));
        let of_group = fs::metadata(folder)?.permissions().mode() & 0o040;
        let _absent = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(0o600 | of_group))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
