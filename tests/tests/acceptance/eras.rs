//! S6-02: Postgres loses commits, in a failover or a restore.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use brigade_contracts::EraVersion;
use brigade_tests::{Producer, Reply, TestFleet, check, producer::placed, until};
use serde_json::{Value, json};

use crate::{healing::until_healed, standby::demote};

/// A copy of the data of the fleet's own Postgres.
pub struct Backup {
    data: PathBuf,
    copy: tempfile::TempDir,
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp");
    assert!(copied.success());
}

impl Backup {
    /// Takes it of a Postgres that is stopped for it.
    pub async fn take(fleet: &mut TestFleet) -> Self {
        let data = fleet.postgres().log().parent().expect("a folder").join("data");
        let copy_dir = tempfile::tempdir().expect("a folder");
        fleet.postgres_mut().stop().await;
        copy(&data, &copy_dir.path().join("data"));
        fleet.postgres_mut().restart().await.expect("it comes back");
        Self { data, copy: copy_dir }
    }

    /// Makes a new primary of it: what was committed since is lost.
    pub async fn restore(&self, fleet: &mut TestFleet) {
        fleet.postgres_mut().stop().await;
        fs::remove_dir_all(&self.data).expect("removed");
        copy(&self.copy.path().join("data"), &self.data);
        demote(fleet);
        fleet.postgres_mut().restart().await.expect("a standby");
        until("the promotion", || async {
            sqlx::query("select pg_promote()").execute(&fleet.sql).await.ok()
        })
        .await;
    }
}

/// Waits until the buckets were emptied for the era, and healed.
pub async fn until_reset(fleet: &TestFleet) {
    until("the reset", || async {
        let done = "select reset_at is not null from brigade.eras order by era desc limit 1";
        let done: bool = sqlx::query_scalar(done).fetch_one(&fleet.sql).await.ok()?;
        done.then_some(())
    })
    .await;
    until_healed(fleet).await;
}

async fn decided(producer: &Producer, id: &str, what: &str, payload: Value) -> Reply {
    producer.send_until_decided(id, what, payload).await
}

/// Queries a view until edge is there to answer.
pub async fn view(producer: &Producer, what: &str, headers: &[(&str, &str)]) -> Reply {
    until("an answer", || async {
        let query = format!("q.t1.view.{what}");
        let reply = producer.request(&query, headers, b"").await?;
        (reply.status != 503).then_some(reply)
    })
    .await
}

/// The version of an answer, or of an outcome.
fn version(reply: &Reply) -> EraVersion {
    let of_outcome = || reply.body()["etag"].as_str().map(str::to_owned);
    let etag = reply.etag.clone().or_else(of_outcome).expect("a tag");
    EraVersion::of_etag(&etag).expect("a version")
}

fn order() -> Value {
    placed(&[("Soup", 500, 1)])
}

#[tokio::test]
async fn s6_02_a_restore_that_loses_commits_begins_an_era() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    fleet.settings.http.open = true;
    fleet.run_all().await;
    let (http, producer) = (fleet.http_client().await, fleet.producer().await);
    producer.team_cart("c1", "ada", &["bob"]).await;
    fleet.until_idle().await;
    let backup = Backup::take(&mut fleet).await;

    // What is lost: a member, an order by each door.
    let eve = decided(&producer, "k1", "cart.c1.join", json!({"user": "eve"})).await;
    assert_eq!((eve.status, version(&eve)), (200, 3.into()));
    decided(&producer, "k2", "order.o1.place", order()).await;
    assert_eq!(producer.publish("k3", "order.o2.place", order()).await["status"], 201);
    let list = producer.active_orders(&[]).await;
    let list_tag = list.etag.expect("a tag");
    let mut screen = http.stream("cart/c1/stream", None).await.expect("a stream");
    assert_eq!(screen.next().await.expect("an event").kind, "snapshot");
    fleet.until_idle().await;

    backup.restore(&mut fleet).await;
    let old = [("If-None-Match", "\"3\""), ("Min-Version", "3"), ("Wait-Ms", "20000")];
    let found = view(&producer, "cart.c1", &old).await;
    assert_eq!((found.status, version(&found).version), (200, 2), "{}", found.body());
    assert!(!version(&found).era.is_first());
    // Who knows no more than a number means the present era, who names one means that.
    for other in ["3", "2-2"] {
        let refused = join_at(&producer, &format!("k4-{other}"), other).await;
        assert_eq!(refused.code(), "version_mismatch");
    }
    let joined = join_at(&producer, "k5", &version(&found).to_string()).await;
    assert_eq!((joined.status, version(&joined).version), (200, 3), "{}", joined.body());
    // The same number is another version.
    let found = view(&producer, "cart.c1", &old).await;
    assert_eq!((found.status, version(&found)), (200, version(&joined)), "{}", found.body());
    assert!(found.body()["core"]["members"].to_string().contains("zoe"));
    assert!(!found.body()["core"]["members"].to_string().contains("eve"));
    let known = found.etag.clone().expect("a tag");
    assert_eq!(view(&producer, "cart.c1", &[("If-None-Match", &known)]).await.status, 304);
    // A number alone is waited for by who has the present version.
    let next = [("If-None-Match", known.as_str()), ("Min-Version", "4"), ("Wait-Ms", "1")];
    assert_eq!(view(&producer, "cart.c1", &next).await.status, 504);
    let gone = [("Min-Version", "1"), ("Wait-Ms", "20000")];
    assert_eq!(view(&producer, "order.o1", &gone).await.status, 404);

    // A durable command that was decided by a lost commit is decided again.
    until("the order of the durable command", || async {
        (view(&producer, "order.o2", &[]).await.status == 200).then_some(())
    })
    .await;
    let orders = producer.active_orders(&[("If-None-Match", &list_tag)]).await;
    assert_eq!(orders.status, 200);
    assert!(!String::from_utf8_lossy(&orders.bytes).contains("\"o1\""));
    // The screen is told everything anew.
    loop {
        let event = match screen.next().await {
            Some(event) => event,
            None => {
                let last = screen.id.clone();
                screen = until("a stream", || async {
                    http.stream("cart/c1/stream", Some(&last)).await.ok()
                })
                .await;
                continue;
            }
        };
        if event.data["core"]["members"].to_string().contains("zoe") {
            break;
        }
        assert!(event.kind == "reset" || event.kind == "change", "{event:?}");
    }

    until_reset(&fleet).await;
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;
    for key in ["t1.order.o1.core", "t1.order.o1.payments"] {
        assert_eq!(check::kv(&fleet, "views", key).await, None, "{key}");
    }
    let stored = check::kv(&fleet, "views", "t1.cart.c1.core").await.expect("a value");
    assert_eq!(stored["era"], json!(version(&found).era), "{stored}");
}

/// Lets `zoe` join, if the cart has this version.
async fn join_at(producer: &Producer, id: &str, version: &str) -> Reply {
    until("a decision", || async {
        let headers = [("Command-Id", id), ("Expected-Version", version)];
        let join = json!({"user": "zoe"}).to_string();
        let reply = producer.request("req.t1.cart.c1.join", &headers, join.as_bytes()).await?;
        (reply.status != 503).then_some(reply)
    })
    .await
}

/// As for a restore that shows as no other server: the owner says that there was one.
#[tokio::test]
async fn s6_02_an_era_that_is_begun_by_hand_is_one_too() {
    let mut fleet = TestFleet::empty().await;
    fleet.run_all().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &["bob"]).await;
    fleet.until_idle().await;
    let before = producer.view("cart.c1", None).await;

    let may = "select has_function_privilege('edge', 'brigade.begin_era(boolean)', 'execute')";
    let may: bool = sqlx::query_scalar(may).fetch_one(&fleet.sql).await.expect("an answer");
    assert!(!may, "workers begin none by hand");
    // As in a backup from before the first checkpoint.
    let forget = sqlx::query("delete from brigade.stream_checkpoints");
    forget.execute(&fleet.sql).await.expect("deleted");
    let begin = || sqlx::query_scalar::<_, i64>("select brigade.begin_era(true)");
    let first = begin().fetch_one(&fleet.sql).await.expect("begun");
    let second = begin().fetch_one(&fleet.sql).await.expect("begun");
    assert!(second > first && first > 1);
    let again: Vec<i64> = futures::future::join_all((0..4).map(|_| async {
        let present = sqlx::query_scalar("select brigade.current_era()");
        present.fetch_one(&fleet.sql).await.expect("an era")
    }))
    .await;
    assert_eq!(again, [second; 4]);

    let after = until("the era", || async {
        let view = view(&producer, "cart.c1", &[]).await;
        (version(&view).era != version(&before).era).then_some(view)
    })
    .await;
    assert_eq!(after.bytes, before.bytes);
    assert_eq!(after.etag, Some(format!("\"{}-{second}\"", version(&before).version)));
    until_reset(&fleet).await;
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;
    fleet.finish().await;
}
