//! S4-10: commands that are queued while offline.

use std::{collections::HashMap, time::Duration};

use brigade_contracts::{
    Address, Aggregate, Body, Door, Token,
    client::{Client, CommandState, Line, Queue, QueueError, Send},
};
use brigade_tests::{TestFleet, producer::item};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::healing::until_healed;

/// Ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(90);

fn command(cart: &str, n: usize, verb: &str, payload: &Value) -> Send {
    let address = Address::new("t1", Aggregate::Cart, cart).unwrap();
    let body = Body::decode(Aggregate::Cart, verb, payload.to_string().as_bytes()).unwrap();
    let command_id = Token::new(&format!("{cart}-{n}")).unwrap();
    let door = if cart == "c2" { Door::Durable } else { Door::Request };
    Send { command_id, ..Send::new(address, body).through(door) }
}

/// Queues commands of each cart: it is opened, two items are added, an item that is not there is
/// changed, what depends on that is skipped, and a third item is added.
fn fill(queue: &Queue) {
    for n in 0..6 {
        for cart in ["c1", "c2", "c3"] {
            let command = |verb, payload| command(cart, n, verb, &payload);
            let taken = match n {
                0 => queue.add(command(
                    "open",
                    json!({"kind": "team", "owner": format!("{cart}-owner"), "currency": "EUR"}),
                )),
                1 | 2 => queue.add(command("add_item", item(&format!("i{n}"), 500, 1))),
                3 => queue.add(command("set_item", json!({"item_id": "none", "quantity": 2}))),
                4 => queue.add_if_done(command("join", json!({"user": "bob"}))),
                _ => queue.add(command("add_item", item("i5", 500, 1))),
            };
            taken.unwrap();
        }
    }
}

fn standings(line: &Line) -> HashMap<String, String> {
    let standing = |standing: &CommandState| match standing {
        CommandState::Pending => "pending".to_owned(),
        CommandState::Done(outcome) => format!("done {}", outcome.status),
        CommandState::Refused(outcome) => format!("refused {}", outcome.status),
        CommandState::Skipped => "skipped".to_owned(),
        CommandState::Failed(why) => format!("failed: {why}"),
    };
    let entries = line.entries().iter();
    entries.map(|e| (e.send.command_id.to_string(), standing(&e.standing))).collect()
}

async fn all_decided(queue: &Queue) -> Line {
    let mut watch = queue.watch();
    let decided = timeout(PATIENCE, watch.wait_for(|line| line.pending() == 0)).await;
    decided.expect("decided in time").expect("it is held").clone()
}

#[tokio::test]
async fn s4_10_commands_queued_while_offline_are_sent_in_order_on_return() {
    let mut fleet = TestFleet::start().await;
    let client = Client::new(fleet.connect("t1-producer").await, Duration::from_secs(5));
    fleet.nats.kill().await;
    let queue = client.queue(Line::new(100));
    fill(&queue);
    let waiting = queue.line();
    assert_eq!((waiting.pending(), waiting.entries().len()), (18, 18));
    // The program ends, and another one reads what it kept.
    let kept = serde_json::to_string(&waiting).unwrap();
    drop(queue);
    let queue = client.queue(serde_json::from_str(&kept).unwrap());
    let again = command("c1", 0, "join", &json!({"user": "eve"}));
    assert_eq!(queue.add(again), Err(QueueError::Repeated));

    // The server dies once more when something was committed and is not answered.
    let committed = fleet.fail.arm("command-handler.after_commit");
    fleet.nats.restart().await.unwrap();
    committed.reached().await;
    fleet.nats.kill().await;
    fleet.fail.disarm("command-handler.after_commit");
    assert_ne!(queue.line().pending(), 0);
    fleet.nats.restart().await.unwrap();

    let decided = standings(&all_decided(&queue).await);
    for cart in ["c1", "c2", "c3"] {
        let of = |n: usize| decided[&format!("{cart}-{n}")].as_str();
        let all: Vec<_> = (0..6).map(of).collect();
        let expected = ["done 201", "done 200", "done 200", "refused 404", "skipped", "done 200"];
        assert_eq!(all, expected, "{cart}");
        assert_eq!(events(&fleet, cart).await, ["opened", "i1", "i2", "i5"], "each once, in order");
    }
    let mut sent: Vec<_> = (0..6)
        .flat_map(|n| ["c1", "c2", "c3"].map(|cart| (n, format!("{cart}-{n}"))))
        .filter_map(|(n, id)| (n != 4).then_some(id))
        .collect();
    sent.sort();
    let inbox: Vec<String> =
        sqlx::query_scalar("select command_id from brigade.command_inbox order by command_id")
            .fetch_all(&fleet.sql)
            .await
            .unwrap();
    assert_eq!(inbox, sent, "under their own ids");

    // It goes on with what comes, connected.
    queue.add(command("c1", 7, "remove_item", &json!({"item_id": "i5"}))).unwrap();
    assert_eq!(standings(&all_decided(&queue).await)["c1-7"], "done 200");
    until_healed(&fleet).await;
    fleet.finish().await;
}

/// Returns the events of a cart in order of version: the item, or else the event's name.
async fn events(fleet: &TestFleet, cart: &str) -> Vec<String> {
    let sql =
        "select coalesce(payload->'data'->>'item_id', payload->'data'->'item'->>'item_id', type)
               from brigade.events where aggregate = 'cart' and id = $1 order by version";
    sqlx::query_scalar(sql).bind(cart).fetch_all(&fleet.sql).await.unwrap()
}
