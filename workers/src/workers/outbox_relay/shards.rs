//! Sets of shards.

use brigade_contracts::SHARDS;

use crate::infra::lease::Shares;

/// The shards as shares that the relays divide: each is relayed in order by one relay at a time.
pub const SHARES: Shares = Shares { group: "outbox-relay", count: SHARDS };

/// A set of shards, as in the payload of a wake.
pub type Mask = u16;

/// Returns the set of these shards.
pub fn mask(shards: impl Iterator<Item = usize>) -> Mask {
    shards.fold(0, |mask, shard| mask | 1 << shard)
}

/// Returns the shards of a set, in ascending order.
pub fn shards_in(mask: Mask) -> impl Iterator<Item = usize> {
    (0..usize::from(SHARDS)).filter(move |shard| mask & 1 << shard != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_the_shards_that_it_is_made_of() {
        for shards in [vec![], vec![0], vec![15], vec![1, 7, 8], (0..16).collect()] {
            assert_eq!(shards_in(mask(shards.iter().copied())).collect::<Vec<_>>(), shards);
        }
    }
}
