use sqlx::Error;

/// What a failed statement means for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Postgres cannot be reached, or does not take work now. Whether a commit that was under
    /// way took place is not known.
    Away,
    /// Others got in the way: a conflict, a deadlock, a time-out. Trying again may help.
    Conflict,
    /// The statement or the data is wrong; trying again does not help.
    Fault,
}

/// SQLSTATE classes and codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
#[must_use]
pub fn failure(error: &Error) -> Failure {
    let Error::Database(error) = error else {
        return match error {
            Error::Io(_)
            | Error::Tls(_)
            | Error::Protocol(_)
            | Error::PoolTimedOut
            | Error::PoolClosed
            | Error::WorkerCrashed => Failure::Away,
            _ => Failure::Fault,
        };
    };
    match error.code().as_deref().unwrap_or_default() {
        // Connection exceptions; out of connections or memory; shutting down or starting;
        // idle in a transaction for too long (this process was stopped in the middle).
        code if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => {
            Failure::Away
        }
        "25P03" => Failure::Away,
        // Unique violation, serialization, deadlock, lock time-out, statement time-out.
        "23505" | "40001" | "40P01" | "55P03" | "57014" => Failure::Conflict,
        _ => Failure::Fault,
    }
}
