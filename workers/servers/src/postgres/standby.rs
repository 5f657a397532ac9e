//! A standby of a running server.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::time::timeout;

use super::{
    super::{
        log::Log,
        process::{ChildProcess, Program},
        secret_file::private_folder,
    },
    LOG, Postgres, SUPERUSER, cluster, launch,
};
use crate::port::start_on_port;

/// A copy of some hundred megabytes takes a second; the checkpoint before it, on a busy disk, some.
const COPY_LIMIT: Duration = Duration::from_secs(120);

impl Postgres {
    /// Returns the program that copies a server of this folder of programs, where there is one: in
    /// it, or where the server itself is, if that is a link.
    #[must_use]
    pub fn copier(bin: &Path) -> Option<PathBuf> {
        let linked = fs::canonicalize(bin.join("postgres")).ok();
        let folders = [Some(bin), linked.as_deref().and_then(Path::parent)];
        let of = |folder: &Path| folder.join("pg_basebackup");
        folders.into_iter().flatten().map(of).find(|program| program.is_file())
    }

    /// Makes a copy of this server in a folder and starts it as a standby, which follows this
    /// server by a port: its own, or that of a proxy. It is synchronous where this server is told
    /// so (`synchronous_standby_names`).
    ///
    /// # Errors
    /// If there is no `pg_basebackup`, or the copy does not start.
    pub async fn standby(&self, dir: &Path, by_port: u16) -> Result<Self> {
        private_folder(dir)?;
        let account = self.account.as_ref();
        if let Some(account) = account {
            account.reach(dir)?;
        }
        let data = std::path::absolute(dir.join(cluster::DATA))?;
        private_folder(&data)?;
        let password = dir.join(cluster::PASSWORD);
        fs::copy(self.dir.join(cluster::PASSWORD), &password)
            .context("cannot copy the password")?;
        if let Some(account) = account {
            account.own(&data)?;
            account.own(&password)?;
        }
        self.copy_to(&data, by_port).await?;
        let (port, process) =
            start_on_port(0, async |port| launch(&self.bin, dir, port, account).await).await?;
        Ok(Self {
            bin: self.bin.clone(),
            dir: dir.to_owned(),
            port,
            password: self.password.clone(),
            account: self.account.clone(),
            process,
        })
    }

    async fn copy_to(&self, data: &Path, by_port: u16) -> Result<()> {
        let dir = data.parent().unwrap_or(data);
        let log = Log::claim(&dir.join(LOG)).await?;
        let by_port = by_port.to_string();
        let arguments = ["--host=127.0.0.1", "--port", &by_port, "--username", SUPERUSER];
        let options = ["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"];
        let mut arguments: Vec<_> = arguments.iter().chain(&options).map(Into::into).collect();
        arguments.extend(["--pgdata".into(), data.into()]);
        let mut copy = ChildProcess::spawn(&Program {
            binary: &Self::copier(&self.bin).context("there is no pg_basebackup")?,
            arguments,
            dir: data,
            log: &log,
            account: self.account.as_ref(),
            environment: vec![("PGPASSWORD".to_owned(), self.password.clone())],
            last_signal: "KILL",
        })?;
        match timeout(COPY_LIMIT, copy.wait()).await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!("pg_basebackup failed ({status}):\n{}", copy.log().tail()),
            Err(_) => bail!("pg_basebackup took over {COPY_LIMIT:?}:\n{}", copy.log().tail()),
        }
    }
}
