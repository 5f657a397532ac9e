//! How far the clocks of the servers are from the one of this machine.

use anyhow::Result;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Finding, Severity, fine};

/// Deadlines of locks are a matter of seconds.
const WARNS_SECONDS: f64 = 0.5;
const WRONG_SECONDS: f64 = 5.0;

#[expect(clippy::disallowed_methods, reason = "compares the clock; nothing is decided by it")]
pub(super) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

pub(super) async fn of_postgres(connection: &mut PgConnection) -> Result<Finding> {
    let before = now();
    let there: OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await?;
    Ok(judge("postgres", before, there, now()))
}

/// Judges a clock that was read between two moments of this one.
pub(super) fn judge(
    server: &str,
    before: OffsetDateTime,
    there: OffsetDateTime,
    after: OffsetDateTime,
) -> Finding {
    let ahead = (there - after).max(before - there).as_seconds_f64().max(0.0);
    let severity = match ahead {
        offset if offset > WRONG_SECONDS => Severity::Error,
        offset if offset > WARNS_SECONDS => Severity::Warning,
        _ => return fine(server, "its clock is this machine's"),
    };
    let what = format!("its clock is {ahead:.1} s from the one of this machine");
    Finding::new(severity, server, what, "have NTP keep the clocks of both (`chronyc tracking`)")
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn a_clock_may_differ_by_what_asking_took() {
        let before = OffsetDateTime::UNIX_EPOCH;
        let after = before + Duration::SECOND;
        let severity = |there: f64| {
            judge("nats", before, before + Duration::seconds_f64(there), after).severity
        };
        assert_eq!(severity(0.5), Severity::Fine);
        assert_eq!((severity(1.4), severity(-0.4)), (Severity::Fine, Severity::Fine));
        assert_eq!((severity(1.6), severity(-0.6)), (Severity::Warning, Severity::Warning));
        assert_eq!((severity(7.0), severity(-6.0)), (Severity::Error, Severity::Error));
    }
}
