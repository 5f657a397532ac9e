//! Reads `/proc`: the machine, and the resources that processes use. Linux only; elsewhere it reads
//! nothing.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::fleet::BenchFleet;

/// Clock ticks a second; the same on every Linux (`USER_HZ`).
const TICKS: f64 = 100.0;

/// # Errors
/// If the servers do not tell their versions.
pub async fn describe(fleet: &BenchFleet) -> Result<Value> {
    let postgres: String =
        sqlx::query_scalar("select split_part(version(), ' ', 2)").fetch_one(&fleet.sql).await?;
    let memory = line("/proc/meminfo", "MemTotal").and_then(|text| kilobytes(&text));
    Ok(json!({
        "cpu": line("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_mib": memory.map(|kilobytes| kilobytes / 1024),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|k| k.trim().to_owned()),
        "nats_server": fleet.operator.client().server_info().version,
        "postgres": postgres,
        "brigade": env!("CARGO_PKG_VERSION"),
        "optimised": !cfg!(debug_assertions),
    }))
}

/// CPU seconds that a process has used so far.
///
/// # Errors
/// If there is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    Ok(Stat::of(pid)?.ticks[..2].iter().sum::<f64>() / TICKS)
}

/// CPU seconds of a process, its living children and those that it has reaped.
///
/// # Errors
/// If there is no such process.
pub fn cpu_seconds_of_family(pid: u32) -> Result<f64> {
    let living = fs::read_dir("/proc")?.filter_map(|entry| {
        let child = entry.ok()?.file_name().to_str()?.parse().ok()?;
        // One that has ended meanwhile is among the reaped next time.
        Stat::of(child).ok().filter(|stat| stat.parent == pid)
    });
    let living: f64 = living.map(|stat| stat.ticks[..2].iter().sum::<f64>()).sum();
    Ok((Stat::of(pid)?.ticks.iter().sum::<f64>() + living) / TICKS)
}

/// MiB of memory that a process holds.
///
/// # Errors
/// If there is no such process.
pub fn resident(pid: u32) -> Result<f64> {
    let held = line(&format!("/proc/{pid}/status"), "VmRSS").and_then(|text| kilobytes(&text));
    Ok(held.context("no resident memory")? as f64 / 1024.0)
}

struct Stat {
    parent: u32,
    /// User and system time: its own, then that of reaped children.
    ticks: [f64; 4],
}

impl Stat {
    fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name before it may hold anything.
        let (_, fields) = text.rsplit_once(") ").context("no stat")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |at: usize| fields.get(at).context("a short stat");
        let mut ticks = [0.0; 4];
        for (at, ticks) in ticks.iter_mut().enumerate() {
            *ticks = field(11 + at)?.parse()?;
        }
        Ok(Self { parent: field(1)?.parse()?, ticks })
    }
}

/// Returns the text behind the first `name:` of a file.
fn line(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
    found.map(|(_, value)| value.trim().to_owned())
}

fn kilobytes(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.trim().parse().ok()
}
