//! Dead letters that are many, large or malformed: none hides another, and the work of a command is
//! bounded.

use std::sync::atomic::Ordering;

use async_nats::{HeaderMap, jetstream};
use brigade::{
    operations::dead_letters::{DeadLetters, Filter, Letter, Number},
    runtime::DeadLetterMetrics,
};
use brigade_contracts::WorkerName;
use brigade_tests::{Producer, RawClient, TestFleet, process, producer::placed, until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::dead_letters::{desk, held, in_sql, letters, shrink};

const OPEN: &str = r#"{"kind":"team","owner":"ada","currency":"EUR"}"#;

#[tokio::test]
async fn s5_01_a_letter_with_a_strange_command_id_hides_no_other() {
    let fleet = TestFleet::start().await;
    let mut raw = RawClient::connect(&fleet.nats_url("t1-producer")).await;
    let strange = b"NATS/1.0\r\nCommand-Id: a\0b\r\n\r\n";
    let ack = raw.request(b"cmd.t1.cart.c1.open", strange, OPEN.as_bytes()).await;
    assert!(String::from_utf8_lossy(&ack.payload).contains("seq"), "{ack:?}");
    let other = jetstream::new(fleet.connect("t2-producer").await);
    other.publish("cmd.t2.cart.c1.open", OPEN.into()).await.unwrap().await.unwrap();
    let all = letters(&fleet, 2).await;
    let strange = all.iter().find(|letter| letter.subject.starts_with("cmd.t1.")).unwrap();
    let desk = desk(&fleet).await;
    assert_eq!(desk.get(strange.number).await.unwrap().headers, strange.headers);
    assert_eq!(desk.payload(strange.number).await.unwrap(), OPEN);
    let refused = desk.replay(strange, "op1").await.unwrap_err().to_string();
    assert!(refused.contains("needs one header Command-Id"), "{refused}");
    for letter in &all {
        desk.drop(letter, "nobody can be told", "op1").await.unwrap();
    }
    let archive = Filter { all: true, ..Filter::default() };
    assert_eq!(desk.list(&archive).await.unwrap().len(), 2);
    fleet.finish().await;
}

/// A command that is refused because a header stands twice is not made a good one by an operator.
#[tokio::test]
async fn a_letter_with_a_header_that_stands_twice_keeps_both() {
    let fleet = TestFleet::start().await;
    let mut raw = RawClient::connect(&fleet.nats_url("t1-producer")).await;
    let ambiguous = b"NATS/1.0\r\nCommand-Id: k1\r\nCommand-Id: k2\r\n\r\n";
    for id in ["c1", "c2"] {
        let subject = format!("cmd.t1.cart.{id}.open");
        raw.request(subject.as_bytes(), ambiguous, OPEN.as_bytes()).await;
    }
    let all = letters(&fleet, 2).await;
    let desk = desk(&fleet).await;
    let ids = |letter: &Letter| {
        let all = letter.headers.get_all("Command-Id");
        all.map(|id| id.as_str().to_owned()).collect::<Vec<_>>()
    };
    for listed in &all {
        let shown = desk.get(listed.number).await.unwrap();
        assert_eq!((ids(&shown), &shown.headers), (ids(listed), &listed.headers));
        assert_eq!(ids(&shown), ["k1", "k2"]);
        assert_eq!(desk.payload(listed.number).await.unwrap(), OPEN);
        for refused in [desk.replay(&shown, "op1").await, desk.force(&shown, "to see", "op1").await]
        {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("needs one header Command-Id"), "{refused}");
        }
        desk.drop(&shown, "ambiguous", "op1").await.unwrap();
        let archived = desk.get(listed.number).await.unwrap();
        assert_eq!((archived.action.as_deref(), ids(&archived)), (Some("drop"), ids(listed)));
    }
    let producer = fleet.producer().await;
    for id in ["c1", "c2"] {
        assert_eq!(producer.view(&format!("cart.{id}"), None).await.status, 404);
    }
    fleet.finish().await;
}

/// A sender may use header names of a dead letter.
#[tokio::test]
async fn s5_01_headers_of_a_sender_are_none_of_its_letter() {
    let fleet = TestFleet::start().await;
    let fault = "alter table brigade.orders add constraint fault check (total < 0) not valid";
    sqlx::raw_sql(fault).execute(&fleet.sql).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("Command-Id", "k1");
    for name in ["Dead-Raw-Headers", "Dead-Payload", "Dead-Reason", "Origin-Subject", "Nats-X"] {
        headers.insert(name, "x");
    }
    let js = jetstream::new(fleet.connect("t1-producer").await);
    let place = placed(&[("Soup", 500, 1)]).to_string();
    let sent = js.publish_with_headers("cmd.t1.order.o1.place", headers, place.into());
    sent.await.unwrap().await.unwrap();
    let letter = letters(&fleet, 1).await.remove(0);
    let mended = "alter table brigade.orders drop constraint fault";
    sqlx::raw_sql(mended).execute(&fleet.sql).await.unwrap();
    assert_eq!(letter.subject, "cmd.t1.order.o1.place");
    assert_ne!(letter.reason, "x");
    // As it was sent it comes again, but for what the server would act on.
    let mut stored = fleet.connect("operator").await.subscribe("cmd.>").await.unwrap();
    desk(&fleet).await.replay(&letter, "op1").await.unwrap();
    let producer = fleet.producer().await;
    let outcome = producer.request("q.t1.outcome.k1", &[("Wait-Ms", "20000")], b"").await.unwrap();
    assert_eq!(outcome.body()["status"], 201);
    let replayed = futures::StreamExt::next(&mut stored).await.unwrap().headers.unwrap();
    let mut names: Vec<String> = replayed.iter().map(|(name, _)| name.to_string()).collect();
    names.retain(|name| !name.starts_with("Nats-"));
    names.sort();
    let expected =
        ["Command-Id", "Dead-Payload", "Dead-Raw-Headers", "Dead-Reason", "Origin-Subject"];
    assert_eq!(names, expected);
    assert!(replayed.get("Nats-X").is_none());
    fleet.finish().await;
}

/// Inserts a thousand letters of `t1` that their stream did not take.
async fn fill_the_table(fleet: &TestFleet) {
    let filled = "insert into brigade.dead_letters (message, subject, headers, payload)
                  select 'm' || n, 'dlq.command-handler.cmd.t1.cart.c1.open',
                         '[[\"Origin-Subject\",\"cmd.t1.cart.c1.open\"]]', 'x'
                  from generate_series(1, 1000) n";
    sqlx::raw_sql(filled).execute(&fleet.sql).await.unwrap();
}

/// Nobody handles the letters, and one tenant goes on to cause more.
#[tokio::test]
async fn s5_07_letters_in_sql_are_bounded_for_each_tenant() {
    let fleet = TestFleet::start().await;
    shrink(&fleet, "DLQ", 64).await;
    fill_the_table(&fleet).await;
    // Both die: each under the Command-Id of another command.
    let payload = r#"{"user":"bob"}"#;
    for tenant in ["t1", "t2"] {
        let producer = Producer::new(fleet.connect(&format!("{tenant}-producer")).await, tenant);
        let open: Value = serde_json::from_str(OPEN).unwrap();
        assert_eq!(producer.send_as("k1", "cart.c1.open", open).await.status, 201);
        let js = jetstream::new(fleet.connect(&format!("{tenant}-producer")).await);
        js.publish(format!("cmd.{tenant}.cart.c1.join"), payload.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let fault = "alter table brigade.orders add constraint fault check (total < 0) not valid";
    sqlx::raw_sql(fault).execute(&fleet.sql).await.unwrap();
    let place = placed(&[("Soup", 500, 1)]).to_string();
    fleet.producer().await.store("k2", "order.o1.place", &place).await;
    until("the dead letters", || async { (in_sql(&fleet).await == 1003).then_some(()) }).await;
    let mended = "alter table brigade.orders drop constraint fault";
    sqlx::raw_sql(mended).execute(&fleet.sql).await.unwrap();
    let desk = desk(&fleet).await;
    let all = desk.list(&Filter::default()).await.unwrap();
    let of = |subject: &str| all.iter().find(|letter| letter.subject == subject).unwrap();
    // The other tenant's is whole.
    let whole = of("cmd.t2.cart.c1.join");
    assert_eq!(desk.payload(whole.number).await.unwrap(), payload);
    assert_eq!(whole.payload_gone(), None);
    for (subject, payload) in [("cmd.t1.cart.c1.join", payload), ("cmd.t1.order.o1.place", &place)]
    {
        let bare = of(subject);
        let hash = hex::encode(Sha256::digest(payload));
        assert_eq!(bare.headers.get("Dead-Payload-Hash").unwrap().as_str(), hash);
        assert!(bare.payload_gone().unwrap().starts_with(&format!("{} bytes", payload.len())));
        assert_eq!(desk.payload(bare.number).await.unwrap(), "");
        let refused = desk.force(bare, "so", "op1").await.unwrap_err().to_string();
        assert!(refused.contains("payload was not kept"), "{refused}");
    }
    let counter = fleet
        .metrics
        .group::<DeadLetterMetrics>()
        .without_payload
        .with_label_values(&["command-handler"]);
    assert_eq!(counter.get(), 2);
    let listed = process::printed(&fleet, "dlq ls --reason constraint").await;
    assert!(listed.contains("[payload not kept]"), "{listed}");
    // Its sender, who has the payload still, is answered that it was dropped, and nobody else is.
    desk.drop(of("cmd.t1.order.o1.place"), "too many", "op1").await.unwrap();
    let producer = fleet.producer().await;
    let again = producer.send_as("k2", "order.o1.place", placed(&[("Soup", 500, 1)])).await;
    assert_eq!((again.status, again.code()), (500, "dropped".to_owned()));
    let other = producer.send_as("k2", "order.o1.place", placed(&[("Soup", 501, 1)])).await;
    assert_eq!((other.status, other.code()), (409, "command_id_reused".to_owned()));
    // Where there is room again the next one is whole.
    sqlx::raw_sql("delete from brigade.dead_letters where message = 'm1'")
        .execute(&fleet.sql)
        .await
        .unwrap();
    let js = jetstream::new(fleet.connect("t1-producer").await);
    js.publish("cmd.t1.cart.c1.leave", payload.into()).await.unwrap().await.unwrap();
    let next = until("the next letter", || async {
        let all = desk.list(&Filter::default()).await.unwrap();
        all.into_iter().find(|letter| letter.subject == "cmd.t1.cart.c1.leave")
    })
    .await;
    assert_eq!(desk.payload(next.number).await.unwrap(), payload);
    fleet.finish().await;
}

/// The counts of letters that are not kept: tenant, reason, how many.
async fn counted(fleet: &TestFleet) -> Vec<(String, String, i64)> {
    let rows = "select tenant, reason, letters from brigade.dead_letter_overflow
                where reason !~ '^r[0-9]' order by tenant, reason";
    sqlx::query_as(rows).fetch_all(&fleet.sql).await.unwrap()
}

/// Nobody acts on the letters for so long that there is no room for their headers either.
#[tokio::test]
async fn s5_07_letters_beyond_all_bounds_are_counted_and_their_senders_answered() {
    let fleet = TestFleet::start().await;
    shrink(&fleet, "DLQ", 64).await;
    fill_the_table(&fleet).await;
    let without_payload = "insert into brigade.dead_letters (message, subject, headers, payload)
                           select 'b' || n, 'dlq.command-handler.cmd.t1.cart.c1.open', '[]', ''
                           from generate_series(1, 10000) n";
    sqlx::raw_sql(without_payload).execute(&fleet.sql).await.unwrap();
    let without_id = async |tenant: &str, count: usize| {
        let js = jetstream::new(fleet.connect(&format!("{tenant}-producer")).await);
        for n in 0..count {
            let subject = format!("cmd.{tenant}.cart.c{n}.open");
            js.publish(subject, OPEN.into()).await.unwrap().await.unwrap();
        }
    };
    without_id("t1", 3).await;
    without_id("t2", 1).await;
    let fault = "alter table brigade.orders add constraint fault check (total < 0) not valid";
    sqlx::raw_sql(fault).execute(&fleet.sql).await.unwrap();
    let producer = fleet.producer().await;
    let soup = || placed(&[("Soup", 500, 1)]);
    let outcome = producer.publish("k2", "order.o1.place", soup()).await;
    assert_eq!((&outcome["status"], &outcome["code"]), (&json!(500), &json!("dropped")));
    let mended = "alter table brigade.orders drop constraint fault";
    sqlx::raw_sql(mended).execute(&fleet.sql).await.unwrap();
    // Whoever sends it again is told the same, and nobody else is.
    let again = producer.send_as("k2", "order.o1.place", soup()).await;
    assert_eq!((again.status, again.code()), (500, "dropped".to_owned()));
    let other = producer.send_as("k2", "order.o1.place", placed(&[("Soup", 501, 1)])).await;
    assert_eq!((other.status, other.code()), (409, "command_id_reused".to_owned()));
    until("the other's letter", || async { (in_sql(&fleet).await == 11_001).then_some(()) }).await;
    until("all to be counted", || async {
        let all = counted(&fleet).await;
        (all.iter().map(|(_, _, letters)| letters).sum::<i64>() == 4).then_some(())
    })
    .await;
    let reasons = counted(&fleet).await;
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert_eq!(reasons[1], ("t1".to_owned(), "missing_command_id".to_owned(), 3));
    let not_kept =
        fleet.metrics.group::<DeadLetterMetrics>().not_kept.with_label_values(&["command-handler"]);
    assert_eq!(not_kept.get(), 4);
    let listed = process::printed(&fleet, "dlq ls --tenant t1 --limit 1").await;
    assert!(listed.contains("missing_command_id [3 like this counted since"), "{listed}");
    let listed = process::printed(&fleet, "dlq ls --tenant t2").await;
    assert!(!listed.contains("counted"), "{listed}");
    let listed = process::printed(&fleet, "dlq ls --tenant t1 --limit 1 --json").await;
    let row = listed.lines().find(|line| line.contains("not_kept\":3")).expect("a row");
    let row: Value = serde_json::from_str(row).unwrap();
    assert_eq!((&row["reason"], &row["tenant"]), (&json!("missing_command_id"), &json!("t1")));

    // However many reasons there are, their rows are bounded.
    let reasons = "insert into brigade.dead_letter_overflow
                       (tenant, worker, reason, letters, last_subject, last_message)
                   select 't1', 'command-handler', 'r' || n, 1, '', '' from generate_series(1, 98) n";
    sqlx::raw_sql(reasons).execute(&fleet.sql).await.unwrap();
    let js = jetstream::new(fleet.connect("t1-producer").await);
    let mut reused = HeaderMap::new();
    reused.insert("Command-Id", "k2");
    let sent = js.publish_with_headers("cmd.t1.cart.c1.open", reused, OPEN.into());
    sent.await.unwrap().await.unwrap();
    until("a row for all other reasons", || async {
        counted(&fleet).await.contains(&("t1".into(), "other".into(), 1)).then_some(())
    })
    .await;
    // Where there is room again, which is looked at now and then, the next one is kept.
    sqlx::raw_sql("delete from brigade.dead_letters where message = 'b1'")
        .execute(&fleet.sql)
        .await
        .unwrap();
    let moment = "update brigade.dead_letter_overflow
                  set checked_at = checked_at - interval '1 minute'";
    sqlx::raw_sql(moment).execute(&fleet.sql).await.unwrap();
    without_id("t1", 1).await;
    until("a letter to be kept", || async { (in_sql(&fleet).await == 11_001).then_some(()) }).await;
    assert_eq!(not_kept.get(), 5);
    fleet.finish().await;
}

/// The header that tells the account is the server's own, so it is not sent again; without it the
/// command would be accepted. nats-server 2.15 does not store it: the letter is written by hand.
#[tokio::test]
async fn s5_09_a_letter_from_another_tenants_account_is_never_replayed() {
    let fleet = TestFleet::start().await;
    let foreign = r#"insert into brigade.dead_letters (message, subject, headers, payload)
        values ('m', 'dlq.command-handler.cmd.t1.cart.c1.open',
                '[["Command-Id","k1"],["Dead-Nats-Request-Info","{\"acc\":\"T-t2\"}"],
                  ["Dead-Reason","wrong_tenant: sent from another tenant''s account"],
                  ["Origin-Subject","cmd.t1.cart.c1.open"]]',
                '{"kind":"team","owner":"ada","currency":"EUR"}')"#;
    sqlx::raw_sql(foreign).execute(&fleet.sql).await.unwrap();
    let letter = letters(&fleet, 1).await.remove(0);
    assert!(letter.reason.starts_with("wrong_tenant"), "{}", letter.reason);
    let desk = desk(&fleet).await;
    for refused in [
        desk.check_replay(&letter, false).await,
        desk.replay(&letter, "op1").await,
        desk.force(&letter, "it looks fine", "op1").await,
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("another tenant's account"), "{refused}");
    }
    // Nor is its Command-Id used up for the tenant that it names.
    desk.drop(&letter, "not theirs", "op1").await.unwrap();
    let producer = fleet.producer().await;
    let open: Value = serde_json::from_str(OPEN).unwrap();
    assert_eq!(producer.send_as("k1", "cart.c1.open", open).await.status, 201);
    let archive = Filter { all: true, ..Filter::default() };
    assert_eq!(desk.list(&archive).await.unwrap()[0].outcome, None);
    fleet.finish().await;
}

/// Letters of commands that have their outcomes by now.
const LETTERS: usize = 5000;

async fn many_letters() -> TestFleet {
    let fleet = TestFleet::empty().await;
    let client = fleet.connect("payment-projector").await;
    for n in 0..LETTERS {
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", format!("k{n}"));
        headers.insert("Origin-Subject", format!("cmd.t1.cart.c{n}.open"));
        headers.insert("Dead-Reason", if n % 50 == 0 { "rare" } else { "common" });
        headers.insert("Dead-Payload-Hash", hex::encode(Sha256::digest(OPEN)));
        let subject = format!("dlq.payment-projector.cmd.t1.cart.c{n}.open");
        client.publish_with_headers(subject, headers, OPEN.into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let stored = LETTERS as u64;
    until("the letters", || async { (held(&fleet, "DLQ").await.0 == stored).then_some(()) }).await;
    let decided = "insert into brigade.command_inbox
                       (tenant, command_id, subject, payload_hash, outcome, decided_at)
                   select 't1', 'k' || n, 'cmd.t1.cart.c' || n || '.open', $1,
                          '{\"status\": 201}', now()
                   from generate_series(0, $2 - 1) n";
    let decided = sqlx::query(decided).bind(&Sha256::digest(OPEN)[..]).bind(stored.cast_signed());
    decided.execute(&fleet.sql).await.unwrap();
    fleet
}

/// The cost is counted in messages that the command sends, each of which waits for its answer.
#[tokio::test]
async fn the_desk_reads_many_letters_in_few_round_trips() {
    let fleet = many_letters().await;
    let client = fleet.connect("operator").await;
    let sent = || client.statistics().out_messages.load(Ordering::Relaxed);
    let js = jetstream::new(client.clone());
    let desk = DeadLetters::open(js, fleet.sql.clone()).await.unwrap();
    let before = sent();
    let all = desk.list(&Filter::default()).await.unwrap();
    let trips = sent() - before;
    eprintln!("{} letters in {trips} round trips", all.len());
    assert_eq!(all.len(), LETTERS);
    assert!(all.iter().all(|letter| letter.outcome == Some(201)));
    assert!(trips <= 50, "{trips} round trips");
}

#[tokio::test]
async fn a_page_of_letters_goes_on_where_the_last_one_ended() {
    let fleet = many_letters().await;
    let desk = desk(&fleet).await;
    fill_the_table(&fleet).await;
    let rare = Filter { reason: Some("rare".to_owned()), ..Filter::default() };
    let (first, second) = {
        let first = desk.page(&rare, None, 60).await.unwrap();
        let last = first.letters.last().unwrap().number;
        (first, desk.page(&rare, Some(last), 60).await.unwrap())
    };
    let numbers = |page: &[brigade::operations::dead_letters::Letter]| {
        page.iter().map(|letter| letter.number).collect::<Vec<_>>()
    };
    let expected: Vec<_> = (0..100).map(|n| Number::Stream(50 * n + 1)).collect();
    assert_eq!(numbers(&first.letters), expected[..60]);
    assert_eq!(numbers(&second.letters), expected[60..]);
    assert_eq!((first.more, second.more), (true, false));
    // What is archived stands between those that are not, and the table comes after the stream.
    desk.drop(&first.letters[1], "a test", "op1").await.unwrap();
    let left = desk.page(&rare, None, 2).await.unwrap();
    assert_eq!(numbers(&left.letters), [expected[0], expected[2]]);
    let all = Filter { all: true, ..rare.clone() };
    let all = desk.page(&all, None, 2).await.unwrap();
    assert_eq!(numbers(&all.letters), expected[..2]);
    assert_eq!(all.letters[1].action.as_deref(), Some("drop"));
    let any = Filter::default();
    let last = desk.page(&any, Some(Number::Stream(4999)), 3).await.unwrap();
    let expected = [Number::Stream(5000), Number::Table(1), Number::Table(2)];
    assert_eq!((numbers(&last.letters), last.more), (expected.to_vec(), true));
    let last = desk.page(&any, Some(Number::Table(998)), 3).await.unwrap();
    assert_eq!(numbers(&last.letters), [Number::Table(999), Number::Table(1000)]);
    assert!(!last.more);

    let printed = process::printed(&fleet, "dlq ls").await;
    assert_eq!(printed.matches("payment-projector").count(), 100, "{printed}");
    let printed = process::printed(&fleet, "dlq ls --after 4990 --limit 30 --json").await;
    let rows: Vec<Value> =
        printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(rows.len(), 30);
    assert_eq!((&rows[0]["number"], &rows[10]["number"]), (&json!("4991"), &json!("sql-1")));
    assert_eq!(
        (&rows[0]["outcome"], &rows[0]["subject"]),
        (&json!(201), &json!("cmd.t1.cart.c4990.open"))
    );
    // As `dlq ls | head -1` does.
    process::ends_quietly_unread(&fleet, "dlq ls --limit 5000", "number").await;
    // Whoever acts goes on acting: the fleet does it.
    let mut fleet = fleet;
    fleet.run(WorkerName::CommandHandler).await;
    let drop = "dlq drop --matching --reason rare --because=flood";
    process::ends_quietly_unread(&fleet, drop, "dropped").await;
    until("the end of the job", || async { desk.list(&rare).await.ok()?.is_empty().then_some(()) })
        .await;
}
