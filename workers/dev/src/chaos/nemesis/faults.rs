use anyhow::{Result, bail};
use serde::Serialize;

/// The faults, by the names of `--faults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChaosFault {
    KillWorker,
    PauseWorker,
    DrainWorker,
    MoveClock,
    RollingRestart,
    KillNats,
    ChangeLeaders,
    KillPostgres,
    FailOver,
    FailOverLosing,
    CutNats,
    CutPostgres,
    SlowPostgres,
    SlowNats,
    HalfOpen,
    OneWay,
    Isolate,
    DeleteBucket,
    PurgeKeys,
    DeleteStream,
    RollBackStream,
    WipeJetstream,
    FillNatsDisk,
    FillPostgresDisk,
    Suspend,
    Poison,
    Provision,
    Migrate,
}

/// A thing that a fault cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultNeed {
    Nothing,
    /// Several nats-servers.
    Cluster,
    /// One nats-server alone.
    SingleServer,
    /// To be allowed to mount a small disk.
    SmallDisks,
    /// `pg_basebackup` beside Postgres.
    Basebackup,
    /// libfaketime.
    Faketime,
}

/// A fault, its name and what it does, whether it strikes the whole fleet at once, and its need.
struct FaultDescription {
    fault: ChaosFault,
    name: &'static str,
    what: &'static str,
    is_of_all: bool,
    need: FaultNeed,
}

impl FaultDescription {
    const fn needing(self, need: FaultNeed) -> Self {
        Self { need, ..self }
    }
}

const fn of_all(fault: ChaosFault, name: &'static str, what: &'static str) -> FaultDescription {
    FaultDescription { fault, name, what, is_of_all: true, need: FaultNeed::Nothing }
}

const fn of_one(fault: ChaosFault, name: &'static str, what: &'static str) -> FaultDescription {
    FaultDescription { is_of_all: false, ..of_all(fault, name, what) }
}

use ChaosFault as F;
use FaultNeed as Need;

#[rustfmt::skip]
const TABLE: [FaultDescription; 28] = [
    of_one(F::KillWorker, "kill_worker", "kill -9 of one process, started again 0 to 2 s later"),
    of_one(F::PauseWorker, "pause_worker", "SIGSTOP of one process for 5 to 8 s, longer than a lease"),
    of_one(F::DrainWorker, "drain_worker", "SIGTERM of one process, started again"),
    of_one(F::MoveClock, "move_clock", "kill -9 of one process, whose clock is wrong by an hour for 5 to 9 s")
        .needing(Need::Faketime),
    of_all(F::RollingRestart, "rolling_restart", "SIGTERM of every process in turn, each started again before the next"),
    of_all(F::KillNats, "kill_nats", "kill -9 of nats-server, started again up to 2 s later"),
    of_one(F::ChangeLeaders, "change_leaders", "leaders in a cluster step down, or the node of one is killed")
        .needing(Need::Cluster),
    of_all(F::KillPostgres, "kill_postgres", "kill -9 of Postgres, started again up to 2 s later"),
    of_all(F::FailOver, "fail_over", "kill -9 of Postgres; a synchronous standby is promoted")
        .needing(Need::Basebackup),
    of_all(F::FailOverLosing, "fail_over_losing", "kill -9 of Postgres; an asynchronous standby without the last 0.2 to 2 s is promoted")
        .needing(Need::Basebackup),
    of_all(F::CutNats, "cut_nats", "every worker is cut off from nats-server for 1 to 5 s"),
    of_all(F::CutPostgres, "cut_postgres", "every worker is cut off from Postgres for 1 to 5 s"),
    of_all(F::SlowPostgres, "slow_postgres", "Postgres is 20 to 150 ms away, each way, for 3 to 7 s"),
    of_one(F::SlowNats, "slow_nats", "one process is 50 to 300 ms away from nats-server, each way, for 3 to 7 s"),
    of_one(F::HalfOpen, "half_open", "the connections of one process carry nothing more, and stay open"),
    of_one(F::OneWay, "one_way", "the same in one direction only"),
    of_one(F::Isolate, "isolate", "one process is cut off from nats-server for 15 to 20 s"),
    of_all(F::DeleteBucket, "delete_bucket", "a KV bucket is deleted"),
    of_all(F::PurgeKeys, "purge_keys", "all keys of a restaurant in one bucket are purged"),
    of_all(F::DeleteStream, "delete_stream", "the stream EVENTS or TIMERS is deleted"),
    of_all(F::RollBackStream, "roll_back_stream", "a copy of one stream's folder, 3 to 9 s old, is put back")
        .needing(Need::SingleServer),
    of_all(F::WipeJetstream, "wipe_jetstream", "nats-server comes back with an empty disk"),
    of_all(F::FillNatsDisk, "fill_nats_disk", "the disk of nats-server is full for 2 to 6 s")
        .needing(Need::SmallDisks),
    of_all(F::FillPostgresDisk, "fill_postgres_disk", "the disk of Postgres is full for 2 to 6 s")
        .needing(Need::SmallDisks),
    of_all(F::Suspend, "suspend", "a restaurant is suspended for 1 to 3 s: what it stores becomes dead letters"),
    of_all(F::Poison, "poison", "messages that can never succeed, on both doors"),
    of_all(F::Provision, "provision", "`brigade provision` while all runs"),
    of_all(F::Migrate, "migrate", "`brigade migrate` while all runs"),
];

impl ChaosFault {
    fn described(self) -> &'static FaultDescription {
        &TABLE[self as usize]
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        self.described().name
    }

    #[must_use]
    pub fn need(self) -> FaultNeed {
        self.described().need
    }

    /// Returns true if it strikes the whole fleet: its recovery is measured from the moment at which
    /// the cause is gone. Of any other it is measured from the strike, since the rest has to go on.
    #[must_use]
    pub fn is_of_all(self) -> bool {
        self.described().is_of_all
    }
}

/// Returns the faults of `--faults`: all of them, none, or those that are named.
///
/// # Errors
/// A name that is none; the error lists all with their descriptions.
pub fn parse(names: &[String]) -> Result<Vec<ChaosFault>> {
    let all = || TABLE.iter().map(|described| described.fault);
    match names {
        [] => return Ok(all().collect()),
        [none] if none == "none" => return Ok(Vec::new()),
        _ => {}
    }
    let find = |name: &String| all().find(|fault| fault.name() == name);
    let found: Option<Vec<_>> = names.iter().map(find).collect();
    match found {
        Some(found) => Ok(found),
        None => {
            let known = TABLE.iter().map(|of| format!("  {:<20} {}\n", of.name, of.what));
            bail!("--faults names what is none, of:\n{}", known.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_stands_at_its_place_in_the_table() {
        for (at, FaultDescription { fault, name, .. }) in TABLE.iter().enumerate() {
            assert_eq!(*fault as usize, at, "{name}");
            assert_eq!(parse(&[(*name).to_owned()]).unwrap(), [*fault]);
        }
        assert_eq!(parse(&[]).unwrap().len(), TABLE.len());
        assert_eq!(parse(&["none".to_owned()]).unwrap(), []);
        assert!(parse(&["earthquake".to_owned()]).is_err());
    }
}
