//! More decided commands than their stream holds.

use std::{sync::Arc, time::Instant};

use brigade_contracts::MAX_PAYLOAD;
use brigade_tests::{TestFleet, check};

use super::{beside, decided, figure, held, open, quiet, size, store, until_count};

/// Bytes of all of them: as many as the stream holds.
const BYTES: usize = 4 * 1024 * 1024 * 1024;
/// The longest that are accepted.
const PAYLOAD: usize = MAX_PAYLOAD;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand: 4 GiB of commands"]
async fn s5_08_four_gib_of_decided_commands_pass_their_stream() {
    let count = size("BRIGADE_TEST_COMMAND_BYTES", BYTES) / PAYLOAD;
    let fleet = Arc::new(TestFleet::start().await);
    let quiet = quiet(&fleet).await;
    let commands = (0..count).map(|n| {
        let id = format!("f{n}");
        let payload = open(&id).to_string();
        let payload = payload.clone() + &" ".repeat(PAYLOAD - payload.len());
        (id.clone(), format!("cart.{id}.open"), payload)
    });
    let began = Instant::now();
    let mut most = 0;
    let (times, ()) = beside(&fleet, "beside", async {
        let stored = async {
            store(&fleet, 32, commands).await;
            figure(&format!("{count} commands were stored after {:.0?}", began.elapsed()));
        };
        let all = until_count("decisions", count as u64, async || {
            most = most.max(held(&fleet, "COMMANDS").await.0);
            decided(&fleet, 201).await.cast_unsigned()
        });
        tokio::join!(stored, all);
    })
    .await;
    figure(&format!(
        "{} MiB of commands were decided in {:.0?}; COMMANDS held {} MiB at most",
        (count * PAYLOAD) >> 20,
        began.elapsed(),
        most >> 20
    ));
    times.print("beside it");
    times.compare(&quiet);
    assert_eq!(decided(&fleet, 201).await, count as i64);
    assert!(check::dead_letters(&fleet).await.is_empty());
}
