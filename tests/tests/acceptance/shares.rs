//! S5-08: no tenant, and no client without a token, uses up the capacity of edge.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use brigade_tests::{Producer, TestFleet, until};
use futures::future::join_all;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::http::open_fleet;

/// A quarter of the readers that an edge takes.
const SCREENS: usize = 1024;
/// A quarter of the places for clients of which only the address is known.
const STRANGERS: usize = 512;

#[tokio::test]
async fn s5_08_idle_screens_of_one_tenant_do_not_keep_out_those_of_another() {
    let (fleet, http) = open_fleet().await;
    let mut screens = Vec::new();
    while screens.len() < SCREENS {
        let some = (0..64).map(|_| http.stream("active-orders/stream", None));
        screens.extend(join_all(some).await.into_iter().map(|screen| screen.expect("a stream")));
    }
    let refused = http.stream("active-orders/stream", None).await.err().expect("a refusal");
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_many"));
    assert_eq!(refused.header("retry-after"), "1");
    let mut other = http.of("t2").stream("active-orders/stream", None).await.expect("a stream");
    assert_eq!(other.next().await.expect("an event").kind, "snapshot");
    // Those who have a place keep it, and one that is given up is had again.
    assert_eq!(screens[0].next().await.expect("an event").kind, "snapshot");
    screens.pop();
    until("a place for one more screen", || async {
        http.stream("active-orders/stream", None).await.ok()
    })
    .await;
    drop((screens, other));
    fleet.finish().await;
}

#[tokio::test]
async fn s5_08_strangers_without_a_token_use_up_no_tenants_share() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let ada = http.register_and_log_in("ada").await.from([127, 0, 0, 2].into());
    let address = http.base.strip_prefix("http://").expect("an address").to_owned();
    // Logins of this tenant whose body does not come.
    let login = "POST /v1/t1/user/ada/login HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n\
                 Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{";
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        let mut stranger = TcpStream::connect(&address).await.expect("connected");
        stranger.write_all(login.as_bytes()).await.expect("sent");
        strangers.push(stranger);
    }
    let refused = until("the address to have its share", || async {
        let response = http.get("active-orders", &[]).await;
        (response.status != 401).then_some(response)
    })
    .await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_many"));
    assert_eq!(refused.header("retry-after"), "1");
    let state = ada.get("user/ada", &[]).await;
    assert_eq!(state.status, 200, "{}", state.body());
    drop(strangers);
    until("the address to have room", || async {
        (http.get("active-orders", &[]).await.status == 401).then_some(())
    })
    .await;
    fleet.finish().await;
}

/// Each query needs another key; a statement answers 16 keys.
const FLOOD: usize = 2000;

#[tokio::test]
async fn s5_08_the_queries_of_one_tenant_do_not_go_before_those_of_another() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    let now = producer.active_orders(&[]).await.body()["resume"].clone();
    let resume = other.active_orders(&[]).await.body()["resume"].clone();
    let words: Vec<_> = now.as_str().expect("a position").split('.').collect();
    let [form, tenant, start, xid, at, whole] = words[..] else { panic!("{words:?}") };
    let at = i64::from_str_radix(at, 16).expect("a number");
    let answered = Arc::new(AtomicUsize::new(0));
    let ask = |earlier: usize| {
        let at = at - i64::try_from(earlier).expect("fits");
        let resume = format!("{form}.{tenant}.{start}.{xid}.{at:x}.{whole}");
        let (producer, answered) = (producer.clone(), answered.clone());
        tokio::spawn(async move {
            let reply = producer.active_orders(&[("Resume", &resume)]).await;
            assert_eq!(reply.status, 200, "{}", reply.body());
            answered.fetch_add(1, Ordering::SeqCst);
        })
    };
    let flood: Vec<_> = (0..FLOOD).map(ask).collect();
    until("the first answer", || async { (answered.load(Ordering::SeqCst) > 0).then_some(()) })
        .await;
    let before = answered.load(Ordering::SeqCst);
    let reply = other.active_orders(&[("Resume", resume.as_str().expect("a position"))]).await;
    let after = answered.load(Ordering::SeqCst);
    assert_eq!(reply.status, 200, "{}", reply.body());
    println!(
        "{before} of the flood were answered before the query was sent, {after} by its answer"
    );
    assert!(after < FLOOD, "all of the flood went first");
    for query in flood {
        query.await.expect("an answer");
    }
    fleet.finish().await;
}
