//! The day close of ten thousand payments.

use super::{figure, size};
use crate::day_closes::play_all;

const PAYMENTS: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand: ten thousand payments under kills"]
async fn s7_09_the_day_close_of_10_000_random_payments_under_kills_balances() {
    let count = size("BRIGADE_TEST_PAYMENTS", PAYMENTS);
    let took = play_all(count, count / 20, 64).await;
    figure(&format!("the close of {count} payments took {took:.0?}"));
}
