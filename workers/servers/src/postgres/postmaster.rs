//! Reads what the system and Postgres's own files tell about a running postmaster.

use std::{fs, time::SystemTime};

/// Reads `postmaster.pid`: the process id in line 1, its start in line 3, the state in line 8. The
/// start tells it from the file of a crashed server with the same id, usual in containers.
pub(super) fn says_ready(status: &str, pid: u32, started: u64) -> bool {
    let line = |n: usize| status.lines().nth(n - 1).unwrap_or_default().trim();
    line(1) == pid.to_string()
        && line(3).parse().is_ok_and(|start: u64| start >= started)
        && line(8) == "ready"
}

#[expect(clippy::disallowed_methods, reason = "compared with a time that Postgres wrote")]
pub(super) fn unix_time() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// Empty where the system does not tell (it is Linux that does): the children then leave by
/// themselves, as soon as they notice.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace().flat_map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_new_postmaster_says_that_it_is_ready() {
        let status = "42\n/data\n1000\n5432\n\n127.0.0.1\n 1 2\nready   \n";
        assert!(says_ready(status, 42, 1000));
        assert!(!says_ready(status, 43, 1000), "another process");
        assert!(!says_ready(status, 42, 1001), "an earlier process");
        assert!(!says_ready(&status.replace("ready   ", "starting"), 42, 1000));
        assert!(!says_ready("42\n/data\n1000\n", 42, 1000), "half written");
    }
}
