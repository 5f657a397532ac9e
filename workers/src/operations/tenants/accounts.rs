//! The NATS accounts as files of nats-server's configuration, in a folder:
//!
//! - `accounts.conf`, the block `accounts`, which names the files below and lists what the fleet's
//!   account exports to each tenant;
//! - `fleet.conf`, the users of workers and operators;
//! - `tenants/<tenant>.conf`, the account of a tenant.
//!
//! The folder is the only place that knows the users. Permissions and limits are written anew by
//! each change.
//!
//! Passwords stand there in the clear, for the server's group to read. At a reload nats-server
//! checks the password of each connection again, one after the other, and until it is through
//! nobody answers on `$JS.API`: that takes 6 ms with 1,000 connections, and 2.6 s with bcrypt at
//! its least cost (nats-server 2.15.1, 2 cores). A hash would protect little: they are 128 random
//! bits, and whoever can read the folder can read what the server stores.
//!
//! A user has generations: `t3-producer`, then `t3-producer-2`. While credentials are rotated the
//! last two are there side by side. Each listens to an inbox of its own (`_INBOX.<user>`).
//!
//! Accounts of an operator's JWTs, instead of files, would be a second module beside this one.

mod file;
mod folder;
mod generation;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use brigade_contracts::{
    Token,
    permissions::{Account, NatsUser, all_users, tenant_users},
};

use self::{
    file::AccountUser,
    generation::{generation, generations, of_generation},
};

/// A folder with the accounts of a nats-server.
pub struct AccountsFolder {
    dir: PathBuf,
}

/// A user of NATS with its password, to be shown once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub user: String,
    pub password: String,
    pub inbox_prefix: String,
}

impl AccountsFolder {
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Brings the folder up to date with this release: makes the users of the fleet that are
    /// missing, and writes all permissions anew. Returns the credentials of new users.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn sync(&self) -> Result<Vec<Credential>> {
        let _lock = self.begin()?;
        let mut entries = self.fleet()?;
        let mut made = Vec::new();
        for user in all_users(&[]) {
            if !entries.iter().any(|entry| entry.user == user.name) {
                made.push(new_user(&user, &mut entries));
            }
        }
        self.write_fleet(&entries)?;
        for tenant in self.tenants()? {
            self.write_tenant(&tenant, &self.tenant(&tenant)?)?;
        }
        self.write_index()?;
        Ok(made)
    }

    /// Gives users these passwords. Other users of the same accounts stay as they are.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn put(&self, users: &[(&NatsUser, &str)]) -> Result<()> {
        let _lock = self.begin()?;
        let mut accounts: Vec<&Account> = users.iter().map(|(user, _)| &user.account).collect();
        accounts.sort();
        accounts.dedup();
        for account in accounts {
            let mut entries = match account {
                Account::Fleet => self.fleet()?,
                Account::Tenant(tenant) => self.tenant(tenant)?,
            };
            for (user, password) in users.iter().filter(|(user, _)| user.account == *account) {
                entries.retain(|entry| entry.user != user.name);
                entries.push(AccountUser {
                    user: user.name.clone(),
                    password: (*password).to_owned(),
                });
            }
            match account {
                Account::Fleet => self.write_fleet(&entries)?,
                Account::Tenant(tenant) => self.write_tenant(tenant, &entries)?,
            }
        }
        self.write_index()
    }

    /// Checks that the folder was begun, and can be written.
    ///
    /// # Errors
    /// If it is none of accounts, or cannot be written.
    pub fn check(&self) -> Result<()> {
        let _lock = self.lock()?;
        for folder in [self.dir.clone(), self.dir.join("tenants")] {
            let probe = folder.join(".probe");
            let written = File::create(&probe).and_then(|_| fs::remove_file(&probe));
            written.with_context(|| format!("cannot write to the folder {}", folder.display()))?;
        }
        Ok(())
    }

    /// Checks that a tenant has no account yet.
    ///
    /// # Errors
    /// If it has one.
    pub fn check_new(&self, tenant: &Token) -> Result<()> {
        ensure!(
            !self.path(tenant).exists(),
            "{} exists, with the passwords in it. If a reload failed, `brigade tenants sync \
             --accounts {} --reload-pid FILE` finishes it; `brigade tenants rotate {tenant}` makes \
             new credentials; `add` without --accounts registers the tenant alone",
            self.path(tenant).display(),
            self.dir.display()
        );
        Ok(())
    }

    /// Writes the account of a tenant, with a new credential for each of its users.
    ///
    /// # Errors
    /// If it has an account; if the folder has no users of the fleet; if a file cannot be written.
    pub fn add(&self, tenant: &Token) -> Result<Vec<Credential>> {
        let _lock = self.lock()?;
        self.check_new(tenant)?;
        let mut entries = Vec::new();
        let made = new_users(tenant_users(tenant), &mut entries);
        self.write_tenant(tenant, &entries)?;
        self.write_index()?;
        Ok(made)
    }

    /// Gives a tenant a second generation of its users, beside the present one.
    ///
    /// # Errors
    /// If it has no account, or two generations already; if a file cannot be written.
    pub fn rotate(&self, tenant: &Token) -> Result<Vec<Credential>> {
        let _lock = self.lock()?;
        let mut entries = self.existing(tenant)?;
        let generations = generations(tenant, &entries);
        ensure!(
            generations.len() < 2,
            "{tenant} has two credentials already: `brigade tenants rotate {tenant} --finish` ends \
             the older one"
        );
        let next = generations.last().map_or(1, |last| last + 1);
        let users =
            tenant_users(tenant).into_iter().map(|user| of_generation(user, next)).collect();
        let made = new_users(users, &mut entries);
        self.write_tenant(tenant, &entries)?;
        self.write_index()?;
        Ok(made)
    }

    /// Ends all generations of a tenant's users but the last. Returns the users that ended.
    ///
    /// # Errors
    /// If it has no account, or no second generation; if a file cannot be written.
    pub fn finish(&self, tenant: &Token) -> Result<Vec<String>> {
        let _lock = self.lock()?;
        let entries = self.existing(tenant)?;
        let generations = generations(tenant, &entries);
        let last = match generations[..] {
            [.., _, last] => last,
            _ => bail!(
                "{tenant} has one credential only: `brigade tenants rotate {tenant}` first. If a \
                 reload failed: `brigade tenants sync --accounts {} --reload-pid FILE`",
                self.dir.display()
            ),
        };
        let is_last = |entry: &AccountUser| generation(tenant, &entry.user) == Some(last);
        let (kept, ended): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_last);
        self.write_tenant(tenant, &kept)?;
        self.write_index()?;
        Ok(ended.into_iter().map(|entry| entry.user).collect())
    }

    /// Removes the account of a tenant. Returns false if it has none.
    ///
    /// # Errors
    /// If a file cannot be written or removed.
    pub fn remove(&self, tenant: &Token) -> Result<bool> {
        let _lock = self.lock()?;
        if !self.path(tenant).exists() {
            return Ok(false);
        }
        // The index first: it must name no file that is not there.
        let tenants = self.tenants()?.into_iter().filter(|other| other != tenant).collect();
        self.write_index_of(tenants)?;
        fs::remove_file(self.path(tenant))?;
        Ok(true)
    }

    /// Returns the users of a tenant; none if it has no account.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn users(&self, tenant: &Token) -> Result<Vec<String>> {
        Ok(self.tenant(tenant)?.into_iter().map(|entry| entry.user).collect())
    }
}

fn new_users(users: Vec<NatsUser>, entries: &mut Vec<AccountUser>) -> Vec<Credential> {
    users.iter().map(|user| new_user(user, entries)).collect()
}

fn new_user(user: &NatsUser, entries: &mut Vec<AccountUser>) -> Credential {
    // Beginning with a letter: nats-server takes a value of digits alone for a number.
    let password = format!("p{}", hex::encode(rand::random::<[u8; 16]>()));
    entries.push(AccountUser { user: user.name.clone(), password: password.clone() });
    Credential { user: user.name.clone(), password, inbox_prefix: user.inbox_prefix() }
}

#[cfg(test)]
mod tests;
