//! Dead letters that SQL had no room for: they are counted, and nothing else of them is kept.

use anyhow::Result;
use time::OffsetDateTime;

use super::{DeadLetters, Filter};

/// The dead letters of a tenant, a worker and a reason that were counted and not kept.
#[derive(Clone, Debug)]
pub struct Overflow {
    /// Empty for letters whose subjects name none.
    pub tenant: String,
    pub worker: String,
    /// The beginning of the reasons that they died of, up to a colon, or `other`.
    pub reason: String,
    pub letters: i64,
    pub first_at: OffsetDateTime,
    pub last_at: OffsetDateTime,
    /// The subject that the last one of them was sent to.
    pub last_subject: String,
}

impl DeadLetters {
    /// Returns what was counted of the letters that a filter selects, the last ones first; nothing
    /// where a text is searched: nobody knows what was in them.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn overflow(&self, filter: &Filter) -> Result<Vec<Overflow>> {
        if filter.contains.is_some() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query_as!(
            Overflow,
            "select tenant, worker, reason, letters, first_at, last_at, last_subject
             from brigade.dead_letter_overflow
             where ($1::text is null or tenant = $1) and ($2::text is null or worker = $2)
               and ($3::text is null or strpos(reason, $3) > 0)
             order by last_at desc",
            filter.tenant,
            filter.worker,
            filter.reason,
        );
        Ok(rows.fetch_all(&self.postgres).await?)
    }
}
