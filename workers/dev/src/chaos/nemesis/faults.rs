use anyhow::{Result, bail};
use serde::Serialize;

/// The faults, by the names of `--faults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChaosFault {
    KillWorker,
    PauseWorker,
    DrainWorker,
    RollingRestart,
    KillNats,
    KillPostgres,
    CutNats,
    CutPostgres,
    SlowPostgres,
    SlowNats,
    HalfOpen,
    OneWay,
    DeleteBucket,
    PurgeKeys,
    DeleteStream,
    WipeJetstream,
    Poison,
    Provision,
    Migrate,
}

/// Name, description, and whether it strikes the whole fleet at once.
type Described = (ChaosFault, &'static str, &'static str, bool);

const TABLE: [Described; 19] = [
    (
        ChaosFault::KillWorker,
        "kill_worker",
        "kill -9 of one process, started again 0 to 2 s later",
        false,
    ),
    (
        ChaosFault::PauseWorker,
        "pause_worker",
        "SIGSTOP of one process for 5 to 8 s, longer than a lease",
        false,
    ),
    (ChaosFault::DrainWorker, "drain_worker", "SIGTERM of one process, started again", false),
    (
        ChaosFault::RollingRestart,
        "rolling_restart",
        "SIGTERM of every process in turn, each started again before the next",
        true,
    ),
    (
        ChaosFault::KillNats,
        "kill_nats",
        "kill -9 of nats-server, started again up to 2 s later",
        true,
    ),
    (
        ChaosFault::KillPostgres,
        "kill_postgres",
        "kill -9 of Postgres, started again up to 2 s later",
        true,
    ),
    (
        ChaosFault::CutNats,
        "cut_nats",
        "every worker is cut off from nats-server for 1 to 5 s",
        true,
    ),
    (
        ChaosFault::CutPostgres,
        "cut_postgres",
        "every worker is cut off from Postgres for 1 to 5 s",
        true,
    ),
    (
        ChaosFault::SlowPostgres,
        "slow_postgres",
        "Postgres is 20 to 150 ms away, each way, for 3 to 6 s",
        true,
    ),
    (
        ChaosFault::SlowNats,
        "slow_nats",
        "one process is 50 to 300 ms away from nats-server, each way, for 3 to 7 s",
        false,
    ),
    (
        ChaosFault::HalfOpen,
        "half_open",
        "the connections of one process carry nothing more, and stay open",
        false,
    ),
    (ChaosFault::OneWay, "one_way", "the same in one direction only", false),
    (ChaosFault::DeleteBucket, "delete_bucket", "a KV bucket is deleted", true),
    (
        ChaosFault::PurgeKeys,
        "purge_keys",
        "all keys of a restaurant in one bucket are purged",
        true,
    ),
    (ChaosFault::DeleteStream, "delete_stream", "the stream EVENTS or TIMERS is deleted", true),
    (
        ChaosFault::WipeJetstream,
        "wipe_jetstream",
        "nats-server comes back with an empty disk",
        true,
    ),
    (ChaosFault::Poison, "poison", "messages that can never succeed, on both doors", true),
    (ChaosFault::Provision, "provision", "`brigade provision` while all runs", true),
    (ChaosFault::Migrate, "migrate", "`brigade migrate` while all runs", true),
];

impl ChaosFault {
    fn described(self) -> Described {
        TABLE[self as usize]
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        self.described().1
    }

    /// Returns true if it strikes the whole fleet: its recovery is measured from the moment at which
    /// the cause is gone. Of any other it is measured from the strike, since the rest has to go on.
    #[must_use]
    pub fn is_of_all(self) -> bool {
        self.described().3
    }
}

/// Returns the faults of `--faults`: all of them, none, or those that are named.
///
/// # Errors
/// A name that is none; the error lists all with their descriptions.
pub fn parse(names: &[String]) -> Result<Vec<ChaosFault>> {
    let all = || TABLE.iter().map(|described| described.0);
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
            let known = TABLE.iter().map(|(_, name, what, _)| format!("  {name:<16} {what}\n"));
            bail!("--faults names what is none, of:\n{}", known.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_stands_at_its_place_in_the_table() {
        for (at, (fault, name, ..)) in TABLE.iter().enumerate() {
            assert_eq!(*fault as usize, at, "{name}");
            assert_eq!(parse(&[(*name).to_owned()]).unwrap(), [*fault]);
        }
        assert_eq!(parse(&[]).unwrap().len(), TABLE.len());
        assert_eq!(parse(&["none".to_owned()]).unwrap(), []);
        assert!(parse(&["earthquake".to_owned()]).is_err());
    }
}
