//! The number of SQL statements of a batch does not depend on its size.

use brigade::runtime::ConsumeMetrics;
use brigade_tests::{Producer, TestFleet, producer::placed, until};
use futures::future::join_all;
use serde_json::{Value, json};

use super::cart;

/// Returns a command of each standard kind, each on aggregates of its own.
fn commands(name: &str) -> [(String, Value); 5] {
    let item = brigade_tests::producer::item("i2", 100, 1);
    let initiate = json!({"target": {"cart": format!("pay-{name}")}, "method": "card"});
    [
        (
            format!("cart.new-{name}.open"),
            json!({"kind": "menu", "owner": name, "currency": "EUR"}),
        ),
        (format!("cart.add-{name}.add_item"), item),
        (format!("cart.lock-{name}.lock"), json!({"transaction_id": "t", "method": "card"})),
        (format!("payment.p-{name}.initiate"), initiate),
        (format!("order.o-{name}.place"), placed(&[("Soup", 500, 1)])),
    ]
}

/// Sends `times` commands of each kind while the handler is stopped, so that it then has them at
/// once. Returns the statements of each of its transactions.
async fn batch(
    fleet: &TestFleet,
    producer: &Producer,
    from: usize,
    times: usize,
) -> Vec<Vec<String>> {
    let names: Vec<_> = (from..from + times).map(|n| format!("n{n}")).collect();
    for name in &names {
        for kind in ["add", "lock", "pay"] {
            cart(producer, &format!("{kind}-{name}"), &format!("{kind}-{name}")).await;
        }
    }
    let armed = fleet.fail.arm("command-handler.before_write");
    let holding = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send("cart.nobody.abandon", json!({"reason": "r"})).await }
    });
    armed.reached().await;
    let waiting =
        fleet.metrics.group::<ConsumeMetrics>().waiting.with_label_values(&["command-handler"]);
    let begin = log(fleet).len();
    let sent = names.iter().flat_map(|name| commands(name)).map(|(what, payload)| async move {
        let answer = producer.send(&what, payload).await;
        assert!(answer.status < 300, "{what}: {:?}", answer.body());
    });
    let hold = async {
        let all = i64::try_from(5 * times).unwrap();
        until("all to wait", || async { (waiting.get() == all).then_some(()) }).await;
        fleet.fail.disarm("command-handler.before_write");
    };
    let (_, ()) = futures::join!(join_all(sent), hold);
    assert_eq!(holding.await.unwrap().status, 404);
    transactions(&log(fleet)[begin..])
}

fn log(fleet: &TestFleet) -> String {
    std::fs::read_to_string(fleet.postgres().log()).unwrap()
}

/// Returns the statements of command-handler, one list per transaction.
fn transactions(log: &str) -> Vec<Vec<String>> {
    let mut open = std::collections::HashMap::<&str, Vec<String>>::new();
    let mut done = Vec::new();
    for line in log.lines() {
        let Some((head, statement)) = line.split_once(" command-handler@") else { continue };
        let Some(pid) = head.split(['[', ']']).nth(1) else { continue };
        let Some((_, statement)) = statement.split_once("LOG:  ") else { continue };
        if statement.ends_with(": BEGIN") {
            open.insert(pid, Vec::new());
        } else if statement.ends_with(": COMMIT") {
            done.extend(open.remove(pid));
        } else if let Some(statements) = open.get_mut(pid)
            && statement.starts_with("execute")
        {
            statements.push(statement.chars().take(60).collect());
        }
    }
    // Others are leases and the backlog.
    done.retain(|statements| statements.iter().any(|s| s.contains("kind as")));
    done
}

#[tokio::test]
async fn a_batch_of_200_takes_no_more_statements_than_one_of_5() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    let logged = "alter role \"command-handler\" set log_statement = 'all'";
    sqlx::raw_sql(logged).execute(&fleet.sql).await.unwrap();
    fleet.run_all().await;
    let producer = fleet.producer().await;
    let few = batch(&fleet, &producer, 0, 1).await;
    let many = batch(&fleet, &producer, 1, 40).await;
    let most = |all: &[Vec<String>]| all.iter().max_by_key(|t| t.len()).cloned().unwrap();
    let (one, all) = (most(&few), most(&many));
    println!(
        "{} and {} transactions, of {} and {} statements",
        few.len(),
        many.len(),
        one.len(),
        all.len()
    );
    assert!(one.len() > 5, "{one:?}");
    assert_eq!(one.len(), all.len(), "{one:#?} {all:#?}");
    // 200 commands, in so few transactions that they were batches.
    assert!(many.len() <= few.len() + 2, "{} transactions, {}", many.len(), few.len());
    fleet.finish().await;
}
