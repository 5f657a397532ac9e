//! How far the audit has come, in the table `audit_rounds`.

use brigade_contracts::Aggregate;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use crate::{
    infra::{Context, postgres::bounded},
    workers::cache_verifier::{
        VerifierMetrics,
        heads::{FIRST_KIND, KeyCursor, next_kind},
    },
};

/// The name of the round.
const AUDIT: &str = "kv";

/// A place in a round: a kind, and the key after which it goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditPosition {
    pub kind: Aggregate,
    pub after: KeyCursor,
}

impl Default for AuditPosition {
    fn default() -> Self {
        Self { kind: FIRST_KIND, after: KeyCursor::default() }
    }
}

impl AuditPosition {
    /// Returns the position after a page, `None` after the last kind.
    pub fn advance(&self, next: Option<KeyCursor>) -> Option<Self> {
        match next {
            Some(after) => Some(Self { kind: self.kind, after }),
            None => next_kind(self.kind).map(|kind| Self { kind, after: KeyCursor::default() }),
        }
    }
}

/// Loads the position, and shows in the metrics when the audit last went through everything.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn load(cx: &Context, metrics: &VerifierMetrics) -> sqlx::Result<AuditPosition> {
    let round = bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            r#"select position as "position: Json<AuditPosition>", last_began_at, last_finished_at
               from brigade.audit_rounds where audit = $1"#,
            AUDIT,
        )
        .fetch_optional(&mut **connection)
        .await
    })
    .await?;
    let Some(round) = round else { return Ok(AuditPosition::default()) };
    if let (Some(began), Some(finished)) = (round.last_began_at, round.last_finished_at) {
        metrics.audit_went_round(began, finished);
    }
    Ok(round.position.0)
}

/// Saves the position after what was audited; `None`: the round is over. What another instance has
/// saved meanwhile stays.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(
    cx: &Context,
    before: &AuditPosition,
    after: Option<&AuditPosition>,
) -> sqlx::Result<()> {
    let next = after.cloned().unwrap_or_default();
    bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "insert into brigade.audit_rounds as round (audit, position, began_at)
             values ($1, $3, clock_timestamp())
             on conflict (audit) do update set
                 position = excluded.position,
                 began_at = case when $4 then clock_timestamp() else round.began_at end,
                 last_began_at = case when $4 then round.began_at else round.last_began_at end,
                 last_finished_at =
                     case when $4 then clock_timestamp() else round.last_finished_at end
             where round.position = $2",
            AUDIT,
            Json(before) as _,
            Json(&next) as _,
            after.is_none(),
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}
