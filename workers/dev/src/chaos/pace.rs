//! `brigade chaos --kill-each`: kill -9 of each process in turn under a steady load, and how long it
//! takes until everything that is sent is done as soon as before.
//!
//! Commands are sent at a fixed rate, whatever becomes of those before, and none is repeated. Each
//! is followed until it is decided, a query sees it, and its part of another worker stands in KV. A
//! command that takes longer than what was usual right before the kill (or gets lost with the
//! process) was late; the rate is normal again when no later one is.

use std::{
    collections::{BTreeMap, HashMap},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use async_nats::{Client, HeaderMap, Request};
use brigade_contracts::{Token, permissions};
use futures::StreamExt;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::fleet::{ChaosFleet, FleetPlan, TENANTS, connect};
use crate::worker::as_it_is;

/// Commands are sent a second, less than a debug build takes on two cores.
const RATE: u32 = 50;
/// The time before a kill that says what is usual, and the time after it that is looked at.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(4);
/// The process is back, and everybody has got used to it.
const CALM: Duration = Duration::from_secs(2);
/// The least time that counts as late; else it is twice the usual 99th percentile.
const LATE: Duration = Duration::from_millis(100);
/// Nobody waits longer.
const LOST: Duration = Duration::from_secs(3);

/// A figure that is measured of a command.
const STAGES: [&str; 3] = ["decided", "seen", "projected"];

/// A command, and how long it took until each of the stages.
#[derive(Clone, Copy, Debug)]
struct PacedCommand {
    sent: Instant,
    took: [Option<Duration>; 3],
}

/// The recoveries from kills of one worker: the worst of each stage, and how many commands were
/// late.
#[derive(Default)]
struct WorkerPace {
    worst: [Duration; 3],
    late: usize,
}

/// Kills each process once.
///
/// # Errors
/// If a process does not come back.
pub async fn measure() -> Result<ExitCode> {
    eprintln!("kill -9 of each process under {RATE} commands a second");
    let plan = FleetPlan {
        launch: as_it_is,
        variables: Vec::new(),
        previous: None,
        is_cluster: false,
        has_small_disks: false,
    };
    let mut fleet = ChaosFleet::start(plan).await?;
    let load = SteadyLoad::start(&fleet).await?;
    sleep(CALM).await;
    let mut paces: BTreeMap<&str, WorkerPace> = BTreeMap::new();
    for at in 0..fleet.members.len() {
        sleep(BEFORE + CALM).await;
        let killed = Instant::now();
        fleet.kill(at).await;
        sleep(AFTER).await;
        fleet.start_missing().await?;
        // What was sent last has been done, or is lost.
        sleep_until(killed + AFTER + LOST).await;
        let recovery = recovery(&load.sent(), killed);
        let pace = paces.entry(fleet.members[at].worker.as_str()).or_default();
        pace.late += recovery.late;
        for (worst, took) in pace.worst.iter_mut().zip(recovery.worst) {
            *worst = took.max(*worst);
        }
        eprintln!("  {:<26} {}", fleet.name(at), line(&recovery));
    }
    drop(load);
    fleet.close(false).await;
    eprintln!("\n  {:<26} until the normal rate, the worst of two", "killed");
    for (worker, pace) in &paces {
        eprintln!("  {worker:<26} {}", line(pace));
    }
    let is_soon = |pace: &WorkerPace| pace.worst.iter().all(|took| *took < Duration::from_secs(1));
    let all = paces.values().all(is_soon);
    eprintln!("\n{} a second", if all { "✓ all below" } else { "✗ not all below" });
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(pace: &WorkerPace) -> String {
    let stages = STAGES.iter().zip(pace.worst);
    let stages =
        stages.map(|(stage, took)| format!("{stage} {:>5.0} ms", took.as_secs_f64() * 1e3));
    format!("{}; {} late", stages.collect::<Vec<_>>().join(", "), pace.late)
}

/// Returns how long after a kill the last command was sent that took longer than usual.
fn recovery(sent: &[PacedCommand], killed: Instant) -> WorkerPace {
    let mut pace = WorkerPace::default();
    let after = |command: &&PacedCommand| {
        // What was under way is struck as well.
        command.sent + LATE > killed && command.sent < killed + AFTER
    };
    let mut is_late = vec![false; sent.len()];
    for stage in 0..STAGES.len() {
        let before = sent.iter().filter(|by| by.sent < killed - LATE && by.sent + BEFORE > killed);
        let mut usual: Vec<Duration> = before.filter_map(|by| by.took[stage]).collect();
        usual.sort_unstable();
        let p99 = usual.get(usual.len() * 99 / 100).copied().unwrap_or_default();
        let limit = LATE.max(p99 * 2);
        for (at, command) in sent.iter().enumerate().filter(|(_, command)| after(command)) {
            if command.took[stage].is_none_or(|took| took > limit) {
                is_late[at] = true;
                let until = command.sent.saturating_duration_since(killed);
                pace.worst[stage] = pace.worst[stage].max(until + Duration::from_secs(1) / RATE);
            }
        }
    }
    pace.late = is_late.iter().filter(|late| **late).count();
    pace
}

/// The commands of a steady load, which ends when it is dropped.
struct SteadyLoad {
    sent: Arc<Mutex<Vec<PacedCommand>>>,
    task: JoinHandle<()>,
}

impl Drop for SteadyLoad {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The parts in KV that came, by their cart.
type ProjectedParts = Arc<Mutex<HashMap<String, Instant>>>;

impl SteadyLoad {
    async fn start(fleet: &ChaosFleet) -> Result<Self> {
        let user = permissions::producer(&Token::new(TENANTS[0])?).name;
        let client = connect(&fleet.stack, &user).await?;
        let mut pushes =
            client.subscribe(format!("live.views.{}.cart.*.payments", TENANTS[0])).await?;
        client.flush().await?;
        let parts = ProjectedParts::default();
        let came = parts.clone();
        let follow = async move {
            while let Some(push) = pushes.next().await {
                let cart = push.subject.split('.').nth(4).unwrap_or_default().to_owned();
                let mut came = came.lock().unwrap_or_else(PoisonError::into_inner);
                came.entry(cart).or_insert_with(Instant::now);
            }
        };
        let sent: Arc<Mutex<Vec<PacedCommand>>> = Arc::default();
        let all = sent.clone();
        let send = async move {
            let mut tick = interval(Duration::from_secs(1) / RATE);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for number in 0_u64.. {
                tick.tick().await;
                let (client, parts, all) = (client.clone(), parts.clone(), all.clone());
                tokio::spawn(async move {
                    let command = follow_one(&client, &parts, format!("pace-{number}")).await;
                    all.lock().unwrap_or_else(PoisonError::into_inner).push(command);
                });
            }
        };
        let task = tokio::spawn(async move {
            tokio::join!(follow, send);
        });
        Ok(Self { sent, task })
    }

    /// Returns the commands that are done or lost so far.
    fn sent(&self) -> Vec<PacedCommand> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn follow_one(client: &Client, parts: &ProjectedParts, cart: String) -> PacedCommand {
    let sent = Instant::now();
    let mut command = PacedCommand { sent, took: [None; 3] };
    let tenant = TENANTS[0];
    let open = format!(r#"{{"kind":"menu","owner":"{cart}","currency":"EUR"}}"#);
    let followed = async {
        command.took[0] =
            ask(client, format!("req.{tenant}.cart.{cart}.open"), open, &cart, sent).await;
        let query = format!("q.{tenant}.view.cart.{cart}");
        command.took[1] = ask(client, query, String::new(), &cart, sent).await;
    };
    let _lost = timeout(LOST, followed).await;
    let came = || parts.lock().unwrap_or_else(PoisonError::into_inner).remove(&cart);
    let mut projected = came();
    while projected.is_none() && sent.elapsed() < LOST {
        sleep(Duration::from_millis(10)).await;
        projected = came();
    }
    command.took[2] = projected.map(|at| at - sent);
    command
}

/// Returns the time until an answer that it was done.
async fn ask(
    client: &Client,
    subject: String,
    body: String,
    id: &str,
    sent: Instant,
) -> Option<Duration> {
    let mut headers = HeaderMap::new();
    headers.insert("Command-Id", id);
    let request = Request::new().headers(headers).payload(body.into()).timeout(Some(LOST));
    let reply = client.send_request(subject, request).await.ok()?;
    let status: u16 = reply.headers?.get("Brigade-Status")?.as_str().parse().ok()?;
    (status < 300).then(|| sent.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_late_command_says_when_the_rate_is_normal() {
        let killed = Instant::now() + Duration::from_secs(10);
        let (ms, mut sent) = (Duration::from_millis, Vec::new());
        for n in 0..300 {
            let at = killed - ms(3000) + ms(20 * n);
            sent.push(PacedCommand { sent: at, took: [Some(ms(5)), Some(ms(8)), Some(ms(60))] });
        }
        let normal = recovery(&sent, killed);
        assert_eq!((normal.late, normal.worst), (0, [Duration::ZERO; 3]));
        // The one at 400 ms is lost, that at 600 ms is projected late.
        sent[170].took = [None; 3];
        sent[180].took[2] = Some(ms(121));
        let late = recovery(&sent, killed);
        assert_eq!((late.late, late.worst), (2, [ms(420), ms(420), ms(620)]));
    }
}
