use std::{collections::BTreeSet, sync::Arc};

use brigade_contracts::{Address, Aggregate};
use brigade_domain::State;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    entries::{Backlog, BacklogEntry, EntryKey, delete_healed, load_page},
    projected::{ProjectedVersions, flush},
};
use crate::{
    infra::{
        Context,
        health::POSTGRES,
        lease::LeasedRounds,
        postgres::{Failure, bounded, era, failure},
    },
    store::states,
    workers::command_handler::{
        guarded_bucket::WRITE_TIMEOUT, metrics::CommandHandlerMetrics, project::ProjectionWriter,
    },
};

/// Projects the entries of a backlog.
///
/// A scan goes through all entries by key, page by page. A page begins where the one before ended,
/// so nothing is read twice, however many entries there are, and those who write entries keep no
/// index besides that of the key. An entry that cannot be projected now is passed over until the
/// next scan, so that it holds up no other.
pub(super) struct BacklogScan {
    backlog: Backlog,
    cx: Context,
    writer: Arc<ProjectionWriter>,
    projected: Arc<ProjectedVersions>,
    metrics: Arc<CommandHandlerMetrics>,
    /// The key of the last entry of the page before.
    after: EntryKey,
    /// The number of entries in a page.
    page_size: i64,
    /// Entries up to this time with an unreadable address were logged in an earlier scan.
    logged_until: OffsetDateTime,
    /// The newest entry with an unreadable address in this scan.
    newest_logged: OffsetDateTime,
}

impl BacklogScan {
    pub(super) fn new(
        backlog: Backlog,
        cx: Context,
        writer: Arc<ProjectionWriter>,
        projected: Arc<ProjectedVersions>,
        metrics: Arc<CommandHandlerMetrics>,
    ) -> Self {
        Self {
            backlog,
            cx,
            writer,
            projected,
            metrics,
            after: EntryKey::default(),
            page_size: backlog.max_page(),
            logged_until: OffsetDateTime::UNIX_EPOCH,
            newest_logged: OffsetDateTime::UNIX_EPOCH,
        }
    }

    /// Projects entries, under the lease, until the drain.
    pub(super) async fn run(mut self) {
        let duty = self.cx.health.duty(self.backlog.duty());
        let mut rounds = LeasedRounds::new(&self.cx, self.backlog.lease(), duty);
        while rounds.begin().await {
            match self.project_all(&mut rounds).await {
                Ok(true) => rounds.succeeded(),
                Ok(false) => rounds.blocked(),
                Err(error) => {
                    let worker = self.cx.worker;
                    tracing::debug!(%worker, %error, "cannot project the backlog");
                    rounds.failed(POSTGRES, &error.to_string());
                }
            }
        }
    }

    /// Projects entries until the scan is over, or no entry of a page can be projected. The
    /// scan goes on with the next round then, so that a server that is away is not asked without
    /// pause. Returns whether there was nothing to project, or something was projected.
    async fn project_all(&mut self, rounds: &mut LeasedRounds) -> sqlx::Result<bool> {
        let mut has_projected = false;
        while rounds.renew().await? {
            rounds.duty().moved();
            let page_size = self.page_size;
            let entries =
                load_page(self.backlog, &self.cx.postgres, &self.after, page_size).await?;
            if entries.is_empty() {
                self.end();
                return Ok(true);
            }
            match self.project_page(&entries).await? {
                BacklogPage::Projected(0) => return Ok(true),
                BacklogPage::Projected(_) => has_projected = true,
                BacklogPage::Blocked => return Ok(has_projected),
            }
            if self.cx.drain.is_cancelled() {
                break;
            }
        }
        Ok(true)
    }

    /// Projects the entries of a page.
    async fn project_page(&mut self, entries: &[BacklogEntry]) -> sqlx::Result<BacklogPage> {
        let addresses = self.advance(entries);
        let CurrentStates { states, absent } = match read(&self.cx, &addresses).await {
            Ok(current) => current,
            Err(error) => {
                // A page of large aggregates may take longer than a statement is waited for.
                self.page_size = (self.page_size / 8).max(1);
                return Err(error);
            }
        };
        let began = Instant::now();
        let projected = self.writer.reproject(&states).await;
        let count = projected.len();
        // A page may take longer than a bucket is waited for.
        let is_too_large = count == 0 && began.elapsed() >= WRITE_TIMEOUT;
        self.page_size = if is_too_large {
            (self.page_size / 8).max(1)
        } else {
            (self.page_size * 2).min(self.backlog.max_page())
        };
        if count > 0 {
            let (worker, backlog, entries) = (self.cx.worker, self.backlog.duty(), entries.len());
            tracing::info!(
                %worker, backlog, entries, projected = count, "projected what was left"
            );
        }
        self.metrics.reprojected.inc_by(count as u64);
        let settled = match self.backlog {
            Backlog::Overdue => {
                self.projected.add(projected);
                self.projected.add(versions_of_deleted(entries, &absent));
                flush(&self.cx.postgres, &self.projected).await?;
                count
            }
            Backlog::Heals => {
                let mut written = absent;
                written.extend(projected.into_iter().map(|(address, _)| address));
                let is_written = |entry: &&BacklogEntry| {
                    entry.address().is_some_and(|address| written.contains(&address))
                };
                let done: Vec<_> = entries.iter().filter(is_written).collect();
                delete_healed(&self.cx.postgres, &done).await?;
                done.len()
            }
        };
        Ok(if settled > 0 || states.is_empty() {
            BacklogPage::Projected(settled)
        } else {
            BacklogPage::Blocked
        })
    }

    /// Goes past a page, and returns the addresses of its entries.
    fn advance(&mut self, entries: &[BacklogEntry]) -> Vec<Address> {
        let mut addresses = Vec::new();
        for entry in entries {
            match entry.address() {
                Some(address) => addresses.push(address),
                None if entry.at <= self.logged_until => {}
                None => {
                    let worker = self.cx.worker;
                    tracing::error!(%worker, ?entry, "an entry without an address is not projected");
                    self.newest_logged = self.newest_logged.max(entry.at);
                }
            }
        }
        if let Some(last) = entries.last() {
            self.after = last.key();
        }
        addresses
    }

    fn end(&mut self) {
        self.after = EntryKey::default();
        self.logged_until = self.newest_logged;
    }
}

/// The result of a page.
enum BacklogPage {
    /// So many aggregates were projected. None if there was nothing to project.
    Projected(usize),
    /// None could be projected.
    Blocked,
}

/// The present states of entries.
#[derive(Default)]
struct CurrentStates {
    states: Vec<State>,
    /// The addresses that are not in SQL, such as locks that were deleted: nothing of them is to be
    /// projected.
    absent: BTreeSet<Address>,
}

impl CurrentStates {
    fn add(&mut self, addresses: &[Address], states: Vec<State>) {
        let found: BTreeSet<&Address> = states.iter().map(|state| &state.head().address).collect();
        self.absent.extend(addresses.iter().filter(|a| !found.contains(a)).cloned());
        self.states.extend(states);
    }
}

/// Returns the versions in the entries of the locks among what is absent: they were deleted. A lock
/// that is made again has a higher version, and keeps its entry.
fn versions_of_deleted(
    entries: &[BacklogEntry],
    absent: &BTreeSet<Address>,
) -> Vec<(Address, u64)> {
    let versions = entries.iter().filter_map(|entry| {
        let is_deleted = |a: &Address| a.aggregate == Aggregate::Lock && absent.contains(a);
        let address = entry.address().filter(is_deleted)?;
        Some((address, entry.version.cast_unsigned()))
    });
    versions.collect()
}

/// Reads aggregates. One that cannot be read is left out, and holds up no other.
async fn read(cx: &Context, addresses: &[Address]) -> sqlx::Result<CurrentStates> {
    let read = async |addresses: &[Address]| {
        bounded(&cx.postgres, async |connection| {
            era::read(connection, cx.era, async |c| states::load(c, addresses).await).await
        })
        .await
    };
    let mut current = CurrentStates::default();
    match read(addresses).await {
        Ok(states) => {
            current.add(addresses, states);
            return Ok(current);
        }
        Err(error) if failure(&error) == Failure::Fault => {}
        Err(error) => return Err(error),
    }
    for address in addresses {
        match read(std::slice::from_ref(address)).await {
            Ok(one) => current.add(std::slice::from_ref(address), one),
            Err(error) => {
                tracing::error!(%error, %address, "an aggregate cannot be read or projected");
            }
        }
    }
    Ok(current)
}
