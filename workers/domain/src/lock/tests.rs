use serde_json::json;

use crate::testing::{
    Case, Fixture, Step, add, check, initiate, lock, open, result, step, wait, with,
};

const MINUTE: u64 = 60_000;

fn cart() -> Vec<Step> {
    vec![open("c1", "team", "ada", None), add("c1", "i1", 1000)]
}

fn locked() -> Vec<Step> {
    [cart(), vec![lock("c1")]].concat()
}

fn with_payment() -> Vec<Step> {
    let pay = with(initiate("p1", &json!({"cart": "c1"})), json!({"token": 1}));
    [locked(), vec![pay]].concat()
}

/// A session's cart, locked, and a cart of the user that the session will turn out to be.
fn session() -> Vec<Step> {
    vec![
        open("c1", "menu", "s1", Some("s1")),
        add("c1", "i1", 1000),
        open("c2", "ticket", "s1", Some("s1")),
        open("c3", "menu", "ada", None),
        add("c3", "i1", 500),
        lock("c1"),
    ]
}

fn unlock(token: i64) -> Step {
    step("cart.c1.unlock", json!({"token": token, "reason": "declined"}))
}

fn expire(token: i64) -> Step {
    step("cart.c1.expire_lock", json!({"token": token}))
}

fn extend(seconds: u32) -> Step {
    step("cart.c1.extend", json!({"token": 1, "seconds": seconds}))
}

fn bind(token: i64) -> Step {
    step("cart.c1.bind_transaction", json!({"token": token, "transaction_id": "gw"}))
}

fn check_out(more: serde_json::Value) -> Step {
    with(step("cart.c1.check_out", json!({"order_id": "o1"})), more)
}

fn claim(cart: &str, user: &str) -> Step {
    step(&format!("cart.{cart}.claim"), json!({"user": user}))
}

const UNTIL: &str = "2026-01-02T03:14:05.678Z";
/// python3: hashlib.sha256(json.dumps({"currency": "EUR", "items": [{"item_id": "i1", "sku": "s",
/// "unit_price": 1000, "quantity": 1}]}, sort_keys=True, separators=(",", ":")).encode())
const FINGERPRINT: &str = "f5cd614825c2152ee5d6277650e25e2700824a6def89ae3d6b9f6cd5f4b68cce";

fn taking() -> Vec<Case> {
    let other = [vec![open("c2", "ticket", "ada", None), add("c2", "i1", 1)], locked()].concat();
    vec![
        (
            "lock tells token, deadline, fingerprint and amount",
            cart(),
            lock("c1"),
            (200, "ok"),
            vec![
                ("/outcome/data/token", json!(1)),
                ("/outcome/data/expires_at", json!(UNTIL)),
                ("/outcome/data/fingerprint", json!(FINGERPRINT)),
                ("/outcome/data/amount", json!(1000)),
                ("/outcome/effects", json!(["cart.c1@3", "lock.ada@1"])),
                ("/cart.c1/core/locked_until", json!(UNTIL)),
                ("/lock.ada/state", json!("held")),
                ("/events", json!(["cart.c1 locked"])),
                ("/audit", json!(["ada acquired Some(1)"])),
            ],
        ),
        (
            "lock and validate: the same contents",
            cart(),
            with(lock("c1"), json!({"fingerprint": FINGERPRINT})),
            (200, "ok"),
            vec![],
        ),
        (
            "lock and validate: a difference tells the new fingerprint, and is written down",
            cart(),
            with(lock("c1"), json!({"fingerprint": "00"})),
            (409, "cart_changed"),
            vec![
                ("/outcome/data", json!({"fingerprint": FINGERPRINT})),
                ("/audit", json!(["ada refused None"])),
                ("/events", json!([])),
            ],
        ),
        (
            "an empty cart is not locked",
            vec![open("c1", "menu", "ada", None)],
            lock("c1"),
            (422, "cart_empty"),
            vec![],
        ),
        (
            "one lock per owner over all carts and kinds; the loser learns when, not whose",
            other.clone(),
            lock("c2"),
            (423, "cart_locked"),
            vec![
                ("/outcome/retry_after_ms", json!(10 * MINUTE)),
                ("/outcome/data", json!({})),
                ("/audit", json!(["ada refused Some(1)"])),
                ("/lock.ada/version", json!(1)),
            ],
        ),
        (
            "another cart of the owner is locked too",
            other,
            add("c2", "i2", 1),
            (423, "cart_locked"),
            vec![],
        ),
        (
            "the next lock has a higher token",
            [locked(), vec![unlock(1)]].concat(),
            lock("c1"),
            (200, "ok"),
            vec![("/outcome/data/token", json!(2)), ("/lock.ada/version", json!(3))],
        ),
    ]
}

fn frozen() -> Vec<Case> {
    let refused = |name, when| -> Case {
        let given = [
            vec![open("c1", "team", "ada", None), add("c1", "i1", 1000)],
            vec![step("cart.c1.join", json!({"user": "bob"})), lock("c1"), wait(MINUTE)],
        ]
        .concat();
        let then = vec![("/outcome/retry_after_ms", json!(9 * MINUTE)), ("/events", json!([]))];
        (name, given, when, (423, "cart_locked"), then)
    };
    let free = |name, when| -> Case { (name, locked(), when, (200, "ok"), vec![]) };
    vec![
        refused("locked: join", step("cart.c1.join", json!({"user": "cid"}))),
        refused("locked: leave", step("cart.c1.leave", json!({"user": "bob"}))),
        refused("locked: add_item", add("c1", "i2", 1)),
        refused(
            "locked: set_item",
            step("cart.c1.set_item", json!({"item_id": "i1", "quantity": 2})),
        ),
        refused("locked: remove_item", step("cart.c1.remove_item", json!({"item_id": "i1"}))),
        refused("locked: check_out without the token", check_out(json!({}))),
        refused("locked: abandon", step("cart.c1.abandon", json!({"reason": "r"}))),
        free("locked: commit_cod is free", step("cart.c1.commit_cod", json!({"user": "ada"}))),
    ]
}

fn holding() -> Vec<Case> {
    vec![
        (
            "bind_transaction keeps the deadline",
            [locked(), vec![wait(MINUTE)]].concat(),
            bind(1),
            (200, "ok"),
            vec![
                ("/lock.ada/expires_at", json!(UNTIL)),
                ("/lock.ada/version", json!(2)),
                ("/events", json!(["cart.c1 transaction_bound"])),
                ("/audit", json!(["ada bound Some(1)"])),
            ],
        ),
        (
            "extend adds to the deadline",
            locked(),
            extend(60),
            (200, "ok"),
            vec![
                ("/outcome/data/expires_at", json!("2026-01-02T03:15:05.678Z")),
                ("/cart.c1/core/locked_until", json!("2026-01-02T03:15:05.678Z")),
                ("/audit", json!(["ada extended Some(1)"])),
            ],
        ),
        (
            "extend ends 30 min after acquisition",
            [locked(), vec![wait(MINUTE)]].concat(),
            extend(9999),
            (200, "ok"),
            vec![("/outcome/data/expires_at", json!("2026-01-02T03:34:05.678Z"))],
        ),
        (
            "unlock",
            locked(),
            unlock(1),
            (200, "ok"),
            vec![
                ("/cart.c1/core/locked_until", json!(null)),
                ("/lock.ada/state", json!("released")),
                ("/lock.ada/reason", json!("declined")),
                ("/events", json!(["cart.c1 unlocked"])),
                ("/audit", json!(["ada released Some(1)"])),
            ],
        ),
        (
            "unlock while a payment is open",
            with_payment(),
            unlock(1),
            (409, "payment_open"),
            vec![],
        ),
        ("an old token does not unlock", locked(), unlock(0), (409, "stale_token"), vec![]),
        ("an old token does not bind", locked(), bind(0), (409, "stale_token"), vec![]),
        (
            "an old token does not extend",
            [locked(), vec![unlock(1), lock("c1")]].concat(),
            extend(1),
            (409, "stale_token"),
            vec![],
        ),
        ("an old token does not expire", locked(), expire(0), (409, "stale_token"), vec![]),
        ("nothing is held: the token is stale", cart(), unlock(1), (409, "stale_token"), vec![]),
        (
            "check_out with the token releases the lock",
            locked(),
            check_out(json!({"token": 1})),
            (200, "ok"),
            vec![
                ("/cart.c1/core/status", json!("checked_out")),
                ("/cart.c1/core/order_id", json!("o1")),
                ("/order.o1/core/cart_id", json!("c1")),
                ("/order.o1/core/total", json!(1000)),
                ("/lock.ada/state", json!("released")),
                ("/events", json!(["cart.c1 unlocked", "cart.c1 checked_out", "order.o1 placed"])),
                ("/outcome/effects", json!(["cart.c1@5", "order.o1@1", "lock.ada@2"])),
            ],
        ),
        (
            "check_out with an old token",
            locked(),
            check_out(json!({"token": 0})),
            (409, "stale_token"),
            vec![],
        ),
        (
            "check_out of an empty cart",
            vec![open("c1", "menu", "ada", None)],
            check_out(json!({})),
            (422, "cart_empty"),
            vec![],
        ),
        (
            "check_out into a table that is not there",
            cart(),
            check_out(json!({"table_id": "t9"})),
            (404, "table_not_found"),
            vec![],
        ),
        (
            "one order per id",
            [
                vec![open("c2", "menu", "bob", None), add("c2", "i1", 1)],
                vec![step("cart.c2.check_out", json!({"order_id": "o1"}))],
                cart(),
            ]
            .concat(),
            check_out(json!({})),
            (409, "order_exists"),
            vec![],
        ),
        (
            "one order per cart",
            [cart(), vec![check_out(json!({}))]].concat(),
            step("cart.c1.check_out", json!({"order_id": "o2"})),
            (409, "cart_closed"),
            vec![],
        ),
        (
            "abandon with a payment open, its lock gone at the cap",
            [
                with_payment(),
                vec![wait(40 * MINUTE), step("cart.c1.commit_cod", json!({"user": "ada"}))],
            ]
            .concat(),
            step("cart.c1.abandon", json!({"reason": "r"})),
            (409, "payment_open"),
            vec![("/events", json!(["cart.c1 lock_expired"]))],
        ),
    ]
}

fn expiring() -> Vec<Case> {
    vec![
        (
            "expire_lock before the deadline",
            [locked(), vec![wait(10 * MINUTE - 1)]].concat(),
            expire(1),
            (409, "not_due"),
            vec![("/outcome/retry_after_ms", json!(1))],
        ),
        (
            "expire_lock at the deadline",
            [locked(), vec![wait(10 * MINUTE)]].concat(),
            expire(1),
            (200, "ok"),
            vec![
                ("/lock.ada/state", json!("released")),
                ("/cart.c1/core/locked_until", json!(null)),
                ("/events", json!(["cart.c1 lock_expired"])),
                ("/audit", json!(["ada expired Some(1)"])),
            ],
        ),
        (
            "with an open payment it extends by the method's time-out",
            [with_payment(), vec![wait(10 * MINUTE)]].concat(),
            expire(1),
            (200, "ok"),
            vec![
                ("/outcome/data/expires_at", json!("2026-01-02T03:24:05.678Z")),
                ("/events", json!(["cart.c1 lock_extended"])),
            ],
        ),
        (
            "up to the cap",
            [with_payment(), vec![wait(25 * MINUTE)]].concat(),
            expire(1),
            (200, "ok"),
            vec![("/outcome/data/expires_at", json!("2026-01-02T03:34:05.678Z"))],
        ),
        (
            "at the cap it expires",
            [with_payment(), vec![wait(30 * MINUTE)]].concat(),
            expire(1),
            (200, "ok"),
            vec![("/lock.ada/state", json!("released"))],
        ),
        (
            "a command that meets an overdue lock decides its expiry first",
            [locked(), vec![wait(10 * MINUTE)]].concat(),
            add("c1", "i2", 1),
            (200, "ok"),
            vec![
                ("/events", json!(["cart.c1 lock_expired", "cart.c1 item_added"])),
                ("/outcome/effects", json!(["cart.c1@5", "lock.ada@2"])),
            ],
        ),
        (
            "even if it is refused",
            [locked(), vec![wait(10 * MINUTE)]].concat(),
            unlock(1),
            (409, "stale_token"),
            vec![
                ("/events", json!(["cart.c1 lock_expired"])),
                ("/lock.ada/state", json!("released")),
                ("/outcome/version", json!(4)),
                ("/outcome/effects", json!([])),
            ],
        ),
        (
            "it is another cart's that holds it",
            [vec![open("c2", "menu", "ada", None)], locked(), vec![wait(10 * MINUTE)]].concat(),
            add("c2", "i2", 1),
            (200, "ok"),
            vec![("/events", json!(["cart.c1 lock_expired", "cart.c2 item_added"]))],
        ),
        (
            "a late result of a lock that expired at the cap",
            [with_payment(), vec![wait(40 * MINUTE)]].concat(),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![("/cart.c1/payments/paid", json!(1000)), ("/lock.ada/reason", json!("expired"))],
        ),
    ]
}

fn claiming() -> Vec<Case> {
    let with_both = [session(), vec![lock("c3")]].concat();
    vec![
        (
            "claim moves the open carts and the lock, deadline and token kept",
            session(),
            claim("c2", "ada"),
            (200, "ok"),
            vec![
                ("/cart.c1/core/owner", json!("ada")),
                ("/cart.c2/core/owner", json!("ada")),
                ("/lock.s1/state", json!("released")),
                ("/lock.s1/reason", json!("claimed")),
                ("/lock.ada/state", json!("held")),
                ("/lock.ada/token", json!(1)),
                ("/lock.ada/expires_at", json!(UNTIL)),
                ("/events", json!(["cart.c1 claimed", "cart.c2 claimed"])),
                ("/audit", json!(["s1 released Some(1)", "ada acquired Some(1)"])),
                ("/outcome/effects", json!(["cart.c1@4", "cart.c2@2", "lock.ada@1", "lock.s1@2"])),
            ],
        ),
        (
            "with a live lock on both sides nothing changes",
            with_both,
            claim("c1", "ada"),
            (423, "cart_locked"),
            vec![("/events", json!([])), ("/cart.c1/core/owner", json!("s1"))],
        ),
        (
            "the claimed lock is the user's to give back",
            [session(), vec![claim("c1", "ada")]].concat(),
            unlock(1),
            (200, "ok"),
            vec![("/lock.ada/state", json!("released")), ("/lock.ada/version", json!(2))],
        ),
        (
            "the user's other carts are under it",
            [session(), vec![claim("c1", "ada")]].concat(),
            add("c3", "i2", 1),
            (423, "cart_locked"),
            vec![],
        ),
        ("a cart without a session", cart(), claim("c1", "bob"), (409, "no_session"), vec![]),
        (
            "again by the same user",
            [session(), vec![claim("c1", "ada")]].concat(),
            claim("c1", "ada"),
            (200, "ok"),
            vec![("/events", json!([])), ("/outcome/effects", json!([]))],
        ),
        (
            "by another user",
            [session(), vec![claim("c1", "ada")]].concat(),
            claim("c1", "bob"),
            (409, "already_claimed"),
            vec![],
        ),
        (
            "the session as a member becomes the user, who was one already",
            vec![
                open("c1", "team", "s1", Some("s1")),
                step("cart.c1.join", json!({"user": "ada"})),
                with(add("c1", "i1", 7), json!({"user": "s1"})),
            ],
            claim("c1", "ada"),
            (200, "ok"),
            vec![
                ("/cart.c1/core/members", json!([{"user": "ada", "share": 7}])),
                ("/cart.c1/core/items/0/user", json!("ada")),
            ],
        ),
    ]
}

#[test]
fn each_rule_of_cart_locks_holds() {
    check([taking(), frozen(), holding(), expiring(), claiming()].concat());
}

#[test]
fn refusals_of_one_token_are_written_down_a_thousand_times_and_change_no_version() {
    let mut fixture = Fixture::new(&locked());
    for _ in 0..1010 {
        let (target, payload) = lock("c1");
        assert_eq!(fixture.send(&target, &payload).status, 423);
    }
    assert_eq!(fixture.batch.history().len(), 1001);
    let lock = fixture.batch.changed().find_map(crate::State::lock).unwrap();
    assert_eq!((lock.head.version, lock.refusals), (1, 1000));
}
