//! S8-03: `brigade trace` tells the way of a command.

use brigade::operations::trace::{Passed, Station, Step, Trace};
use brigade_contracts::{Timestamp, WorkerName};
use brigade_tests::{
    TestFleet,
    operators::tracer,
    process::{printed, refused},
    producer::placed,
    until,
};
use time::OffsetDateTime;

use crate::dead_letters::letters;

async fn traces(fleet: &TestFleet, what: &str) -> Vec<Trace> {
    let traced = what.parse().expect("an id or an aggregate");
    tracer(fleet).await.trace(&traced, None).await.expect("a trace")
}

fn at(trace: &Trace, station: Station) -> Vec<&Step> {
    trace.steps.iter().filter(|step| step.station == station).collect()
}

fn passed(trace: &Trace) -> Vec<(Station, Passed)> {
    let mut all: Vec<_> = trace.steps.iter().map(|step| (step.station, step.passed)).collect();
    all.dedup();
    all
}

async fn place(fleet: &TestFleet, id: &str, order: &str) {
    let payload = placed(&[("Soup", 500, 1)]).to_string();
    fleet.producer().await.store(id, &format!("order.{order}.place"), &payload).await;
}

#[tokio::test]
async fn s8_03_trace_tells_the_way_of_a_command_with_times() {
    let fleet = TestFleet::start().await;
    place(&fleet, "k1", "o1").await;
    fleet.until_idle().await;
    let traces = traces(&fleet, "k1").await;
    let [trace] = &traces[..] else { panic!("{traces:?}") };
    assert_eq!((trace.tenant.as_str(), trace.command_id.as_str()), ("t1", "k1"));
    use Passed::Yes;
    let expected = [
        (Station::Received, Yes),
        (Station::Decided, Yes),
        (Station::Committed, Yes),
        (Station::Relayed, Yes),
        (Station::Projected, Yes),
    ];
    assert_eq!(passed(trace), expected, "{trace:?}");
    // The times are those of SQL, the streams and KV.
    let decided_at: OffsetDateTime =
        sqlx::query_scalar("select decided_at from brigade.command_inbox where command_id = 'k1'")
            .fetch_one(&fleet.sql)
            .await
            .unwrap();
    assert_eq!(at(trace, Station::Decided)[0].at, Some(Timestamp::from(decided_at)));
    for station in [Station::Received, Station::Relayed, Station::Projected] {
        assert!(at(trace, station).iter().all(|step| step.at.is_some()), "{trace:?}");
    }
    assert_eq!(at(trace, Station::Committed)[0].at, None, "nobody keeps it");
    assert_eq!(at(trace, Station::Projected).len(), 3, "the counter and two parts: {trace:?}");
    assert!(at(trace, Station::Decided)[0].what.starts_with("order.o1.place: 201 "));

    // By the aggregate too, with its other commands, in their order.
    fleet.producer().await.done("order.o1.accept", serde_json::json!({})).await;
    fleet.until_idle().await;
    let both = tracer(&fleet).await.trace(&"order.o1".parse().unwrap(), Some("t1")).await.unwrap();
    assert_eq!((both.len(), both[0].command_id.as_str()), (2, "k1"));
    // What the later one has covered is said so.
    assert!(at(&both[0], Station::Projected)[0].what.contains("later version"), "{both:?}");
    // A request is not stored.
    assert_eq!(at(&both[1], Station::Received)[0].passed, Passed::Unknown);

    let shown = printed(&fleet, "trace k1").await;
    for part in ["k1 of t1", "received", "order.o1.place: 201", "is message 1 of EVENTS"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(refused(&fleet, "trace nobody").await.contains("nothing is known of it"));
    assert!(tracer(&fleet).await.trace(&"k1".parse().unwrap(), Some("t2")).await.is_err());
}

#[tokio::test]
async fn s8_03_trace_says_where_a_command_stands_while_workers_are_away() {
    let mut fleet = TestFleet::empty().await;
    place(&fleet, "k1", "o1").await;
    let waits = traces(&fleet, "k1").await;
    let expected = [(Station::Received, Passed::Yes), (Station::Decided, Passed::NotYet)];
    assert_eq!(passed(&waits[0]), expected, "{waits:?}");
    assert_eq!(traces(&fleet, "order.o1").await.len(), 1);
    fleet.run(WorkerName::CommandHandler).await;
    let relayed = until("the decision", || async {
        let trace = traces(&fleet, "k1").await.remove(0);
        let relayed = at(&trace, Station::Relayed).first().map(|step| step.passed);
        // Both projected by command-handler, and one by a projector that does not run.
        let projected: Vec<_> = at(&trace, Station::Projected).iter().map(|s| s.passed).collect();
        let done = projected.iter().filter(|passed| **passed == Passed::Yes).count();
        relayed.filter(|_| done == 2 && projected.len() == 3)
    })
    .await;
    assert_eq!(relayed, Passed::NotYet);
    for worker in [WorkerName::OutboxRelay, WorkerName::PaymentProjector] {
        fleet.run(worker).await;
    }
    fleet.until_idle().await;
    let trace = traces(&fleet, "k1").await.remove(0);
    assert!(trace.steps.iter().all(|step| step.passed == Passed::Yes), "{trace:?}");
}

#[tokio::test]
async fn s8_03_trace_finds_a_command_that_died_and_says_what_became_of_it() {
    let fleet = TestFleet::start().await;
    let fault = "alter table brigade.orders add constraint fault check (total < 0) not valid";
    sqlx::raw_sql(fault).execute(&fleet.sql).await.unwrap();
    place(&fleet, "k1", "o1").await;
    letters(&fleet, 1).await;
    let trace = traces(&fleet, "k1").await.remove(0);
    let dead = at(&trace, Station::Dead);
    assert_eq!((dead.len(), dead[0].who.as_deref()), (1, Some("command-handler")), "{trace:?}");
    assert!(dead[0].at.is_some() && dead[0].what.contains("`brigade dlq show "), "{trace:?}");
    assert_eq!(at(&trace, Station::Decided)[0].passed, Passed::NotYet);
    // Replayed, it is decided, and the letter is still told of.
    sqlx::raw_sql("alter table brigade.orders drop constraint fault")
        .execute(&fleet.sql)
        .await
        .unwrap();
    let desk = crate::dead_letters::desk(&fleet).await;
    let letter = letters(&fleet, 1).await.remove(0);
    desk.replay(&letter, "op1").await.unwrap();
    let trace = until("the outcome", || async {
        let trace = traces(&fleet, "k1").await.remove(0);
        (at(&trace, Station::Decided)[0].passed == Passed::Yes).then_some(trace)
    })
    .await;
    assert!(at(&trace, Station::Dead)[0].what.contains("replay by an operator"), "{trace:?}");
}
