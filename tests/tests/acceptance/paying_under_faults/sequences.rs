//! The sequences of the domain's property tests against a running fleet: many at a time, three
//! steps at once, through both doors, decided by two command-handlers.

use std::time::Duration;

use brigade_domain::model::{Choice, Player, Step};
use brigade_tests::{Producer, TestFleet, deadlines, money, until};
use futures::{StreamExt, future::join_all, stream};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::Value;
use uuid::Uuid;

use super::with_two_handlers;

const SEQUENCES: usize = 240;
const AT_ONCE: usize = 24;
const STEPS: usize = 42;
/// The fields of payloads that name something, which each sequence has for itself.
const NAMES: [&str; 9] =
    ["owner", "session", "user", "cart", "order", "order_id", "table_id", "turn_id", "sku"];

#[tokio::test]
async fn money_and_locks_stay_right_whatever_is_asked_at_once() {
    let fleet = with_two_handlers(Duration::from_millis(150)).await;
    let mut producers = Vec::new();
    for tenant in ["t1", "t2"] {
        // Some of the commands are no producer's to send.
        let client = fleet.connect("operator").await;
        producers.push(Producer::new(client, tenant));
    }
    let mut runner = TestRunner::deterministic();
    let sequences = (0..SEQUENCES).map(|n| {
        let choices = prop::collection::vec(any::<Choice>(), STEPS).new_tree(&mut runner).unwrap();
        Sequence { fleet: &fleet, producer: &producers[n % 2], n }.play(choices.current())
    });
    let sequences: Vec<_> = sequences.collect();
    let answers: Vec<u64> = stream::iter(sequences).buffer_unordered(AT_ONCE).collect().await;
    println!("{} commands were done, others refused", answers.iter().sum::<u64>());
    deadlines::until_no_lock_is_held(&fleet).await;
    money::invariants(&fleet).await;
    fleet.finish().await;
}

struct Sequence<'a> {
    fleet: &'a TestFleet,
    producer: &'a Producer,
    n: usize,
}

impl Sequence<'_> {
    /// Runs the steps. Returns the number of commands that were done.
    async fn play(self, choices: Vec<Choice>) -> u64 {
        let mut player = Player::default();
        for step in Player::prelude() {
            assert!(self.step(&step, 0).await.is_some(), "{step:?}");
        }
        let mut done = 0;
        for together in choices.chunks(3) {
            let steps: Vec<Step> = together.iter().map(|choice| player.step(*choice)).collect();
            let answers = steps.iter().zip(together).map(|(step, [.., b])| self.step(step, *b));
            for body in join_all(answers).await.into_iter().flatten() {
                done += 1;
                player.observe(&serde_json::from_slice(&body).unwrap());
            }
        }
        done
    }

    /// Runs a step. Returns the outcome if it was a command that was done.
    async fn step(&self, step: &Step, choice: u8) -> Option<Vec<u8>> {
        let (target, payload) = match step {
            Step::Wait(minutes) => {
                self.wait(*minutes).await;
                return None;
            }
            Step::Command { target, payload } => (target, payload),
        };
        let mut words = target.split('.');
        let mut word = || words.next().unwrap();
        let what = format!("{}.{}-{}.{}", word(), word(), self.n, word());
        let mut payload = payload.clone();
        self.rename(&mut payload);
        let id = Uuid::now_v7().to_string();
        // A result that comes before its payment is tried again for ever so long by the stream.
        if choice % 3 == 1 && !what.ends_with("record_result") {
            let outcome = self.producer.publish(&id, &what, payload).await;
            return (outcome["status"].as_u64()? < 300).then(|| outcome.to_string().into_bytes());
        }
        // Some clients are impatient: one of both gets the stored outcome.
        let times = if choice.is_multiple_of(5) { 2 } else { 1 };
        let replies = self.producer.all_at_once(times, &id, &what, payload).await;
        let reply = replies.into_iter().find(|reply| reply.status != 503)?;
        (reply.status < 300).then_some(reply.bytes)
    }

    /// Replaces names in a payload by those of this sequence.
    fn rename(&self, payload: &mut Value) {
        let Some(fields) = payload.as_object_mut() else { return };
        for (name, value) in fields {
            match value {
                Value::String(id) if NAMES.contains(&name.as_str()) => {
                    *id = format!("{id}-{}", self.n);
                }
                // It begins with the id of its payment.
                Value::String(id) if name == "refund_task" => {
                    *id = id.replacen('.', &format!("-{}.", self.n), 1);
                }
                Value::Object(_) => self.rename(value),
                _ => {}
            }
        }
    }

    /// Waits for the deadlines of the locks that are held now, if it is longer than the ten minutes
    /// that a lock lives by default; else not at all.
    async fn wait(&self, minutes: u64) {
        if minutes < 10 {
            return;
        }
        until("the deadlines to pass", || async {
            let ahead: i64 = sqlx::query_scalar(
                "select count(*) from brigade.cart_locks
                 where tenant = $1 and cart_id like 'c_-' || $2 and state = 'held'
                   and acquired_at + make_interval(secs => $3) > clock_timestamp()",
            )
            .bind(&self.producer.tenant)
            .bind(self.n.to_string())
            .bind(if minutes > 30 { 0.45 } else { 0.15 })
            .fetch_one(&self.fleet.sql)
            .await
            .ok()?;
            (ahead == 0).then_some(())
        })
        .await;
    }
}
