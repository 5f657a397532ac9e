//! A payment is its payer's and its cart's owner's; what a gateway says is the gateway's.

use brigade_tests::paying::result;
use serde_json::{Value, json};

use super::{done, fleet_with, forbidden, is, join, team_cart};
use crate::prices::with_roles;

#[tokio::test]
async fn s7_02_a_payment_is_bound_and_cancelled_by_its_payer_and_the_owner() {
    let (fleet, producer, [ada, bob, cid, eve]) = fleet_with(["ada", "bob", "cid", "eve"]).await;
    let secret = team_cart(&ada, "ada", "c1").await;
    for (who, name) in [(&bob, "bob"), (&cid, "cid")] {
        done(who, "cart/c1/join", join(name, &secret)).await;
    }
    let pay = |amount: i64| json!({"target": {"cart": "c1"}, "method": "card", "amount": amount});
    for target in ["c1", "none"] {
        let pay = json!({"target": {"cart": target}, "method": "card"});
        forbidden(&eve, "payment/p1/initiate", pay).await;
    }
    // Whoever names no payer pays himself.
    done(&bob, "payment/p1/initiate", pay(100)).await;
    let cart = producer.view("cart.c1", None).await.body();
    assert_eq!(cart["payments"]["payments"][0]["user"], "bob");
    let (bind, cancel) = (json!({"transaction_id": "g1"}), json!({"reason": "mean"}));
    // Bob is at the gateway: nobody ends that, or has its word go elsewhere.
    for who in [&cid, &eve] {
        for payment in ["p1", "none"] {
            forbidden(who, &format!("payment/{payment}/bind_transaction"), bind.clone()).await;
            forbidden(who, &format!("payment/{payment}/cancel"), cancel.clone()).await;
        }
    }
    done(&bob, "payment/p1/bind_transaction", bind.clone()).await;
    done(&ada, "payment/p1/bind_transaction", bind.clone()).await;
    done(&cid, "payment/p2/initiate", pay(100)).await;
    done(&ada, "payment/p2/cancel", cancel.clone()).await;
    done(&cid, "payment/p3/initiate", pay(100)).await;
    done(&cid, "payment/p3/cancel", cancel.clone()).await;
    // One that a program has begun for a user is his.
    producer
        .done(
            "payment.p4.initiate",
            json!({
                "target": {"cart": "c1"}, "method": "card", "amount": 100, "user": "cid",
            }),
        )
        .await;
    forbidden(&bob, "payment/p4/cancel", cancel.clone()).await;
    let repeated = cid.post_as("k1", "payment/p4/cancel", &cancel).await;
    is(&repeated, 200, "ok");
    assert_eq!(cid.post_as("k1", "payment/p4/cancel", &cancel).await.bytes, repeated.bytes);
    done(&bob, "payment/p1/cancel", cancel).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s7_02_what_a_gateway_says_is_said_by_the_gateway_alone() {
    let (fleet, _, [ada]) = fleet_with(["ada"]).await;
    let http = fleet.http_client().await;
    team_cart(&ada, "ada", "c1").await;
    let pay = json!({"target": {"cart": "c1"}, "method": "card"});
    done(&ada, "payment/p1/initiate", pay).await;
    let captured = result("captured", "g1", 500);
    let staff = with_roles(&fleet, &http, "sam", &["staff"]).await;
    let manager = with_roles(&fleet, &http, "mia", &["staff", "manager"]).await;
    let gateway = with_roles(&fleet, &http, "psp", &["gateway"]).await;
    for who in [&ada, &staff, &manager] {
        let refused = who.post("payment/p1/record_result", &captured).await;
        is(&refused, 403, "not_allowed");
        assert_eq!(refused.body()["message"], "this needs the role gateway");
    }
    assert_eq!(ada.get("payment/p1", &[]).await.body()["core"]["status"], "initiated");
    done(&gateway, "payment/p1/bind_transaction", json!({"transaction_id": "g1"})).await;
    done(&gateway, "payment/p1/record_result", captured).await;
    assert_eq!(ada.get("payment/p1", &[]).await.body()["core"]["status"], "captured");
    // It may do nothing else with what is not its own.
    forbidden(&gateway, "payment/p1/cancel", json!({"reason": "r"})).await;
    forbidden(&gateway, "payment/p1/refund", json!({"reason": "r"})).await;
    forbidden(&gateway, "cart/c1/check_out", json!({"order_id": "o1"})).await;
    for path in ["cart/c1", "payment/p1", "active-orders"] {
        assert_eq!(gateway.get(path, &[]).await.status, 403, "{path}");
    }
    let order: Value = done(&ada, "cart/c1/check_out", json!({"order_id": "o1"})).await;
    assert_eq!(order["core"]["status"], "checked_out");
    fleet.finish().await;
}
