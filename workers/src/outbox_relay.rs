use brigade_contracts::Address;

use crate::runtime::Context;

/// The outbox is cut into this many shards, each relayed in order by one relay at a time.
pub const SHARDS: u8 = 16;

/// The shard of an aggregate: FNV-1a over its address, which must never change, since rows of
/// the outbox carry it.
#[must_use]
pub fn shard_of(address: &Address) -> u8 {
    let hash = address.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash % u64::from(SHARDS)) as u8
}

/// # Errors
pub async fn run(cx: Context) -> anyhow::Result<()> {
    cx.drain.cancelled().await;
    Ok(())
}
