//! Both servers in one folder, with users, permissions, schema and topology.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use brigade::{
    fleet::{Servers, Settings},
    infra::{NatsOptions, connect_options},
    operations::{
        migrate, provision,
        tenants::{self, accounts::AccountsFolder},
    },
};
use brigade_contracts::{Token, WorkerName, permissions};
use brigade_servers::{Binaries, NatsServer, Postgres, secret_file::private_folder};
use sqlx::PgPool;

use super::credentials::Credentials;

/// The folder of the accounts, in that of nats-server.
const ACCOUNTS: &str = "accounts";
/// The database of a stack.
pub const DATABASE: &str = "brigade";

/// Ports to listen on; 0 takes any free one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    pub nats: u16,
    pub postgres: u16,
}

/// A stack in a folder of this machine.
pub struct LocalStack {
    pub dir: PathBuf,
    pub nats: NatsServer,
    pub postgres: Postgres,
    pub tenants: Vec<Token>,
    credentials: Credentials,
}

impl LocalStack {
    /// Starts both servers on the folder, new or with what an earlier start left there, and brings
    /// users, schema and topology up to date. Workers come on top.
    ///
    /// # Errors
    /// If a server does not start; what its log said last is part of the error.
    pub async fn start(
        binaries: &Binaries,
        dir: &Path,
        tenants: Vec<Token>,
        ports: Ports,
    ) -> Result<Self> {
        private_folder(dir)?;
        let users = permissions::all_users(&tenants);
        let credentials = Credentials::of(dir, users.iter().map(|user| user.name.clone()))?;
        let (nats_dir, postgres_dir) = (dir.join("nats"), dir.join("postgres"));
        let with_passwords = users.iter().map(|user| (user, credentials.password(&user.name)));
        // As in production, so that `brigade tenants` works on it.
        let accounts_dir = nats_dir.join(ACCOUNTS);
        private_folder(&nats_dir)?;
        private_folder(&accounts_dir)?;
        let accounts = AccountsFolder::new(&accounts_dir);
        accounts.put(&with_passwords.collect::<Vec<_>>())?;
        accounts.sync()?;
        let include = format!("include \"{ACCOUNTS}/accounts.conf\"");
        let (nats, postgres) = tokio::try_join!(
            NatsServer::start(&binaries.nats_server, &nats_dir, ports.nats, &include),
            Postgres::start(&binaries.postgres_bin, &postgres_dir, ports.postgres),
        )?;
        let stack = Self { dir: dir.to_owned(), nats, postgres, tenants, credentials };
        migrate::create_database(&stack.postgres.superuser_url("postgres"), DATABASE).await?;
        let password =
            |worker: WorkerName| Some(stack.credentials.password(worker.as_str()).into());
        migrate::run(&stack.superuser_url(), "", password).await?;
        stack.add_tenants().await?;
        provision::run(&stack.nats_url("operator"), 1).await?;
        Ok(stack)
    }

    async fn add_tenants(&self) -> Result<()> {
        let pool = PgPool::connect(&self.superuser_url()).await?;
        let tenants: Vec<_> = self.tenants.iter().map(Token::as_str).collect();
        let added = tenants::ensure_added(&pool, &tenants).await;
        pool.close().await;
        added.context("cannot register the tenants")
    }

    /// Returns the folder of the NATS accounts, for `brigade tenants --accounts`.
    #[must_use]
    pub fn accounts_dir(&self) -> PathBuf {
        self.dir.join("nats").join(ACCOUNTS)
    }

    /// Returns the NATS URL of a user of this stack.
    #[must_use]
    pub fn nats_url(&self, user: &str) -> String {
        let password = self.credentials.password(user);
        format!("nats://{user}:{password}@127.0.0.1:{}", self.nats.port())
    }

    /// Connects to NATS as a user of this stack.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn connect(&self, user: &str) -> Result<async_nats::Client> {
        let (options, address) = connect_options(&self.nats_url(user))?;
        Ok(options.connect(address).await?)
    }

    #[must_use]
    pub fn superuser_url(&self) -> String {
        self.postgres.superuser_url(DATABASE)
    }

    /// Returns the URLs of a worker, with its own user on both servers.
    #[must_use]
    pub fn servers(&self, worker: WorkerName) -> Servers {
        let user = worker.as_str();
        let password = self.credentials.password(user);
        Servers {
            nats_url: self.nats_url(user),
            postgres_url: self.postgres.url(user, password, DATABASE),
            nats: NatsOptions::default(),
            postgres_url_file: None,
            replicas: 1,
            settings: Settings::default(),
        }
    }

    /// Stops both servers.
    pub async fn stop(mut self) {
        tokio::join!(self.nats.stop(), self.postgres.stop());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use brigade_servers::StackConfig;

    use super::*;

    /// Returns the files and folders below one that others can read, write, list or run.
    fn open_to_others(folder: &Path) -> Result<Vec<PathBuf>> {
        let mut open = Vec::new();
        for entry in fs::read_dir(folder)? {
            let (path, found) = (entry.as_ref().expect("an entry").path(), entry?.metadata()?);
            // As root Postgres has a user of its own, who has to pass through.
            let harmless = if found.is_dir() { 0o011 } else { 0 };
            if found.permissions().mode() & 0o077 & !harmless != 0 {
                open.push(path.clone());
            }
            if found.is_dir() {
                open.extend(open_to_others(&path)?);
            }
        }
        Ok(open)
    }

    #[tokio::test]
    async fn what_a_stack_writes_is_its_owners_alone() -> Result<()> {
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let dir = tempfile::tempdir()?;
        let tenants = vec![Token::new("t1")?];
        let folder = dir.path().join("made");
        let stack = LocalStack::start(&binaries, &folder, tenants, Ports::default()).await?;
        assert!(folder.join("nats/nats-server.log").exists());
        assert_eq!(open_to_others(dir.path())?, Vec::<PathBuf>::new());
        stack.stop().await;
        Ok(())
    }
}
