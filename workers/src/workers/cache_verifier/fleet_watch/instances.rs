use std::{cmp::Reverse, time::Duration};

use serde::Serialize;
use sqlx::PgConnection;

/// An instance without a sign of life for so long is dead, hangs, or does not reach Postgres: three
/// signs are missing.
pub const SILENT: Duration = Duration::from_secs(6);
/// A worker starts in less.
const STARTS_SECONDS: f64 = 5.0;
/// A silent instance whose work others do is spoken of for so long.
const MISSED_SECONDS: f64 = 15.0 * 60.0;

/// An instance of a worker, by its last sign of life.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceState {
    pub instance: String,
    pub worker: String,
    /// The name by which it holds leases.
    pub holder: String,
    pub version: String,
    pub host: String,
    pub process: i64,
    pub running_seconds: f64,
    /// The time since the last sign of life.
    pub silent_seconds: f64,
    /// Why it is not ready, if it is not.
    pub trouble: Option<String>,
}

impl InstanceState {
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.silent_seconds < SILENT.as_secs_f64()
    }

    /// Returns why it is not ready, unless it has only just begun to start.
    #[must_use]
    pub fn unready(&self) -> Option<&str> {
        let starts = self.running_seconds < STARTS_SECONDS;
        self.trouble.as_deref().filter(|_| self.is_alive() && !starts)
    }

    /// Returns the instances of a worker that are silent and were not replaced: as many as were
    /// started after them count as their replacements. What was silent for long is not missed while
    /// another one lives.
    #[must_use]
    pub fn missed<'a>(all: &'a [Self], worker: &str) -> Vec<&'a Self> {
        let of_worker = move || all.iter().filter(move |instance| instance.worker == worker);
        let mut started: Vec<f64> =
            of_worker().filter(|i| i.is_alive()).map(|i| i.running_seconds).collect();
        let any_lives = !started.is_empty();
        let mut silent: Vec<&Self> = of_worker().filter(|i| !i.is_alive()).collect();
        silent.sort_by_key(|instance| Reverse(millis(instance.silent_seconds)));
        silent.retain(|instance| {
            let replacement = started.iter().position(|age| *age <= instance.silent_seconds);
            match replacement {
                Some(place) => {
                    started.swap_remove(place);
                    false
                }
                None => !any_lives || instance.silent_seconds < MISSED_SECONDS,
            }
        });
        silent.reverse();
        silent
    }

    pub(super) async fn load(connection: &mut PgConnection) -> sqlx::Result<Vec<Self>> {
        sqlx::query_as!(
            Self,
            r#"select instance, worker, holder, version, host, process, trouble,
                      extract(epoch from clock_timestamp() - started_at)::float8
                          as "running_seconds!",
                      extract(epoch from clock_timestamp() - seen_at)::float8 as "silent_seconds!"
               from brigade.instances order by worker, started_at limit 1000"#,
        )
        .fetch_all(connection)
        .await
    }
}

fn millis(seconds: f64) -> i64 {
    (seconds * 1000.0) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str, running_seconds: f64, silent_seconds: f64) -> InstanceState {
        InstanceState {
            instance: name.to_owned(),
            worker: "edge".to_owned(),
            holder: name.to_owned(),
            version: "0".to_owned(),
            host: "h".to_owned(),
            process: 1,
            running_seconds,
            silent_seconds,
            trouble: None,
        }
    }

    fn missed(all: &[InstanceState]) -> Vec<&str> {
        InstanceState::missed(all, "edge").into_iter().map(|i| &*i.instance).collect()
    }

    #[test]
    fn one_that_is_silent_is_missed_until_another_one_takes_its_place() {
        let (old, dead) = (instance("old", 1000.0, 1.0), instance("dead", 1000.0, 7.0));
        let both = [old, dead.clone()];
        assert_eq!(missed(&both[..1]), Vec::<&str>::new());
        assert_eq!(missed(&both), ["dead"]);
        let new = instance("new", 5.0, 1.0);
        let [old, _] = both;
        assert_eq!(missed(&[old, dead.clone(), new.clone()]), Vec::<&str>::new());
        // One replaces one, the one that was silent for the longest time.
        let later = instance("later", 1000.0, 6.5);
        assert_eq!(missed(&[later, dead, new]), ["later"]);
        assert_eq!(missed(&[]), Vec::<&str>::new());
    }

    #[test]
    fn one_that_was_silent_for_long_is_missed_where_nobody_else_lives() {
        let (old, dead) = (instance("old", 9000.0, 1.0), instance("dead", 9000.0, 1000.0));
        assert_eq!(missed(&[old, dead.clone()]), Vec::<&str>::new());
        assert_eq!(missed(&[dead]), ["dead"]);
    }
}
