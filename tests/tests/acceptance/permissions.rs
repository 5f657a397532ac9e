//! Permissions are enforced by the servers.

use std::sync::Arc;

use brigade::infra::{Health, Metrics, Nats, nats::ConnectionMetrics, postgres::pool};
use brigade_contracts::WorkerName;
use brigade_tests::{Producer, TestFleet, until};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

/// Returns whether the server takes a publish of this user: a refusal comes as a violation, before
/// the answer to a later round trip.
async fn may_publish(fleet: &TestFleet, user: &str, subject: &str) -> bool {
    let health = Health::new(WorkerName::Edge);
    let metrics = Arc::new(Metrics::new());
    let nats = Nats::connect(&fleet.nats_url(user), &health, &metrics).await.unwrap();
    nats.client.publish(subject.to_owned(), "{}".into()).await.unwrap();
    // The server answers in order: by the second violation the first publish was judged too.
    nats.client.publish("nobody.may.publish.this", "".into()).await.unwrap();
    until("the server to judge", || async {
        let violations = health.violations();
        violations.iter().any(|v| v.contains("nobody.may.publish.this")).then_some(())
    })
    .await;
    let (counted, violations) = (
        metrics.group::<ConnectionMetrics>().violations.with_label_values(&["edge"]).get(),
        health.violations(),
    );
    assert_eq!(counted, violations.len() as u64);
    assert!(health.ready().unwrap_err().starts_with("permission violation"));
    // A user that is no worker has no echo either.
    !violations.iter().any(|violation| violation.contains(&format!("\"{subject}\"")))
}

#[tokio::test]
async fn a_worker_with_the_user_of_another_reports_it() {
    let fleet = TestFleet::empty().await;
    let connect = async |user: &str| {
        let (health, metrics) = (Health::new(WorkerName::OutboxRelay), Arc::default());
        let nats = Nats::connect(&fleet.nats_url(user), &health, &metrics).await.unwrap();
        (nats, health, metrics)
    };
    let replies_refused = |metrics: &Metrics| {
        metrics
            .group::<ConnectionMetrics>()
            .replies_refused
            .with_label_values(&["outbox-relay"])
            .get()
    };
    let (_nats, health, metrics) = connect("operator").await;
    until("the refusal of the echo", || async {
        let why = "the NATS user operator is not that of outbox-relay";
        health.ready().unwrap_err().contains(why).then_some(())
    })
    .await;
    assert_eq!((replies_refused(&metrics), health.violations().len()), (0, 1));
    // A sender that names a worker's own inbox does not know where its echo goes.
    let (nats, health, metrics) = connect("outbox-relay").await;
    for reply in ["_INBOX.t1-producer.x", "_INBOX.outbox-relay.x", "_INBOX.edge.alive.x"] {
        nats.client.publish(reply, "".into()).await.unwrap();
    }
    until("the refusals", || async { (replies_refused(&metrics) == 3).then_some(()) }).await;
    assert!(health.violations().is_empty());
}

#[tokio::test]
async fn a_key_a_stream_and_a_subject_are_taken_from_their_owner_alone() {
    let fleet = TestFleet::empty().await;
    let owners: &[(&str, &[&str])] = &[
        ("$KV.versions.t1.cart.c1", &["command-handler"]),
        ("$KV.views.t1.cart.c1.core", &["command-handler"]),
        ("$KV.views.t1.cart.c1.payments", &["payment-projector"]),
        ("$KV.active_orders.t1.o1.core", &["command-handler"]),
        ("$KV.active_orders.t1.o1.payment", &["payment-projector"]),
        ("$KV.attempts.command-handler.COMMANDS.1", &["command-handler"]),
        ("$KV.cart_locks.t1.ada", &["command-handler"]),
        ("$KV.user_state.t1.ada.auth", &["command-handler"]),
        ("$KV.user_state.t1.ada.subscription", &["user-state-projector"]),
        ("$KV.user_state.t1.ada.roles", &["user-state-projector"]),
        (
            "$JS.API.STREAM.MSG.GET.KV_user_state",
            &["command-handler", "operator", "user-state-projector"],
        ),
        ("q.t1.user.ada.validate", &["operator", "t1-producer"]),
        ("req.t1.user.ada.login", &["edge", "operator", "t1-producer"]),
        ("req.t1.user.ada.rebuild_cache", &["operator"]),
        ("timer.lock.t1.c1.7", &["command-handler"]),
        ("due.lock.t1.c1.7", &[]),
        ("req.t1.cart.c1.expire_lock", &["cart-lock-expiry", "operator"]),
        ("req.t1.cart.c1.abandon", &["cart-lock-expiry", "edge", "operator", "t1-producer"]),
        ("cmd.t1.cart.c1.abandon", &["command-handler", "operator", "t1-producer"]),
        ("evt.t1.cart.opened.00", &["outbox-relay"]),
        ("outcome.t1.k1", &["command-handler"]),
        ("outbox.wake", &["command-handler"]),
        ("dlq.edge.x", &["edge"]),
        ("cmd.t1.cart.c1.open", &["command-handler", "operator", "t1-producer"]),
        ("req.t2.cart.c1.open", &["edge", "operator", "t2-producer"]),
        ("req.t1.cart.c1.rebuild_cache", &["operator"]),
        ("cmd.t1.cart.c1.expire_lock", &["command-handler", "operator"]),
        ("req.t1.table.tb1.reconcile", &["operator"]),
        ("$JS.API.STREAM.PURGE.COMMANDS", &["command-handler", "operator"]),
        ("$JS.API.STREAM.MSG.DELETE.COMMANDS", &["command-handler", "operator"]),
        ("$JS.API.STREAM.MSG.DELETE.DLQ", &["command-handler", "operator"]),
        ("$JS.API.STREAM.MSG.DELETE.EVENTS", &["operator"]),
        ("$JS.API.STREAM.DELETE.EVENTS", &["operator"]),
        ("$JS.API.CONSUMER.DELETE.COMMANDS.command-handler", &["operator"]),
        (
            "$JS.API.CONSUMER.DELETE.COMMANDS.command-handler-overtaking-1",
            &["command-handler", "operator"],
        ),
        (
            "$JS.API.STREAM.MSG.GET.KV_views",
            &["command-handler", "edge", "operator", "payment-projector"],
        ),
        ("$JS.API.STREAM.MSG.GET.KV_cart_locks", &["command-handler", "operator"]),
        ("q.t1.products", &["operator", "t1-producer", "t1-watcher"]),
        ("req.t1.product.s1.set", &["edge", "operator", "t1-producer"]),
        ("q.t1.lock.ada", &["operator", "t1-producer"]),
        ("q.t1.view.cart.c1", &["operator", "t1-producer", "t1-watcher"]),
    ];
    let mut users: Vec<_> = ["operator", "t1-producer", "t1-watcher", "t2-producer"].to_vec();
    users.extend(["command-handler", "edge", "outbox-relay", "payment-projector"]);
    users.extend(["cart-lock-expiry", "user-state-projector"]);
    for (subject, owners) in owners {
        for user in &users {
            let may = may_publish(&fleet, user, subject).await;
            assert_eq!(may, owners.contains(user), "{user} on {subject}");
        }
    }
}

/// I-17: each part of each bucket can be written by its owner alone of all workers.
#[tokio::test]
async fn s1_03_each_part_is_written_by_its_owner_and_by_no_other_worker() {
    let fleet = TestFleet::empty().await;
    let (handler, payments, users) =
        (WorkerName::CommandHandler, WorkerName::PaymentProjector, WorkerName::UserStateProjector);
    for (key, owner) in [
        ("versions.t1.user.ada", handler),
        ("views.t1.cart.c1.core", handler),
        ("views.t1.cart.c1.payments", payments),
        ("views.t1.product.s1.core", handler),
        ("active_orders.t1.o1.core", handler),
        ("active_orders.t1.o1.payment", payments),
        ("cart_locks.t1.ada", handler),
        ("user_state.t1.ada.auth", handler),
        ("user_state.t1.ada.subscription", users),
        ("user_state.t1.ada.roles", users),
        ("versions.canary", WorkerName::CacheVerifier),
        ("cart_locks.canary", WorkerName::CacheVerifier),
    ] {
        for worker in WorkerName::ALL {
            let may = may_publish(&fleet, worker.as_str(), &format!("$KV.{key}")).await;
            assert_eq!(may, worker == owner, "{worker} on {key}");
        }
    }
}

#[tokio::test]
async fn a_tenant_hears_nothing_of_another_replies_included() {
    let fleet = TestFleet::start().await;
    for subject in [
        "live.*.t1.>",
        "live.>",
        "outcome.t1.>",
        "req.>",
        "evt.>",
        "_INBOX.>",
        "_INBOX.t1-producer.>",
    ] {
        let health = Health::new(WorkerName::Edge);
        let metrics = Arc::new(Metrics::new());
        let nats = Nats::connect(&fleet.nats_url("t2-producer"), &health, &metrics).await.unwrap();
        let _nothing = nats.client.subscribe(subject).await.unwrap();
        until(&format!("{subject} to be refused"), || async {
            (health.violations().len() == 1).then_some(())
        })
        .await;
    }
    // And its own commands cannot reach into the other's tenant.
    let stranger = Producer::new(fleet.connect("t2-producer").await, "t1");
    let open = json!({"kind": "menu", "owner": "eve", "currency": "EUR"}).to_string();
    let refused = stranger.client.request("req.t1.cart.c1.open", open.into());
    let refused = tokio::time::timeout(std::time::Duration::from_millis(200), refused).await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.is_err()));
    let carts: i64 = sqlx::query_scalar("select count(*) from brigade.carts")
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
    assert_eq!(carts, 0);
    fleet.finish().await;
}

#[tokio::test]
async fn a_postgres_role_has_what_its_worker_needs_and_nothing_else() {
    let fleet = TestFleet::empty().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables where table_schema = 'brigade'",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    for worker in WorkerName::ALL {
        for table in &tables {
            for privilege in ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"] {
                let has: bool = sqlx::query_scalar("select has_table_privilege($1, $2, $3)")
                    .bind(worker.as_str())
                    .bind(format!("brigade.{table}"))
                    .bind(privilege)
                    .fetch_one(&fleet.sql)
                    .await
                    .unwrap();
                let granted =
                    brigade_contracts::permissions::grants(worker).iter().any(|(object, p)| {
                        // Of single columns it is no privilege on the table.
                        *object == format!("TABLE {table}")
                            && p.split(", ").any(|granted| granted == privilege)
                    });
                assert_eq!(has, granted, "{worker}: {privilege} on {table}");
            }
        }
    }
    // Only one worker changes what the domain says.
    for table in [
        "carts",
        "orders",
        "order_people",
        "users",
        "login_failures",
        "cart_locks",
        "cart_lock_history",
        "named_people",
        "secret_key",
        "events",
        "command_inbox",
        "security_log",
    ] {
        for worker in WorkerName::ALL.into_iter().filter(|w| *w != WorkerName::CommandHandler) {
            let grants = brigade_contracts::permissions::grants(worker);
            let of_table = grants.iter().find(|(object, _)| *object == format!("TABLE {table}"));
            assert!(
                of_table.is_none_or(|(_, p)| *p == "SELECT" || p.starts_with("SELECT (")),
                "{worker} on {table}"
            );
        }
    }
    // Functions are for those alone who are named, and nobody makes anything.
    let routines: Vec<(String, String)> = sqlx::query_as(
        "select p.oid::regprocedure::text, r.rolname::text
         from pg_proc p cross join pg_roles r
         where p.pronamespace = 'brigade'::regnamespace and not r.rolsuper
           and has_function_privilege(r.oid, p.oid, 'execute')",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    for (routine, role) in &routines {
        let worker = WorkerName::ALL.into_iter().find(|worker| worker.as_str() == role);
        let grants = worker.map_or(&[][..], brigade_contracts::permissions::grants);
        let name = |object: &str| object.replace("FUNCTION ", "brigade.").replace(", ", ",");
        assert!(grants.iter().any(|(object, _)| name(object) == *routine), "{role}: {routine}");
    }
    let functions = |worker| {
        let grants: &[(&str, &str)] = brigade_contracts::permissions::grants(worker);
        grants.iter().filter(|(object, _)| object.starts_with("FUNCTION")).count()
    };
    assert_eq!(routines.len(), WorkerName::ALL.into_iter().map(functions).sum::<usize>());
    let makers: i64 = sqlx::query_scalar(
        "select count(*) from pg_roles r cross join (values ('public'), ('brigade')) as s (name)
         where not r.rolsuper and r.rolname <> 'pg_database_owner'
           and has_schema_privilege(r.oid, s.name, 'create')",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(makers, 0);
}

/// The role of edge, which faces the internet, on the real database.
#[tokio::test]
async fn no_worker_but_the_one_that_decides_reads_a_hash_of_a_password_or_token() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let password = "correct horse";
    let register = json!({"email": "ada@example.org", "profile_id": "p1", "password": password});
    assert_eq!(producer.send("user.ada.register", register).await.status, 201);
    let login = json!({"email": "ada@example.org", "password": password});
    let session = producer.send("user.ada.login", login).await;
    let token = session.body()["data"]["access_token"].clone();
    let hashes: Vec<String> = sqlx::query_scalar(
        "select column_name::text from information_schema.columns
         where table_schema = 'brigade' and table_name = 'users'
           and (column_name like '%hash%' or column_name = 'rotated_by')",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(hashes.len(), 6, "{hashes:?}");
    let others = WorkerName::ALL.into_iter().filter(|w| *w != WorkerName::CommandHandler);
    for worker in others {
        let role = pool(&fleet.database.worker_url(worker), worker, 1).unwrap();
        let columns = hashes.iter().map(String::as_str).chain(["*", "u", "row_to_json(u)"]);
        for column in columns {
            let select = format!("select {column} from brigade.users u");
            let refused = sqlx::raw_sql(AssertSqlSafe(select)).execute(&role).await.unwrap_err();
            let code = refused.as_database_error().and_then(|error| error.code());
            assert_eq!(code.as_deref(), Some("42501"), "{worker}: {column}");
        }
        if !matches!(worker, WorkerName::Edge | WorkerName::CacheVerifier) {
            continue;
        }
        let told: String = sqlx::query_scalar(
            "select body from brigade.read_users(array['t1'], array['ada'], '{}')",
        )
        .fetch_one(&role)
        .await
        .unwrap();
        assert!(told.contains("ada@example.org") && !told.contains("$argon2id$"), "{told}");
        let stored: Value = sqlx::query_scalar("select to_jsonb(u) from brigade.users u")
            .fetch_one(&fleet.sql)
            .await
            .unwrap();
        for hash in hashes.iter().filter_map(|column| stored[column].as_str()) {
            assert!(!told.contains(hash), "{hash}: {told}");
        }
    }
    // Nor does any other table that they may read have one.
    let elsewhere: i64 = sqlx::query_scalar(
        "select count(*)
         from (select payload::text as body from brigade.events
               union all select outcome::text from brigade.command_inbox) s
         join brigade.users u on strpos(s.body, u.password_hash) > 0
              or strpos(s.body, u.access_hash) > 0 or strpos(s.body, u.refresh_hash) > 0
              or strpos(s.body, u.session_hash) > 0",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(elsewhere, 0);
    // And edge tells the right token from a wrong one.
    for (token, status) in [(token, 200), (json!("ada.wrong"), 401)] {
        let payload = json!({"access_token": token}).to_string();
        let answer = producer.request("q.t1.user.ada.validate", &[], payload.as_bytes()).await;
        assert_eq!(answer.map(|answer| answer.status), Some(status));
    }
    fleet.finish().await;
}
