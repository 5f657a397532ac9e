//! S8-04: many dead letters are replayed or dropped by the fleet, each once, whatever dies.

use async_nats::HeaderMap;
use brigade::operations::dead_letters::{Filter, jobs::Job};
use brigade_contracts::{Token, WorkerName, permissions::all_users, subject::DEAD_LETTERS_STORED};
use brigade_tests::{TestFleet, process, process::Process, until};
use futures::StreamExt as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::dead_letters::{desk, held, in_sql, shrink};

const JOIN: &str = r#"{"user":"bob"}"#;

/// A letter of a command that was the so-maniest in its stream.
struct DeadCommand {
    what: String,
    id: String,
    payload: String,
    origin: usize,
}

/// Stores letters of commands as command-handler does.
async fn bury(fleet: &TestFleet, letters: impl IntoIterator<Item = DeadCommand>) {
    let client = fleet.connect("command-handler").await;
    let before = held(fleet, "DLQ").await.0;
    let mut count = 0;
    for DeadCommand { what, id, payload, origin } in letters {
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", id);
        headers.insert("Origin-Subject", format!("cmd.t1.{what}"));
        headers.insert("Origin-Stream", "COMMANDS");
        headers.insert("Origin-Seq", origin.to_string());
        headers.insert("Dead-Reason", format!("row {origin} is broken"));
        headers.insert("Dead-Payload-Hash", hex::encode(Sha256::digest(&payload)));
        let subject = format!("dlq.command-handler.cmd.t1.{what}");
        client.publish_with_headers(subject, headers, payload.into()).await.unwrap();
        count += 1;
    }
    client.flush().await.unwrap();
    let stored = before + count;
    until("the letters", || async { (held(fleet, "DLQ").await.0 == stored).then_some(()) }).await;
}

fn open(cart: usize, origin: usize) -> DeadCommand {
    let payload = json!({"kind": "team", "owner": format!("a{cart}"), "currency": "EUR"});
    let (what, id) = (format!("cart.c{cart}.open"), format!("open{cart}"));
    DeadCommand { what, id, payload: payload.to_string(), origin }
}

fn join(cart: usize, origin: usize) -> DeadCommand {
    let (what, id) = (format!("cart.c{cart}.join"), format!("join{cart}"));
    DeadCommand { what, id, payload: JOIN.to_owned(), origin }
}

/// Stores two letters a cart, which died in another order than that in which they were sent.
pub async fn bury_carts(fleet: &TestFleet, carts: usize) {
    let joins = (0..carts).map(|cart| join(cart, 2 * cart + 2));
    bury(fleet, joins.chain((0..carts).map(|cart| open(cart, 2 * cart + 1)))).await;
}

/// Begins a job in a terminal, which is killed as soon as the fleet has the job.
pub async fn begin_and_die(fleet: &TestFleet, arguments: &str) {
    let mut terminal = process::started(fleet, arguments);
    let mut lines = BufReader::new(terminal.stdout.take().expect("piped")).lines();
    while !lines.next_line().await.expect("text").expect("a line").starts_with("job ") {}
    terminal.kill().await.expect("killed");
}

pub async fn ended_jobs(fleet: &TestFleet) -> Vec<Job> {
    until("the end of the jobs", || async {
        let jobs = desk(fleet).await.jobs(10).await.ok()?;
        jobs.iter().all(|job| job.ended_at.is_some()).then_some(jobs)
    })
    .await
}

/// Asserts that each command of so many carts was decided once, and well.
pub async fn assert_decided_once(fleet: &TestFleet, carts: usize) {
    let count = async |statement: &'static str| -> i64 {
        sqlx::query_scalar(statement).fetch_one(&fleet.sql).await.unwrap()
    };
    let commands = i64::try_from(2 * carts).unwrap();
    let good = "select count(*) from brigade.command_inbox
                where (outcome ->> 'status')::int between 200 and 299";
    until("the decisions", || async {
        let decided = count("select count(*) from brigade.command_inbox").await;
        (decided == commands).then_some(())
    })
    .await;
    assert_eq!(count(good).await, commands);
    // The first event of a cart is of `open`, the second one of `join`.
    assert_eq!(count("select count(*) from brigade.events").await, commands);
    assert_eq!(count("select count(distinct id) from brigade.events").await * 2, commands);
}

/// Two operators begin the same at the same time, both terminals die, and so does the handler after
/// it has sent some letters and before it has recorded that.
#[tokio::test]
async fn s8_04_a_job_of_two_operators_outlives_their_terminals_and_a_crash() {
    const CARTS: usize = 150;
    let mut fleet = TestFleet::start_without(WorkerName::CommandHandler).await;
    bury_carts(&fleet, CARTS).await;
    tokio::join!(
        begin_and_die(&fleet, "dlq replay --matching --tenant t1 --by ada"),
        begin_and_die(&fleet, "dlq replay --matching --reason broken --by bob"),
    );
    let waiting = desk(&fleet).await.jobs(10).await.unwrap();
    assert_eq!(waiting.iter().map(|job| job.letters).collect::<Vec<_>>(), [300, 300]);
    assert!(waiting.iter().all(|job| job.state() == "waiting"), "{waiting:?}");
    let crash = Some("dead-letters.after_send");
    Process::spawn(&fleet, &[WorkerName::CommandHandler], crash).ended().await;
    let half_sent = held(&fleet, "COMMANDS").await.0;
    assert!((1..300).contains(&half_sent), "{half_sent} were sent");
    assert_eq!(held(&fleet, "DLQ").await.0, 300, "nothing is recorded");

    fleet.run(WorkerName::CommandHandler).await;
    let jobs = ended_jobs(&fleet).await;
    assert_decided_once(&fleet, CARTS).await;
    for job in &jobs {
        assert_eq!((job.settled(), job.refused, job.state()), (300, 0, "done"), "{job:?}");
    }
    assert_eq!(jobs.iter().map(|job| job.done).sum::<i64>(), 300, "{jobs:?}");
    assert_eq!(held(&fleet, "DLQ").await.0, 0);
    // The archive says whose job each letter was.
    let archived = "select count(*) from brigade.dead_letter_actions a
                    join brigade.dead_letter_jobs j on j.id = a.job
                    where a.done_at is not null and a.left_at is not null and a.actor = j.actor";
    let archived: i64 = sqlx::query_scalar(archived).fetch_one(&fleet.sql).await.unwrap();
    assert_eq!(archived, 300);
    let listed = process::printed(&fleet, "dlq jobs").await;
    assert!(listed.contains("ada") && listed.contains("--reason 'broken'"), "{listed}");
    let shown = process::printed(&fleet, &format!("dlq jobs {} --json", jobs[0].id)).await;
    let shown = shown.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
    assert_eq!(shown.expect("JSON")["state"], "done");
    fleet.finish().await;
}

/// What was refused keeps the later commands of its aggregate back, also those of a later batch,
/// and no other ones.
#[tokio::test]
async fn s8_04_no_command_is_sent_before_a_refused_one_of_its_aggregate() {
    const CARTS: usize = 100;
    let fleet = TestFleet::start().await;
    let mut letters: Vec<_> = (1..CARTS).map(|cart| open(cart, cart)).collect();
    // Its Command-Id belongs to another command.
    letters.push(DeadCommand { id: "open1000".to_owned(), ..open(0, 0) });
    letters.push(join(0, CARTS));
    let producer = fleet.producer().await;
    let other: Value = serde_json::from_str(&open(1000, 0).payload).unwrap();
    assert_eq!(producer.send_as("open1000", "cart.c1000.open", other).await.status, 201);
    bury(&fleet, letters).await;
    let said = process::refused(&fleet, "dlq replay --matching --tenant t1").await;
    assert!(said.contains("its Command-Id belongs to another command"), "{said}");
    assert!(said.contains("of t1.cart.c0 was sent before it"), "{said}");
    let job = ended_jobs(&fleet).await.remove(0);
    assert_eq!((job.done, job.refused), (99, 2), "{job:?}");
    let left = desk(&fleet).await.list(&Filter::default()).await.unwrap();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|letter| letter.subject.starts_with("cmd.t1.cart.c0.")));
    // What was refused can be dropped: no claim is left.
    let dropped = process::printed(&fleet, "dlq drop --matching --because=nobodys").await;
    assert_eq!(dropped.lines().filter(|line| line.starts_with("dropped ")).count(), 2, "{dropped}");
    assert_eq!(held(&fleet, "DLQ").await.0, 0);
    let outcome = producer.request("q.t1.outcome.join0", &[], b"").await.unwrap();
    assert_eq!(outcome.body()["code"], "dropped");
    fleet.finish().await;
}

/// A job says why it does not go on, and goes on when that has passed; letters in SQL are of it as
/// well.
#[tokio::test]
async fn s8_04_a_job_waits_for_a_stream_that_is_full() {
    const CARTS: usize = 20;
    let mut fleet = TestFleet::start_without(WorkerName::CommandHandler).await;
    bury_carts(&fleet, CARTS).await;
    let in_the_table = "insert into brigade.dead_letters (message, subject, headers, payload)
        values ('m', 'dlq.command-handler.cmd.t1.table.x1.register',
                '[[\"Command-Id\",\"x1\"],[\"Origin-Subject\",\"cmd.t1.table.x1.register\"]]',
                '{\"label\":\"1\",\"seats\":4}')";
    sqlx::raw_sql(in_the_table).execute(&fleet.sql).await.unwrap();
    shrink(&fleet, "COMMANDS", 1).await;
    begin_and_die(&fleet, "dlq replay --matching --tenant t1").await;
    fleet.run(WorkerName::CommandHandler).await;
    let held_up = until("a reason", || async {
        let job = desk(&fleet).await.jobs(1).await.ok()?.pop()?;
        job.waits.is_some().then_some(job)
    })
    .await;
    assert_eq!((held_up.state(), held_up.settled()), ("held up", 0));
    let said = process::printed(&fleet, &format!("dlq jobs {}", held_up.id)).await;
    assert!(said.contains("the stream did not take it"), "{said}");
    shrink(&fleet, "COMMANDS", 64 * 1024 * 1024).await;
    let job = ended_jobs(&fleet).await.remove(0);
    assert_eq!((job.done, job.refused), (41, 0), "{job:?}");
    let producer = fleet.producer().await;
    let outcome = producer.request("q.t1.outcome.x1", &[("Wait-Ms", "20000")], b"").await.unwrap();
    assert_eq!((&outcome.body()["status"], in_sql(&fleet).await), (&json!(201), 0));
    fleet.finish().await;
}

/// Letters of a job that is cancelled stay.
#[tokio::test]
async fn s8_04_a_job_that_is_cancelled_leaves_its_letters() {
    let mut fleet = TestFleet::start_without(WorkerName::CommandHandler).await;
    bury_carts(&fleet, 3).await;
    let begun =
        process::printed(&fleet, "dlq drop --matching --because=wrong --detach --by ada").await;
    assert!(begun.contains("6 letters; it goes on without this terminal"), "{begun}");
    let id = desk(&fleet).await.jobs(1).await.unwrap().remove(0).id;
    let cancelled = process::printed(&fleet, &format!("dlq cancel {id} --by bob")).await;
    assert!(cancelled.contains("is cancelled: 0 of 6 letters dropped"), "{cancelled}");
    fleet.run(WorkerName::CommandHandler).await;
    // A later job comes after it.
    let replayed = process::printed(&fleet, "dlq replay --matching --contains open1").await;
    assert_eq!(replayed.lines().filter(|line| line.starts_with("replayed ")).count(), 1);
    assert_eq!(held(&fleet, "DLQ").await.0, 5);
    let again = process::printed(&fleet, &format!("dlq cancel {id}")).await;
    assert!(again.contains("(it had ended)"), "{again}");
    let none = process::printed(&fleet, "dlq drop --matching --tenant t9 --because=x").await;
    assert!(none.contains("no letter matches"), "{none}");
    process::printed(&fleet, "dlq drop --matching --because=test").await;
    fleet.finish().await;
}

/// Who looks for letters gets those that he means, and thousands of one cause as one.
#[tokio::test]
async fn s8_04_letters_are_found_by_what_is_in_them_and_grouped_by_cause() {
    let fleet = TestFleet::empty().await;
    bury_carts(&fleet, 10).await;
    let rows = async |arguments: &str| -> Vec<Value> {
        let printed = process::printed(&fleet, arguments).await;
        printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let groups = rows("dead-letters groups --json").await;
    assert_eq!(groups.len(), 1, "{groups:?}");
    assert_eq!(groups[0]["reason"], "row … is broken");
    assert_eq!((&groups[0]["letters"], &groups[0]["tenants"]), (&json!(20), &json!(["t1"])));
    for (filter, count) in [
        ("--contains \"a7\"", 1),
        ("--contains join", 10),
        ("--contains nowhere", 0),
        ("--tenant t1 --worker command-handler --contains bob", 10),
        ("--tenant t2", 0),
        ("--worker edge", 0),
        ("--older-than 1h", 0),
        ("--older-than 0s --limit 5", 5),
    ] {
        let found = rows(&format!("dlq ls {filter} --json")).await;
        assert_eq!(found.len(), count, "{filter}: {found:?}");
    }
    // In SQL, and in the archive.
    let in_the_table = "insert into brigade.dead_letters (message, subject, headers, payload)
        values ('m', 'dlq.edge.cmd.t1.table.x1.register',
                '[[\"Origin-Subject\",\"cmd.t1.table.x1.register\"]]', '{\"label\":\"unique\"}')";
    sqlx::raw_sql(in_the_table).execute(&fleet.sql).await.unwrap();
    assert_eq!(rows("dlq ls --contains unique --json").await.len(), 1);
    process::printed(&fleet, "dlq drop sql-1 --because=test").await;
    assert_eq!(rows("dlq ls --contains unique --json").await.len(), 0);
    assert_eq!(rows("dlq ls --contains unique --all --json").await.len(), 1);
}

/// An operator is told of a letter when it is stored, without its payload; nobody else may listen.
#[tokio::test]
async fn s8_04_each_letter_is_pushed_to_operators_as_it_is_stored() {
    let fleet = TestFleet::empty().await;
    let operator = fleet.connect("operator").await;
    let mut pushes = operator.subscribe(DEAD_LETTERS_STORED).await.unwrap();
    operator.flush().await.unwrap();
    bury(&fleet, [open(1, 1)]).await;
    let push = pushes.next().await.expect("a push");
    assert_eq!(push.subject.as_str(), "ops.dead_letters.command-handler.cmd.t1.cart.c1.open");
    let headers = push.headers.expect("headers");
    assert_eq!(headers.get("Dead-Reason").unwrap().as_str(), "row 1 is broken");
    assert_eq!((headers.get("Nats-Sequence").unwrap().as_str(), push.payload.len()), ("1", 0));

    let mut watch = process::started(&fleet, "dlq watch --worker command-handler --json");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let told = async {
        loop {
            let line = lines.next_line().await.expect("text").expect("a line");
            if let Ok(letter) = serde_json::from_str::<Value>(&line) {
                break letter;
            }
        }
    };
    // It listens at some time.
    let stored = until("the terminal to print one", || async {
        bury(&fleet, [open(2, 2)]).await;
        None::<()>
    });
    let told = tokio::select! {
        told = told => told,
        () = stored => unreachable!(),
    };
    assert_eq!(
        (&told["subject"], &told["reason"]),
        (&json!("cmd.t1.cart.c2.open"), &json!("row 2 is broken"))
    );
    watch.kill().await.expect("killed");

    let tenants = ["t1", "t2"].map(|tenant| Token::new(tenant).unwrap());
    let listeners = all_users(&tenants).into_iter().filter(|user| {
        user.subscribe.iter().any(|subject| subject == ">" || subject.starts_with("ops."))
    });
    assert_eq!(listeners.map(|user| user.name).collect::<Vec<_>>(), ["operator"]);
}
