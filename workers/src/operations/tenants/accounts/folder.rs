//! The folder: its lock, and the entries of its files.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use brigade_contracts::{
    Token,
    permissions::{
        Account, NatsUser, all_users, exports, imports_of_fleet, tenant_account, tenant_users,
    },
};
use serde_json::json;

use super::{
    AccountsFolder,
    file::{AccountUser, HEADER, listed, members, read, replace},
    generation::generation_of,
};

impl AccountsFolder {
    pub(super) fn path(&self, tenant: &Token) -> PathBuf {
        self.dir.join(format!("tenants/{tenant}.conf"))
    }

    fn fleet_path(&self) -> PathBuf {
        self.dir.join("fleet.conf")
    }

    /// Keeps other runs out until it is dropped. The folder has to be one of accounts.
    pub(super) fn lock(&self) -> Result<File> {
        self.require_fleet()?;
        self.begin()
    }

    /// Keeps other runs out until it is dropped; makes the folder.
    pub(super) fn begin(&self) -> Result<File> {
        let folder = self.dir.join("tenants");
        let context = || format!("cannot use the folder {}", self.dir.display());
        fs::create_dir_all(&folder).with_context(context)?;
        // As open to others as the folder itself, whatever the umask is.
        let open =
            fs::metadata(&self.dir).and_then(|of| fs::set_permissions(&folder, of.permissions()));
        open.with_context(context)?;
        let path = self.dir.join(".lock");
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(true).write(true).mode(0o600).open(path);
        let lock = lock.with_context(context)?;
        lock.lock()?;
        Ok(lock)
    }

    fn require_fleet(&self) -> Result<()> {
        ensure!(
            self.fleet_path().exists(),
            "{} is missing: `brigade tenants sync --accounts {}` begins the folder",
            self.fleet_path().display(),
            self.dir.display()
        );
        Ok(())
    }

    /// Returns the tenants that have a file.
    pub(super) fn tenants(&self) -> Result<Vec<Token>> {
        let mut tenants = Vec::new();
        for entry in fs::read_dir(self.dir.join("tenants"))? {
            let name = entry?.file_name();
            let tenant = name.to_str().and_then(|name| name.strip_suffix(".conf"));
            tenants.extend(tenant.and_then(|tenant| Token::new(tenant).ok()));
        }
        tenants.sort();
        Ok(tenants)
    }

    pub(super) fn fleet(&self) -> Result<Vec<AccountUser>> {
        read(&self.fleet_path(), |file| file.get("users").cloned())
    }

    pub(super) fn tenant(&self, tenant: &Token) -> Result<Vec<AccountUser>> {
        let account = Account::Tenant(tenant.clone()).to_string();
        read(&self.path(tenant), |file| file.get(&account)?.get("users").cloned())
    }

    pub(super) fn existing(&self, tenant: &Token) -> Result<Vec<AccountUser>> {
        let path = self.path(tenant);
        ensure!(
            path.exists(),
            "{} is missing: `brigade tenants add {tenant}` writes it",
            path.display()
        );
        self.tenant(tenant)
    }

    pub(super) fn write_fleet(&self, entries: &[AccountUser]) -> Result<()> {
        let users = listed(&all_users(&[]), |user, name| user.name == name, entries);
        replace(&self.fleet_path(), &format!("{HEADER}{}\n", members(json!({ "users": users }))))
    }

    pub(super) fn write_tenant(&self, tenant: &Token, entries: &[AccountUser]) -> Result<()> {
        let is_of = |user: &NatsUser, name: &str| generation_of(&user.name, name).is_some();
        let users = listed(&tenant_users(tenant), is_of, entries);
        let account = Account::Tenant(tenant.clone()).to_string();
        let file = members(json!({ account: tenant_account(tenant, &users) }));
        replace(&self.path(tenant), &format!("{HEADER}{file}\n"))
    }

    pub(super) fn write_index(&self) -> Result<()> {
        self.write_index_of(self.tenants()?)
    }

    /// Writes the file that makes a change count, the last one of all.
    pub(super) fn write_index_of(&self, tenants: Vec<Token>) -> Result<()> {
        let exports: Vec<_> =
            tenants.iter().flat_map(exports).map(|e| format!("      {e}\n")).collect();
        let imports: Vec<_> =
            tenants.iter().map(imports_of_fleet).map(|i| format!("      {i}\n")).collect();
        let files: Vec<_> =
            tenants.iter().map(|tenant| format!("  include \"tenants/{tenant}.conf\"\n")).collect();
        let fleet = Account::Fleet;
        let text = format!(
            "{HEADER}accounts: {{\n  \"{fleet}\": {{\n    jetstream: enabled\n    exports: [\n{}    \
             ]\n    imports: [\n{}    ]\n    include \"fleet.conf\"\n  }}\n{}}}\n",
            exports.concat(),
            imports.concat(),
            files.concat(),
        );
        replace(&self.dir.join("accounts.conf"), &text)
    }
}
