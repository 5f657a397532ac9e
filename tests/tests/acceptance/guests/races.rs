//! Whether a customer may do something is decided with the cart locked: nobody gets in, or stays in,
//! because he could when his request came.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{done, fleet_with, join, team_cart, wanted};

/// Returns the versions of a cart's events of this kind by this actor, or by anybody.
async fn versions(fleet: &brigade_tests::TestFleet, kind: &str, actor: Option<&str>) -> Vec<i64> {
    let versions = "select version from brigade.events
                    where aggregate = 'cart' and id = 'c1' and type = $1
                      and actor = coalesce($2, actor)
                    order by version";
    let versions = sqlx::query_scalar(versions).bind(kind).bind(actor);
    versions.fetch_all(&fleet.sql).await.expect("versions")
}

#[tokio::test]
async fn s7_02_a_member_who_leaves_puts_nothing_in_afterwards() {
    let (fleet, _, [ada, bob]) = fleet_with(["ada", "bob"]).await;
    let secret = team_cart(&ada, "ada", "c1").await;
    for round in 0..5 {
        done(&bob, "cart/c1/join", join("bob", &secret)).await;
        let adds = join_all((0..20).map(|n| {
            let (bob, item) = (&bob, wanted(&format!("r{round}-{n}"), "soup", 1));
            async move { bob.post("cart/c1/add_item", &item).await.status }
        }));
        let leave = json!({"user": "bob"});
        let (adds, left) = tokio::join!(adds, bob.post("cart/c1/leave", &leave));
        assert_eq!(left.status, 200, "{}", left.body());
        assert!(adds.iter().all(|status| [200, 403].contains(status)), "{adds:?}");
        let left = *versions(&fleet, "member_left", Some("bob")).await.last().expect("he left");
        let added = versions(&fleet, "item_added", Some("bob")).await;
        assert!(added.iter().all(|version| *version < left), "{added:?} after {left}");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn s7_02_of_those_who_race_a_new_secret_nobody_joins_after_it_by_the_old_one() {
    const NAMES: [&str; 9] = ["ada", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"];
    let (fleet, _, users) = fleet_with(NAMES).await;
    let old = team_cart(&users[0], "ada", "c1").await;
    let joins = join_all(NAMES.iter().zip(&users).skip(1).map(|(name, user)| {
        let payload = join(name, &old);
        async move { user.post("cart/c1/join", &payload).await }
    }));
    let (joins, new) = tokio::join!(joins, done(&users[0], "cart/c1/invite", json!({})));
    let invited = versions(&fleet, "invited", None).await;
    let joined = versions(&fleet, "member_joined", None).await;
    assert_eq!(invited.len(), 1);
    assert!(joined.iter().all(|version| *version < invited[0]), "{joined:?} after {invited:?}");
    for answer in &joins {
        let known = [(200, "ok"), (403, "wrong_secret")];
        assert!(known.contains(&(answer.status, answer.code().as_str())), "{}", answer.body());
    }
    let done_in_time = joins.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(done_in_time, joined.len());
    // Those who came too late come in by the new one.
    for ((name, user), answer) in NAMES.iter().zip(&users).skip(1).zip(&joins) {
        if answer.status == 403 {
            done(user, "cart/c1/join", join(name, &new["secret"])).await;
        }
    }
    let members = users[0].get("cart/c1", &[]).await.body()["core"]["members"].clone();
    assert_eq!(members.as_array().map(Vec::len), Some(NAMES.len()));
    fleet.finish().await;
}

/// An opening that is repeated at once, from two tabs or by a proxy, gives one secret.
#[tokio::test]
async fn s7_02_an_opening_that_is_sent_many_times_at_once_tells_one_secret() {
    let (mut fleet, _, [ada, bob]) = fleet_with(["ada", "bob"]).await;
    // Two handlers, so that repetitions meet in different processes too.
    fleet.run(brigade_contracts::WorkerName::CommandHandler).await;
    let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"});
    let answers = join_all((0..12).map(|_| ada.post_as("k1", "cart/c1/open", &open))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.bytes), (201, &answers[0].bytes));
    }
    let secret: Value = answers[0].body()["data"]["secret"].clone();
    done(&bob, "cart/c1/join", join("bob", &secret)).await;
    fleet.finish().await;
}
