//! The folder of a Postgres before its first start: the superuser's password and `initdb`.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::time::timeout;

use super::{
    super::{
        account::SystemAccount,
        log::Log,
        process::{ChildProcess, Program},
        secret_file::{private_folder, write_secret},
    },
    LOG, SUPERUSER,
};

pub(super) const DATA: &str = "data";
pub(super) const PASSWORD: &str = "password";

/// Lets in everyone with a password, from this machine; standbys as well.
const RULES: &str = "host all all 127.0.0.1/32 scram-sha-256\n\
                     host replication all 127.0.0.1/32 scram-sha-256\n";

/// It takes half a second; a disk that is busy syncing makes it slower.
const INIT_LIMIT: Duration = Duration::from_secs(60);

/// Makes what is missing and returns the superuser's password. The password is written before the
/// cluster that takes it: in the other order, a death in between would leave a cluster that nobody
/// can enter.
pub(super) async fn prepare(
    bin: &Path,
    dir: &Path,
    account: Option<&SystemAccount>,
) -> Result<String> {
    let log = Log::claim(&dir.join(LOG)).await?;
    let password = password(dir, account)?;
    if !dir.join(DATA).exists() {
        initialise(bin, dir, account, &log).await?;
    }
    Ok(password)
}

fn password(dir: &Path, account: Option<&SystemAccount>) -> Result<String> {
    let path = dir.join(PASSWORD);
    if let Ok(password) = fs::read_to_string(&path) {
        return Ok(password.trim().to_owned());
    }
    if dir.join(DATA).exists() {
        bail!("{} is missing: its cluster cannot be entered", path.display());
    }
    let password = hex::encode(rand::random::<[u8; 16]>());
    let fresh = write_secret(&path, &password)?;
    // It is initdb that reads it.
    if let Some(account) = account {
        account.own(&fresh)?;
    }
    fs::rename(&fresh, &path)?;
    Ok(password)
}

/// Builds the cluster beside its place and moves it there when it is whole and on the disk, so a
/// folder named `data` is never half a cluster. The locale `C` orders by bytes and is the same on
/// every machine.
async fn initialise(
    bin: &Path,
    dir: &Path,
    account: Option<&SystemAccount>,
    log: &Log,
) -> Result<()> {
    let fresh = std::path::absolute(dir.join(format!("{DATA}.new")))?;
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("cannot clear {}", fresh.display()))?;
    }
    private_folder(&fresh)?;
    if let Some(account) = account {
        account.own(&fresh)?;
    }
    let password = std::path::absolute(dir.join(PASSWORD))?;
    let mut initdb = ChildProcess::spawn(&Program {
        binary: &bin.join("initdb"),
        arguments: vec![
            "--pgdata".into(),
            fresh.clone().into(),
            "--pwfile".into(),
            password.into(),
            "--username".into(),
            SUPERUSER.into(),
            "--auth=scram-sha-256".into(),
            "--encoding=UTF8".into(),
            "--locale=C".into(),
            "--no-instructions".into(),
        ],
        dir: &fresh,
        log,
        account,
        environment: Vec::new(),
        last_signal: "KILL",
    })?;
    match timeout(INIT_LIMIT, initdb.wait()).await {
        Ok(status) if status.success() => {}
        Ok(status) => bail!("initdb failed ({status}):\n{}", initdb.log().tail()),
        Err(_) => bail!("initdb took over {INIT_LIMIT:?}:\n{}", initdb.log().tail()),
    }
    // initdb has synced its files; this one changes after it.
    let mut rules = File::create(fresh.join("pg_hba.conf"))?;
    rules.write_all(RULES.as_bytes())?;
    rules.sync_all()?;
    fs::rename(&fresh, dir.join(DATA))?;
    File::open(dir)?.sync_all()?;
    Ok(())
}
