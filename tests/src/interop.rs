//! Clients in other languages: where their programs are found or installed, and how they are run.
//!
//! A machine without them skips their tests and says so, except in CI, where all must be there.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{process::Command, time::timeout};

/// Longest run of a program, and of its installation: only ends a test that hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// The programs' sources.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop");

/// The path of the `nats` CLI in the cache folder; `.ci/run` builds it there.
const NATS_CLI: &str = "brigade/nats-cli-0.4.0/nats";

#[expect(clippy::disallowed_methods, reason = "whether this is CI, and where programs are")]
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns what was found, else `None` after the reason was printed.
///
/// # Panics
/// In CI, where it has to be there.
pub fn or_skip<T>(what: &str, found: Result<T>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) => {
            let ci = variable("CI").is_some_and(|value| value == "true");
            assert!(!ci, "{what} must be there in CI: {error:#}");
            eprintln!("SKIPPED, {what} is not there: {error:#}");
            None
        }
    }
}

/// Runs a program; returns its output, or an error that holds it.
///
/// # Errors
/// Where it cannot be started, fails, or does not end.
pub async fn run(command: &mut Command) -> Result<String> {
    let name = format!("{:?}", command.as_std());
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await.with_context(|| name.clone())?;
    let output = output.with_context(|| name.clone())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&output.stdout) + &text(&output.stderr);
    ensure!(output.status.success(), "{name}: {}\n{printed}", output.status);
    Ok(printed)
}

/// Returns the Python of an environment with the packages of `requirements.txt`.
///
/// # Errors
/// Where there is no Python, or a package cannot be installed.
pub async fn python() -> Result<PathBuf> {
    let version = run(Command::new("python3").arg("--version")).await?;
    let (dir, fresh) = folder("python", &["requirements.txt"], &version)?;
    let python = dir.join("bin/python");
    if fresh {
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir)).await?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        let mut pip = Command::new(&python);
        pip.args(install).args(["--require-hashes", "--requirement"]);
        run(pip.arg(Path::new(SOURCES).join("requirements.txt"))).await?;
        finished(&dir)?;
    }
    Ok(python)
}

/// Returns a folder with the compiled TypeScript program and the packages of `package-lock.json`.
///
/// # Errors
/// Where there is no Node of version 20 or later, a package cannot be installed, or the types of
/// the program are wrong.
pub async fn typescript() -> Result<PathBuf> {
    let version = run(Command::new("node").arg("--version")).await?;
    let major = version.trim_start_matches('v').split('.').next().unwrap_or_default();
    ensure!(major.parse::<u32>()? >= 20, "node {version} is older than 20");
    let sources = ["package.json", "package-lock.json", "tsconfig.json", "producer.ts"];
    let (dir, fresh) = folder("node", &sources, &version)?;
    if fresh {
        for source in sources {
            fs::copy(Path::new(SOURCES).join(source), dir.join(source))?;
        }
        let install = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
        run(Command::new("npm").args(install).current_dir(&dir)).await?;
        let tsc = "node_modules/typescript/bin/tsc";
        run(Command::new("node").arg(tsc).current_dir(&dir)).await?;
        finished(&dir)?;
    }
    Ok(dir)
}

/// Returns the `nats` CLI: on the PATH, where Go puts programs, or in the cache folder.
///
/// # Errors
/// Where it is in none of these.
pub async fn nats_cli() -> Result<PathBuf> {
    let home = PathBuf::from(variable("HOME").unwrap_or_default());
    let cache = variable("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
    for path in [PathBuf::from("nats"), home.join("go/bin/nats"), cache.join(NATS_CLI)] {
        if run(Command::new(&path).arg("--version")).await.is_ok() {
            return Ok(path);
        }
    }
    anyhow::bail!("no `nats` on the PATH, in ~/go/bin or in the cache folder; see .ci/run")
}

/// Returns a folder under cargo's target directory for what these sources need, and whether it is
/// empty yet. Its name holds a hash of the sources.
fn folder(kind: &str, sources: &[&str], version: &str) -> Result<(PathBuf, bool)> {
    let mut content = DefaultHasher::new();
    version.hash(&mut content);
    for source in sources {
        fs::read(Path::new(SOURCES).join(source))?.hash(&mut content);
    }
    // <target>/debug/deps/<this program>
    let program = env::current_exe()?;
    let target = program.ancestors().nth(3).context("a target directory")?;
    let dir = target.join(format!("interop/{kind}-{:016x}", content.finish()));
    let fresh = !dir.join(FINISHED).exists();
    if fresh {
        // What an interrupted installation left behind.
        let _absent = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
    }
    Ok((dir, fresh))
}

/// Marks a folder as filled.
const FINISHED: &str = "finished";

fn finished(dir: &Path) -> Result<()> {
    Ok(fs::write(dir.join(FINISHED), "")?)
}
