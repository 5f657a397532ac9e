//! S8-08: the files of `deploy/`. What they say of each other and of the program is checked always,
//! each is given to its own tool where this machine has it, and the processes of compose take a paid
//! order on real servers.

mod agreement;
mod tools;

use std::time::Instant;

use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer,
    deploy::document,
    production::{Production, start_all},
    until,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn s8_08_the_processes_of_compose_take_a_first_paid_order() {
    let production = Production::start().await;
    let compose = document("deploy/compose/compose.yaml");
    let services = &compose["services"];
    // `prepare` puts the authority into the folder of each.
    for worker in WorkerName::ALL {
        production.authority.write(&production.path(&format!("/etc/brigade/{worker}/ca.pem")));
    }
    let began = Instant::now();
    // Each is started again while it fails.
    for job in ["migrate", "provision"] {
        assert_eq!(services[job]["restart"], "on-failure:10");
        until("the job to be done", || async {
            let ended = production.run_service(&services[job]).await;
            ended.status.success().then_some(())
        })
        .await;
    }
    let start = |worker: WorkerName| production.start_service(&services[worker.as_str()]);
    let mut processes = start_all(start).await;
    for (worker, process) in WorkerName::ALL.iter().zip(&processes) {
        let probed = production.probe(&services[worker.as_str()], &process.admin()).await;
        assert!(probed.status.success(), "{worker}: {probed:?}");
    }
    let add = "tenants add demo --accounts /etc/nats/accounts --json";
    let backend = production.json(add).await["users"][0].clone();
    assert_eq!(backend["user"], "demo-backend");
    production.push_accounts().await;
    let [user, password] = ["user", "password"].map(|field| backend[field].as_str().expect("text"));
    let client = production.connect(user, password).await.expect("connected");
    a_guest_pays(&Producer::new(client, "demo")).await;
    println!("a paid order {} ms after the first job began", began.elapsed().as_millis());

    let edge = processes.pop().expect("edge");
    let admin = edge.admin();
    edge.kill().await;
    let probed = production.probe(&services["edge"], &admin).await;
    let said = String::from_utf8_lossy(&probed.stderr);
    assert!(!probed.status.success() && said.contains("/readyz"), "{probed:?}");
}

/// From the cart to the paid order.
async fn a_guest_pays(backend: &Producer) {
    let open = json!({ "kind": "menu", "owner": "ada", "currency": "EUR" });
    // The first answer may be that nobody listens yet.
    let opened = backend.send_until_decided("first", "cart.c1.open", open).await;
    assert_eq!(opened.status, 201, "{}", opened.body());
    backend.done("cart.c1.add_item", brigade_tests::producer::item("i1", 1000, 1)).await;
    backend.initiate("p1", "c1").await;
    assert_eq!(backend.result("p1", "captured", "tx1", 1000).await.status, 200);
    backend.done("cart.c1.check_out", json!({ "order_id": "o1" })).await;
    assert_eq!(backend.paid_and_due("order.o1").await, (json!(1000), json!(0)));
}
