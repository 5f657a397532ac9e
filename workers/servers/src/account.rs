//! The user a Postgres runs as when brigade runs as root: Postgres refuses root.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use anyhow::{Context, Result, bail};

/// The preferred first.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// World-writable with the sticky bit: the mark of a folder for temporary files.
const TEMPORARY: u32 = 0o1002;

#[derive(Clone, Debug, PartialEq)]
pub struct SystemAccount {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl SystemAccount {
    /// None unless this process is root: then servers run as its own user.
    pub fn instead_of_root() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let account = Self::named_in(&users).with_context(|| {
            format!("Postgres does not run as root, and there is no user named {NAMES:?}")
        })?;
        Ok(Some(account))
    }

    fn named_in(users: &str) -> Option<Self> {
        NAMES.iter().find_map(|name| {
            users.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                match fields[..] {
                    [found, _, uid, gid, ..] if found == *name => Some(Self {
                        name: found.to_owned(),
                        uid: uid.parse().ok()?,
                        gid: gid.parse().ok()?,
                    }),
                    _ => None,
                }
            })
        })
    }

    pub fn own(&self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), self.name))
    }

    /// Sees to it that the account can enter the folder. The folder itself and folders that are
    /// made for temporary files (these are private to their maker) are opened for passing through,
    /// not for listing; what bars the way above them is somebody's decision, and an error.
    pub fn reach(&self, folder: &Path) -> Result<()> {
        let folder = folder.canonicalize()?;
        let mut temporary = false;
        let mut way: Vec<&Path> = folder.ancestors().collect();
        way.reverse();
        for step in way {
            let found = fs::metadata(step)?;
            if !self.may_enter(found.mode(), found.uid(), found.gid()) {
                if !temporary && step != folder {
                    bail!(
                        "Postgres does not run as root, and its user {} cannot enter {}: \
                         choose a folder outside of it, such as one in /var/lib or /tmp, or run \
                         brigade as an ordinary user",
                        self.name,
                        step.display()
                    );
                }
                let opened = Permissions::from_mode(found.mode() & 0o7777 | 0o011);
                fs::set_permissions(step, opened)
                    .with_context(|| format!("cannot open {}", step.display()))?;
            }
            temporary |= found.mode() & TEMPORARY == TEMPORARY;
        }
        Ok(())
    }

    fn may_enter(&self, mode: u32, uid: u32, gid: u32) -> bool {
        let bit = match (uid == self.uid, gid == self.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        mode & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, uid: u32, gid: u32) -> SystemAccount {
        SystemAccount { name: name.to_owned(), uid, gid }
    }

    #[test]
    fn the_user_postgres_is_preferred_to_nobody() {
        let nobody = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533::/:/bin/false\n";
        assert_eq!(SystemAccount::named_in(nobody), Some(account("nobody", 65534, 65533)));
        let both = format!("{nobody}postgres:x:101:104:Postgres:/var/lib/postgresql:/bin/sh\n");
        assert_eq!(SystemAccount::named_in(&both), Some(account("postgres", 101, 104)));
        assert_eq!(SystemAccount::named_in("root:x:0:0:root:/root:/bin/bash\n"), None);
    }

    #[test]
    fn the_bit_that_counts_is_the_closest_one() {
        let account = account("postgres", 101, 104);
        assert!(account.may_enter(0o700, 101, 0));
        assert!(!account.may_enter(0o077, 101, 104), "the owner's bit decides");
        assert!(account.may_enter(0o010, 0, 104));
        assert!(!account.may_enter(0o701, 0, 104), "the group's bit decides");
        assert!(account.may_enter(0o701, 0, 0));
    }
}
