//! A hundred thousand dead letters: listed, and replayed by two operators and through a crash.

use std::time::Instant;

use brigade::operations::dead_letters::{Filter, grouped};
use brigade_contracts::WorkerName;
use brigade_tests::{TestFleet, process, process::Process};

use super::{figure, held, size, until_count};
use crate::{
    dead_letter_jobs::{assert_decided_once, begin_and_die, bury_carts, ended_jobs},
    dead_letters::desk,
};

const LETTERS: usize = 100_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand: 100,000 dead letters in jobs of two operators"]
async fn s8_04_a_hundred_thousand_letters_are_sent_once_by_two_operators_and_through_a_crash() {
    let carts = size("BRIGADE_TEST_LETTERS", LETTERS) / 2;
    let letters = i64::try_from(2 * carts).unwrap();
    let mut fleet = TestFleet::start_without(WorkerName::CommandHandler).await;
    bury_carts(&fleet, carts).await;
    let desk = desk(&fleet).await;
    let began = Instant::now();
    let listed = desk.list(&Filter::default()).await.unwrap();
    figure(&format!("{} letters are listed in {:.2?}", listed.len(), began.elapsed()));
    assert_eq!(grouped(&listed).len(), 1);
    let began = Instant::now();
    let text = Some("\"a77\"".to_owned());
    let found = desk.list(&Filter { contains: text, ..Filter::default() }).await.unwrap();
    figure(&format!("{} payloads are searched in {:.2?}", listed.len(), began.elapsed()));
    assert_eq!(found.len(), 1);
    let began = Instant::now();
    let printed = process::printed(&fleet, &format!("dlq ls --limit {letters}")).await;
    figure(&format!("{} lines are printed in {:.2?}", printed.lines().count(), began.elapsed()));

    let began = Instant::now();
    tokio::join!(
        begin_and_die(&fleet, "dlq replay --matching --tenant t1 --by ada"),
        begin_and_die(&fleet, "dlq replay --matching --tenant t1 --by bob"),
    );
    figure(&format!("the fleet has both jobs after {:.2?}", began.elapsed()));
    let process = Process::start(&fleet, &[WorkerName::CommandHandler], None).await;
    let began = Instant::now();
    let done = async || -> u64 {
        let jobs = desk.jobs(2).await.unwrap();
        jobs.iter().map(|job| job.done.cast_unsigned()).sum()
    };
    until_count("a part of the letters", letters.cast_unsigned() / 3, done).await;
    process.kill().await;
    fleet.run(WorkerName::CommandHandler).await;
    until_count("all letters", letters.cast_unsigned(), done).await;
    let jobs = ended_jobs(&fleet).await;
    figure(&format!("{letters} letters were sent by two jobs in {:.1?}", began.elapsed()));
    assert_decided_once(&fleet, carts).await;
    assert!(jobs.iter().all(|job| (job.settled(), job.refused) == (letters, 0)), "{jobs:?}");
    assert_eq!(jobs.iter().map(|job| job.done).sum::<i64>(), letters);
    assert_eq!(held(&fleet, "DLQ").await.1, 0);
    fleet.finish().await;
}
