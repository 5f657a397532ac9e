//! Heals one scope of a plan, batch by batch.

use brigade_contracts::Aggregate;

use super::{BATCH, Healer, VersionedAddress, plan::HealScope, scan};
use crate::workers::cache_verifier::heads::{ExpiryMargin, KeyCursor, load_head_page};

/// The way by which parts of aggregates come back.
#[derive(Clone, Copy)]
pub enum HealAction {
    /// Adds the aggregates to the projection backlog of command-handler.
    Project,
    /// Republishes the last events of the parts that projectors write.
    Republish,
}

impl HealAction {
    fn applies_to(self, kind: Aggregate) -> bool {
        match self {
            Self::Project => true,
            Self::Republish => kind.parts().iter().any(|part| part.is_written_by_projector()),
        }
    }
}

impl Healer<'_> {
    /// Heals each batch of a scope. Returns the number of rows written.
    pub(super) async fn heal_scope(
        &mut self,
        scope: HealScope,
        action: HealAction,
    ) -> anyhow::Result<u64> {
        let mut written = 0;
        for batch in self.load_scope(scope, action).await?.chunks(BATCH as usize) {
            self.ensure_lease().await?;
            written += self.heal_batch(action, batch).await?;
        }
        for kind in scope.kinds().filter(|kind| action.applies_to(*kind)) {
            let mut next = Some(KeyCursor::default());
            while let Some(after) = next {
                self.ensure_lease().await?;
                let margin = ExpiryMargin::default();
                let page = load_head_page(self.cx, kind, &after, BATCH, margin).await?;
                let kept = page.heads.into_iter().filter(|head| head.kept);
                let batch: Vec<_> = kept.map(|head| (head.address, head.version)).collect();
                written += self.heal_batch(action, &batch).await?;
                next = page.next;
            }
        }
        Ok(written)
    }

    /// Loads the aggregates of a scope that is not read kind by kind: there are few.
    async fn load_scope(
        &self,
        scope: HealScope,
        action: HealAction,
    ) -> sqlx::Result<Vec<VersionedAddress>> {
        match scope {
            HealScope::ChangedSince(since) => {
                let mut changed = scan::changed_since(self.cx, self.rounds.duty(), since).await?;
                if action.applies_to(Aggregate::Lock) {
                    changed.extend(scan::locks_of_carts(self.cx, &changed).await?);
                }
                Ok(changed)
            }
            HealScope::ListedOrders => scan::listed_orders(self.cx).await,
            HealScope::Unexpired(_) => Ok(Vec::new()),
        }
    }

    async fn heal_batch(
        &mut self,
        action: HealAction,
        batch: &[VersionedAddress],
    ) -> sqlx::Result<u64> {
        match action {
            HealAction::Project => {
                self.sample.add(batch);
                self.add_to_backlog(batch).await
            }
            HealAction::Republish => {
                let projected = |(address, _): &VersionedAddress| {
                    let parts = address
                        .aggregate
                        .parts()
                        .iter()
                        .filter(|part| part.is_written_by_projector());
                    parts.map(|part| (address.clone(), *part)).collect::<Vec<_>>()
                };
                self.republish(&batch.iter().flat_map(projected).collect::<Vec<_>>()).await
            }
        }
    }
}
