//! The same promises on a cluster of three nats-servers, every stream with three replicas.

use std::sync::atomic::Ordering;

use brigade_tests::{Town, check, workload::Load};

#[tokio::test]
async fn a_node_of_a_cluster_may_die_and_come_back_twice_under_load() {
    let mut town = Town::empty_on_a_cluster().await;
    town.run_all().await;
    let js = async_nats::jetstream::new(town.connect("operator").await);
    let views = js.get_stream("KV_views").await.unwrap();
    assert_eq!(views.cached_info().config.num_replicas, 3);
    let load = Load::start(&town, 4).await;
    for node in [0, 1] {
        load.until_done(load.done.load(Ordering::SeqCst) + 2).await;
        kill(&mut town, node).await;
        load.until_done(load.done.load(Ordering::SeqCst) + 4).await;
        restart(&mut town, node).await;
    }
    load.until_done(load.done.load(Ordering::SeqCst) + 4).await;
    load.stop().await;
    town.until_idle().await;
    check::invariants(&town).await;
}

async fn kill(town: &mut Town, node: usize) {
    match node {
        0 => town.nats.kill().await,
        node => town.others[node - 1].kill().await,
    }
}

async fn restart(town: &mut Town, node: usize) {
    let server = if node == 0 { &mut town.nats } else { &mut town.others[node - 1] };
    server.restart().await.expect("it comes back");
}
