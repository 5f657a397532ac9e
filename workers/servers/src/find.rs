//! Finds the servers: what the environment names, else what is installed and new enough, else a
//! private download.

use std::{
    cmp::Reverse,
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{process::Command, time::timeout};

use super::download;
use crate::config::StackConfig;

/// Printing a version takes milliseconds; anything longer is no server.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Binaries {
    pub nats_server: PathBuf,
    /// The folder with `postgres` and `initdb`.
    pub postgres_bin: PathBuf,
}

impl Binaries {
    pub async fn find(config: &StackConfig) -> Result<Self> {
        let nats_server = match installed(&NATS_SERVER, config).await? {
            Some(found) => found,
            None => download::nats_server(config).await?,
        };
        let postgres_bin = match installed(&POSTGRES, config).await? {
            Some(found) => folder(&found),
            None => download::postgres_bin(config).await?,
        };
        Ok(Self { nats_server, postgres_bin })
    }

    /// The PgBouncer to be used, if there is any: nothing but tests needs one.
    pub async fn pgbouncer(config: &StackConfig) -> Result<Option<PathBuf>> {
        installed(&PGBOUNCER, config).await
    }
}

struct ServerProgram {
    program: &'static str,
    /// A program that has to be beside it.
    companion: Option<&'static str>,
    least: Version,
    variable: &'static str,
    /// The program that the environment names.
    named: fn(&StackConfig) -> Option<PathBuf>,
}

/// The first version whose message schedules and batches behave as the workers need them.
const NATS_SERVER: ServerProgram = ServerProgram {
    program: "nats-server",
    companion: None,
    least: Version(2, 14, 3),
    variable: "BRIGADE_NATS_SERVER",
    named: |config| config.nats_server.clone(),
};

const POSTGRES: ServerProgram = ServerProgram {
    program: "postgres",
    companion: Some("initdb"),
    least: Version(15, 0, 0),
    variable: "BRIGADE_POSTGRES_BIN",
    named: |config| Some(config.postgres_bin.as_ref()?.join("postgres")),
};

/// The first version that knows prepared statements in transaction mode.
const PGBOUNCER: ServerProgram = ServerProgram {
    program: "pgbouncer",
    companion: None,
    least: Version(1, 21, 0),
    variable: "BRIGADE_PGBOUNCER",
    named: |config| config.pgbouncer.clone(),
};

/// None when nothing fits. What the environment names is taken or refused, never replaced: its
/// author meant that one.
async fn installed(server: &ServerProgram, config: &StackConfig) -> Result<Option<PathBuf>> {
    if let Some(named) = (server.named)(config) {
        return usable(server, &named)
            .await
            .with_context(|| format!("{} names no usable server", server.variable))
            .map(Some);
    }
    for folder in search(config) {
        let found = folder.join(server.program);
        if !found.is_file() {
            continue;
        }
        match usable(server, &found).await {
            Ok(found) => return Ok(Some(found)),
            Err(error) => eprintln!("brigade: skipped: {error:#}"),
        }
    }
    Ok(None)
}

/// The folders in which servers are looked for, in order.
fn search(config: &StackConfig) -> Vec<PathBuf> {
    let path = env::split_paths(&config.path).filter(|folder| folder.is_absolute());
    let places = config.places.iter().flat_map(|place| expand(place));
    path.chain(places).chain([config.cache_dir.join("pgbouncer")]).collect()
}

/// The folders that a place stands for: itself, or those that its `*` matches, newest first.
fn expand(place: &Path) -> Vec<PathBuf> {
    let Some(place) = place.to_str() else {
        return Vec::new();
    };
    let Some((before, after)) = place.split_once('*') else {
        return vec![PathBuf::from(place)];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let rest = after.trim_start_matches('/');
    let entries = fs::read_dir(Path::new("/").join(parent));
    let mut found: Vec<(Version, PathBuf)> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = Version::parse(name.strip_prefix(prefix)?)?;
            Some((version, entry.path().join(rest)))
        })
        .collect();
    found.sort_by_key(|(version, _)| Reverse(*version));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// The program in the folder where its companion is too: a link to it alone (as Debian users make
/// for `postgres`) is followed.
async fn usable(server: &ServerProgram, found: &Path) -> Result<PathBuf> {
    let mut found = std::path::absolute(found)?;
    if let Some(companion) = server.companion {
        if !folder(&found).join(companion).is_file() {
            found = found
                .canonicalize()
                .with_context(|| format!("{} cannot be used", found.display()))?;
        }
        if !folder(&found).join(companion).is_file() {
            bail!("{} has no {companion} beside it", found.display());
        }
    }
    let version = version_of(&found).await?;
    if version < server.least {
        bail!(
            "{} has version {version}, and {} is the oldest that will do",
            found.display(),
            server.least
        );
    }
    Ok(found)
}

async fn version_of(program: &Path) -> Result<Version> {
    let run =
        Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let shown = program.display();
    let output = timeout(VERSION_LIMIT, run)
        .await
        .with_context(|| format!("{shown} --version does not end"))?
        .with_context(|| format!("{shown} cannot be run"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .find_map(Version::parse)
        .with_context(|| format!("{shown} --version tells no version"))
}

fn folder(program: &Path) -> PathBuf {
    program.parent().unwrap_or(program).to_owned()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    /// Reads `v2.15.1`, `15.14`, `18beta1` (as 18); None for words that are no version.
    fn parse(word: &str) -> Option<Self> {
        let mut parts = word.strip_prefix('v').unwrap_or(word).split('.');
        let mut number = || {
            let part = parts.next()?;
            let digits = part.find(|c: char| !c.is_ascii_digit());
            part[..digits.unwrap_or(part.len())].parse().ok()
        };
        let first = number()?;
        Some(Self(first, number().unwrap_or(0), number().unwrap_or(0)))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)?;
        if self.2 > 0 {
            write!(f, ".{}", self.2)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
