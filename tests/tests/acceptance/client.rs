//! The client library against rare answers: the test answers in the fleet's place.

use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Message, Subscriber};
use brigade_contracts::{
    Address, Aggregate, Body, Door, Token,
    client::{ActiveOrders, Client, ClientError, CommandState, Line, Send},
};
use brigade_tests::{SUPERUSER, TestFleet, until};
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// Answers requests in the fleet's place.
struct Answerer {
    nats: async_nats::Client,
    asked: Subscriber,
}

impl Answerer {
    async fn of(fleet: &TestFleet, subject: &str) -> Self {
        let nats = fleet.connect(SUPERUSER).await;
        let asked = nats.subscribe(subject.to_owned()).await.unwrap();
        nats.flush().await.unwrap();
        Self { nats, asked }
    }

    async fn next(&mut self) -> Message {
        timeout(PATIENCE, self.asked.next()).await.expect("a question").expect("connected")
    }

    async fn answer(&self, asked: &Message, status: &str, body: &Value) {
        let mut headers = HeaderMap::new();
        headers.insert("Brigade-Status", status);
        headers.insert("ETag", format!("\"{}\"", body["version"]));
        let reply = asked.reply.clone().expect("a request");
        let payload = body.to_string().into();
        self.nats.publish_with_headers(reply, headers, payload).await.unwrap();
    }
}

fn cart(n: usize) -> Address {
    Address::new("t1", Aggregate::Cart, &format!("c{n}")).unwrap()
}

fn join(n: usize, door: Door) -> Send {
    let body = Body::decode(Aggregate::Cart, "join", br#"{"user":"ada"}"#).unwrap();
    let command_id = Token::new(&format!("k{n}")).unwrap();
    Send { command_id, ..Send::new(cart(n), body).through(door) }
}

fn outcome(n: usize, status: u16, retry_after_ms: Option<u64>) -> Value {
    json!({
        "command_id": format!("k{n}"), "status": status, "code": "ok", "message": "done",
        "aggregate": "cart", "id": format!("c{n}"), "version": 7, "etag": "\"7\"", "effects": [],
        "data": {}, "retry_after_ms": retry_after_ms,
    })
}

async fn client(fleet: &TestFleet, patience: Duration) -> Client {
    Client::new(fleet.connect("t1-producer").await, patience)
}

fn asked_version(asked: &Message) -> Option<String> {
    Some(asked.headers.as_ref()?.get("Min-Version")?.to_string())
}

#[tokio::test]
async fn the_client_takes_only_its_own_outcome_and_pauses_as_the_answer_says() {
    let fleet = TestFleet::empty().await;
    let client = client(&fleet, PATIENCE).await;
    let mut requests = Answerer::of(&fleet, "req.t1.cart.>").await;
    let mut views = Answerer::of(&fleet, "q.t1.view.>").await;
    let mut outcomes = Answerer::of(&fleet, "q.t1.outcome.>").await;
    for door in [Door::Request, Door::Durable] {
        let answerer = if door == Door::Request { &mut requests } else { &mut outcomes };
        let send = join(1, door);
        let (sent, ()) = tokio::join!(client.send(&send), async {
            let asked = answerer.next().await;
            answerer.answer(&asked, "200", &outcome(2, 200, None)).await;
        });
        assert!(matches!(sent, Err(ClientError::CommandIdReused(other)) if other == "cart.c2"));
    }
    // It taught nothing of the aggregate.
    let address = cart(1);
    let (view, ()) = tokio::join!(client.view(&address), async {
        let asked = views.next().await;
        assert_eq!(asked_version(&asked), None);
        views.answer(&asked, "200", &json!({"version": 1})).await;
    });
    assert_eq!(view.unwrap().version.version, 1);

    let send = join(3, Door::Request);
    let (sent, ()) = tokio::join!(client.send(&send), async {
        let first = requests.next().await;
        let at = Instant::now();
        requests.answer(&first, "503", &outcome(3, 503, Some(400))).await;
        let again = requests.next().await;
        assert!(at.elapsed() >= Duration::from_millis(400));
        requests.answer(&again, "200", &outcome(3, 200, None)).await;
    });
    assert_eq!(sent.unwrap().status, 200);

    let address = cart(4);
    let (view, ()) = tokio::join!(client.view(&address), async {
        let first = views.next().await;
        let at = Instant::now();
        views.answer(&first, "503", &json!({"retry_after_ms": 400})).await;
        let again = views.next().await;
        assert!(at.elapsed() >= Duration::from_millis(400));
        views.answer(&again, "200", &json!({"version": 1})).await;
    });
    assert_eq!(view.unwrap().version.version, 1);
}

#[tokio::test]
async fn a_view_that_is_never_confirmed_is_given_up_when_patience_is_over() {
    let fleet = TestFleet::empty().await;
    let client = client(&fleet, Duration::from_millis(300)).await;
    let mut views = Answerer::of(&fleet, "q.t1.view.>").await;
    let address = cart(1);
    let answers = async {
        loop {
            let asked = views.next().await;
            views.answer(&asked, "503", &json!({"retry_after_ms": u64::MAX})).await;
        }
    };
    tokio::select! {
        () = answers => {}
        view = client.view(&address) => {
            assert!(matches!(view, Err(ClientError::TimedOut(_))), "{view:?}");
        }
    }
}

#[tokio::test]
async fn a_view_is_not_older_than_the_pushes_during_its_query() {
    let fleet = TestFleet::empty().await;
    let client = client(&fleet, PATIENCE).await;
    let mut views = Answerer::of(&fleet, "q.t1.view.>").await;
    let address = cart(1);
    let (view, ()) = tokio::join!(client.view(&address), async {
        let asked = views.next().await;
        client.heard(&address, 5);
        views.answer(&asked, "200", &json!({"version": 3})).await;
        let asked = views.next().await;
        assert_eq!(asked_version(&asked).as_deref(), Some("5"));
        views.answer(&asked, "200", &json!({"version": 5})).await;
    });
    assert_eq!(view.unwrap().version.version, 5);
}

/// More commands than the client has in flight at once.
const STUCK: usize = 70;

#[tokio::test]
async fn s4_10_a_stuck_aggregate_stops_no_queue_and_commands_are_stored_once() {
    let fleet = TestFleet::empty().await;
    let client = client(&fleet, Duration::from_millis(200)).await;
    let js = async_nats::jetstream::new(fleet.connect(SUPERUSER).await);
    let mut outcomes = Answerer::of(&fleet, "q.t1.outcome.>").await;
    let mut requests = Answerer::of(&fleet, "req.t1.cart.>").await;
    let queue = client.queue(Line::new(100));
    for n in 0..STUCK {
        queue.add(join(n, Door::Durable)).unwrap();
    }
    // It comes last, and has its turn all the same.
    queue.add(join(STUCK, Door::Request)).unwrap();
    let asked = requests.next().await;
    requests.answer(&asked, "200", &outcome(STUCK, 200, None)).await;

    // Several tries later nobody has stored a second message.
    let mut tries = 0;
    while tries < 4 {
        let asked = outcomes.next().await;
        tries += usize::from(asked.subject.as_str() == "q.t1.outcome.k0");
        outcomes.answer(&asked, "404", &Value::Null).await;
    }
    let mut stream = js.get_stream("COMMANDS").await.unwrap();
    let stored = until("each to be stored", || async {
        let stored = js.get_stream("COMMANDS").await.ok()?.cached_info().state.messages;
        (stored >= STUCK as u64).then_some(stored)
    });
    assert_eq!(stored.await, STUCK as u64);

    // What is decided at last is noticed.
    let answers = async {
        loop {
            let asked = outcomes.next().await;
            let n = asked.subject.rsplit('k').next().unwrap().parse().unwrap();
            outcomes.answer(&asked, "200", &outcome(n, 200, None)).await;
        }
    };
    let mut watch = queue.watch();
    tokio::select! {
        () = answers => {}
        decided = timeout(PATIENCE, watch.wait_for(|line| line.pending() == 0)) => {
            decided.expect("in time").expect("held");
        }
    }
    assert!(queue.line().entries().iter().all(|e| matches!(e.standing, CommandState::Done(_))));
    assert_eq!(stream.info().await.unwrap().state.messages, STUCK as u64);
}

#[tokio::test]
async fn what_cannot_be_sent_or_read_ends_and_the_queue_goes_on() {
    let fleet = TestFleet::empty().await;
    let client = client(&fleet, PATIENCE).await;
    let mut requests = Answerer::of(&fleet, "req.t1.cart.>").await;
    let queue = client.queue(Line::new(10));
    for (n, door) in [(1, Door::Request), (2, Door::Durable)] {
        let traceparent = Some("0".repeat(2_000_000));
        queue.add(Send { traceparent, ..join(n, door) }).unwrap();
    }
    queue.add(join(3, Door::Request)).unwrap();
    let asked = requests.next().await;
    requests.answer(&asked, "200", &json!("no outcome")).await;
    let mut watch = queue.watch();
    let ended = timeout(PATIENCE, watch.wait_for(|line| line.pending() == 0)).await;
    let line = ended.expect("in time").expect("held").clone();
    let why = line.entries().iter().map(|entry| match &entry.standing {
        CommandState::Failed(why) => why.split(':').next().unwrap(),
        standing => panic!("{standing:?}"),
    });
    let expected =
        ["too large to be sent", "too large to be sent", "an answer that cannot be read"];
    assert_eq!(why.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_stored_command_is_waited_for_without_another_message() {
    let fleet = TestFleet::empty().await;
    let client = client(&fleet, Duration::from_millis(200)).await;
    let mut outcomes = Answerer::of(&fleet, "q.t1.outcome.>").await;
    let send = join(1, Door::Durable);
    let (sent, ()) = tokio::join!(client.send(&send), async {
        let asked = outcomes.next().await;
        outcomes.answer(&asked, "404", &Value::Null).await;
    });
    assert!(matches!(sent, Err(ClientError::Undecided(_))), "{sent:?}");
    let (outcome, ()) = tokio::join!(client.outcome(&send), async {
        let asked = outcomes.next().await;
        outcomes.answer(&asked, "200", &outcome(1, 200, None)).await;
    });
    assert_eq!(outcome.unwrap().status, 200);
    let js = async_nats::jetstream::new(fleet.connect(SUPERUSER).await);
    assert_eq!(js.get_stream("COMMANDS").await.unwrap().cached_info().state.messages, 1);
}

#[tokio::test]
async fn a_watch_tells_a_refusal_and_its_end() {
    let fleet = TestFleet::empty().await;
    let nats = fleet.connect("t1-watcher").await;
    let client = Client::new(nats.clone(), PATIENCE);
    let mut views = Answerer::of(&fleet, "q.t1.view.>").await;
    let mut lists = Answerer::of(&fleet, "q.t1.active_orders").await;
    let often = Duration::from_millis(20);
    let mut view = client.watch_view(&cart(1)).await.unwrap().polling_every(often);
    let tenant = Token::new("t1").unwrap();
    let orders = client.watch_active_orders(&tenant, ActiveOrders::default()).await;
    let mut orders = orders.unwrap().polling_every(often);

    let answers = async {
        // That there is none yet is no end.
        for status in ["404", "403"] {
            let asked = views.next().await;
            views.answer(&asked, status, &Value::Null).await;
        }
    };
    let (told, ()) = tokio::join!(timeout(PATIENCE, view.next()), answers);
    let told = told.expect("a refusal");
    assert!(matches!(told, Err(ClientError::Refused(403, _))), "{told:?}");
    let answers = async {
        for status in ["503", "400"] {
            let asked = lists.next().await;
            lists.answer(&asked, status, &Value::Null).await;
        }
    };
    let (told, ()) = tokio::join!(timeout(PATIENCE, orders.next()), answers);
    let told = told.expect("a refusal");
    assert!(matches!(told, Err(ClientError::Refused(400, _))), "{told:?}");

    nats.drain().await.unwrap();
    let told = timeout(PATIENCE, orders.next()).await.expect("an end");
    assert!(matches!(told, Err(ClientError::Closed)), "{told:?}");
    let told = timeout(PATIENCE, view.next()).await.expect("an end");
    assert!(matches!(told, Err(ClientError::Closed)), "{told:?}");
    assert!(matches!(view.next().now_or_never(), Some(Err(ClientError::Closed))));
}
