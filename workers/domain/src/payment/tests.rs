use serde_json::{Value, json};

use crate::testing::{Case, Step, add, check, initiate, open, result, step, wait, with};

const MINUTE: u64 = 60_000;

fn cart() -> Vec<Step> {
    vec![open("c1", "menu", "ada", None), add("c1", "i1", 1000)]
}

fn of_cart() -> Value {
    json!({"cart": "c1"})
}

fn of_order() -> Value {
    json!({"order": "o1"})
}

fn order() -> Vec<Step> {
    let items = json!([{"sku": "s", "name": "n", "unit_price": 1000, "quantity": 1}]);
    vec![step("order.o1.place", json!({"currency": "EUR", "items": items}))]
}

fn pay(payment: &str, more: Value) -> Step {
    with(initiate(payment, &of_cart()), more)
}

fn paying() -> Vec<Step> {
    [cart(), vec![pay("p1", json!({}))]].concat()
}

fn captured() -> Vec<Step> {
    [paying(), vec![result("p1", "captured", "g1", 1000)]].concat()
}

/// The steps of `paying`, and more.
fn then(more: impl IntoIterator<Item = Step>) -> Vec<Step> {
    paying().into_iter().chain(more).collect()
}

fn cancel(payment: &str) -> Step {
    step(&format!("payment.{payment}.cancel"), json!({"reason": "r"}))
}

fn refund(amount: Value) -> Step {
    step("payment.p1.refund", json!({"amount": amount, "reason": "cold"}))
}

fn in_currency(currency: &str, step: Step) -> Step {
    with(step, json!({"currency": currency}))
}

fn check_out() -> Step {
    step("cart.c1.check_out", json!({"order_id": "o1"}))
}

fn initiating() -> Vec<Case> {
    let team = vec![open("c1", "team", "ada", None), add("c1", "i1", 1000)];
    let locked = [cart(), vec![crate::testing::lock("c1")]].concat();
    let halves = [cart(), vec![pay("p1", json!({"amount": 500}))]].concat();
    vec![
        (
            "a cart: takes the lock; the amount is what is due",
            cart(),
            pay("p1", json!({})),
            (201, "created"),
            vec![
                ("/payment.p1/amount", json!(1000)),
                ("/payment.p1/status", json!("initiated")),
                ("/payment.p1/bound", json!(false)),
                ("/outcome/data/token", json!(1)),
                ("/outcome/data/amount", json!(1000)),
                ("/cart.c1/payments/payments/0/id", json!("p1")),
                ("/lock.ada/state", json!("held")),
                (
                    "/events",
                    json!(["cart.c1 locked", "payment.p1 initiated", "cart.c1 payment_changed"]),
                ),
                ("/outcome/effects", json!(["cart.c1@4", "payment.p1@1", "lock.ada@1"])),
            ],
        ),
        (
            "an order: no lock",
            order(),
            initiate("p1", &of_order()),
            (201, "created"),
            vec![("/outcome/effects", json!(["payment.p1@1", "order.o1@2"]))],
        ),
        (
            "joins the lock that the token names",
            locked.clone(),
            pay("p1", json!({"token": 1})),
            (201, "created"),
            vec![("/lock.ada/version", json!(1))],
        ),
        (
            "without the token, no payment open: locked",
            locked.clone(),
            pay("p1", json!({})),
            (423, "cart_locked"),
            vec![
                ("/audit", json!(["ada refused Some(1)"])),
                ("/outcome/retry_after_ms", json!(10 * MINUTE)),
            ],
        ),
        ("with an old token", locked, pay("p1", json!({"token": 7})), (409, "stale_token"), vec![]),
        (
            "with a token and no lock",
            cart(),
            pay("p1", json!({"token": 7})),
            (409, "stale_token"),
            vec![("/audit", json!(["ada refused None"]))],
        ),
        (
            "joins the lock that another open payment holds; at most what is due less what is open",
            halves.clone(),
            pay("p2", json!({})),
            (201, "created"),
            vec![("/payment.p2/amount", json!(500)), ("/outcome/data/token", json!(1))],
        ),
        (
            "more than is left",
            halves,
            pay("p2", json!({"amount": 501})),
            (409, "amount_too_high"),
            vec![],
        ),
        (
            "a cart without items",
            vec![open("c1", "menu", "ada", None)],
            pay("p1", json!({})),
            (422, "cart_empty"),
            vec![("/audit", json!(["ada refused None"]))],
        ),
        ("an amount of 0", cart(), pay("p1", json!({"amount": 0})), (409, "nothing_due"), vec![]),
        ("nothing left", paying(), pay("p2", json!({})), (409, "nothing_due"), vec![]),
        ("twice", paying(), pay("p1", json!({})), (409, "already_exists"), vec![]),
        (
            "no such cart",
            vec![],
            pay("p1", json!({})),
            (404, "cart_not_found"),
            vec![("/audit", json!([]))],
        ),
        ("no such order", vec![], initiate("p1", &of_order()), (404, "order_not_found"), vec![]),
        (
            "a closed cart",
            [cart(), vec![check_out()]].concat(),
            pay("p1", json!({})),
            (409, "cart_closed"),
            vec![],
        ),
        (
            "a cancelled order",
            [order(), vec![step("order.o1.cancel", json!({"reason": "r"}))]].concat(),
            initiate("p1", &of_order()),
            (409, "order_cancelled"),
            vec![],
        ),
        (
            "a stranger in a team cart",
            team,
            pay("p1", json!({"user": "eve"})),
            (422, "not_a_member"),
            vec![],
        ),
        (
            "what is open under an earlier lock does not count",
            then([wait(40 * MINUTE)]),
            pay("p2", json!({})),
            (201, "created"),
            vec![("/payment.p2/amount", json!(1000)), ("/outcome/data/token", json!(2))],
        ),
    ]
}

fn capturing() -> Vec<Case> {
    let surplus = then([result("p1", "captured", "g1", 1200)]);
    let to_order = [cart(), vec![pay("p1", json!({"order_id": "o1"}))]].concat();
    let taken = [order(), to_order.clone()].concat();
    let no_table = [cart(), vec![pay("p1", json!({"order_id": "o1", "table_id": "t9"}))]].concat();
    let changed = then([wait(40 * MINUTE), add("c1", "i2", 500)]);
    let team = vec![
        open("c1", "team", "ada", None),
        add("c1", "i1", 1000),
        step("cart.c1.join", json!({"user": "bob"})),
        pay("p1", json!({"user": "bob", "amount": 400})),
    ];
    let halves = [cart(), vec![pay("p1", json!({"amount": 500})), pay("p2", json!({}))]].concat();
    let on_order = [order(), vec![initiate("p1", &of_order())]].concat();
    vec![
        (
            "captured: applied, and the lock goes with the last payment open on it",
            paying(),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("captured")),
                ("/cart.c1/payments/paid", json!(1000)),
                ("/cart.c1/payments/payments/0/status", json!("captured")),
                ("/cart.c1/core/locked_until", json!(null)),
                ("/lock.ada/reason", json!("captured")),
                ("/tasks", json!({})),
                (
                    "/events",
                    json!(["payment.p1 captured", "cart.c1 payment_changed", "cart.c1 unlocked"]),
                ),
                ("/audit", json!(["ada released Some(1)"])),
            ],
        ),
        (
            "captured: others are still open on the lock",
            halves.clone(),
            result("p1", "captured", "g1", 500),
            (200, "ok"),
            vec![("/lock.ada/state", json!("held")), ("/cart.c1/payments/paid", json!(500))],
        ),
        (
            "captured: a member's standing rises",
            team,
            result("p1", "captured", "g1", 400),
            (200, "ok"),
            vec![(
                "/cart.c1/payments/members/1",
                json!({"user": "bob", "committed": null, "paid": 400}),
            )],
        ),
        (
            "captured: an order is paid",
            on_order.clone(),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/order.o1/payments/paid", json!(1000)),
                ("/order.o1/payments/paid_at", json!("2026-01-02T03:04:05.678Z")),
                (
                    "/events",
                    json!(["payment.p1 captured", "order.o1 payment_changed", "order.o1 paid"]),
                ),
            ],
        ),
        (
            "less than asked: the rest stays due",
            on_order,
            result("p1", "captured", "g1", 400),
            (200, "ok"),
            vec![
                ("/payment.p1/amount", json!(400)),
                ("/order.o1/payments/paid", json!(400)),
                ("/order.o1/payments/paid_at", json!(null)),
                ("/tasks", json!({})),
            ],
        ),
        (
            "surplus: a refund task over it",
            paying(),
            result("p1", "captured", "g1", 1200),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("captured")),
                ("/payment.p1/amount", json!(1200)),
                ("/cart.c1/payments/paid", json!(1000)),
                ("/tasks", json!({"p1.1": "200 open"})),
                ("/outcome/data/refund_tasks/0/reason", json!("surplus")),
                (
                    "/events",
                    json!([
                        "payment.p1 captured",
                        "payment.p1 refund_requested",
                        "cart.c1 payment_changed",
                        "cart.c1 unlocked"
                    ]),
                ),
            ],
        ),
        (
            "another currency: late_captured and a refund task over all",
            paying(),
            in_currency("USD", result("p1", "captured", "g1", 1000)),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("late_captured")),
                ("/payment.p1/currency", json!("USD")),
                ("/cart.c1/payments/paid", json!(0)),
                ("/tasks", json!({"p1.1": "1000 open"})),
                ("/outcome/data/refund_tasks/0/reason", json!("other_currency")),
                ("/lock.ada/state", json!("released")),
            ],
        ),
        (
            "after the lock, contents unchanged: applied",
            then([wait(40 * MINUTE)]),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("captured")),
                ("/cart.c1/payments/paid", json!(1000)),
            ],
        ),
        (
            "after the lock, contents changed: late",
            changed,
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("late_captured")),
                ("/tasks", json!({"p1.1": "1000 open"})),
                ("/cart.c1/payments/paid", json!(0)),
            ],
        ),
        (
            "after failed: late",
            then([result("p1", "failed", "g1", 0)]),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("late_captured")),
                ("/tasks", json!({"p1.1": "1000 open"})),
            ],
        ),
        (
            "after cancelled: late",
            then([cancel("p1")]),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![("/payment.p1/status", json!("late_captured"))],
        ),
        (
            "after unknown: applied",
            then([result("p1", "unknown", "g1", 0)]),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![("/payment.p1/status", json!("captured"))],
        ),
        (
            "a cart that was checked out meanwhile: goes to its order",
            then([step("cart.c1.check_out", json!({"order_id": "o1", "token": 1}))]),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/order.o1/payments/paid", json!(1000)),
                ("/cart.c1/payments/paid", json!(0)),
                ("/outcome/effects", json!(["payment.p1@2", "order.o1@3"])),
            ],
        ),
        (
            "with order_id the capture that pays fully checks out, in the same transaction",
            to_order,
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/outcome/data/check_out", json!("ok")),
                ("/cart.c1/core/status", json!("checked_out")),
                ("/order.o1/payments/paid", json!(1000)),
                ("/order.o1/payments/payments/0/id", json!("p1")),
                (
                    "/events",
                    json!([
                        "payment.p1 captured",
                        "cart.c1 payment_changed",
                        "cart.c1 unlocked",
                        "cart.c1 checked_out",
                        "order.o1 placed",
                        "order.o1 paid"
                    ]),
                ),
            ],
        ),
        (
            "a check-out never refuses a capture: the id is taken",
            taken,
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/outcome/data/check_out", json!("order_exists")),
                ("/cart.c1/core/status", json!("open")),
                ("/cart.c1/payments/paid", json!(1000)),
                ("/lock.ada/state", json!("released")),
            ],
        ),
        (
            "a check-out never refuses a capture: no such table",
            no_table,
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/outcome/data/check_out", json!("table_not_found")),
                ("/cart.c1/payments/paid", json!(1000)),
            ],
        ),
        (
            "a later check-out carries over what is paid",
            captured(),
            check_out(),
            (200, "ok"),
            vec![
                ("/order.o1/payments/paid", json!(1000)),
                ("/events", json!(["cart.c1 checked_out", "order.o1 placed", "order.o1 paid"])),
            ],
        ),
        (
            "again, the same transaction",
            captured(),
            result("p1", "captured", "g1", 1000),
            (200, "already_captured"),
            vec![("/events", json!([])), ("/outcome/effects", json!([]))],
        ),
        (
            "again, another transaction: a refund task over its amount",
            captured(),
            result("p1", "captured", "g2", 300),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("captured")),
                ("/tasks", json!({"p1.1": "300 open"})),
                ("/events", json!(["payment.p1 refund_requested"])),
                ("/cart.c1/payments/paid", json!(1000)),
            ],
        ),
        (
            "again, the other transaction once more",
            [captured(), vec![result("p1", "captured", "g2", 300)]].concat(),
            result("p1", "captured", "g2", 300),
            (200, "already_captured"),
            vec![("/events", json!([]))],
        ),
        (
            "a second task has the next number",
            [surplus, vec![]].concat(),
            result("p1", "captured", "g2", 300),
            (200, "ok"),
            vec![("/tasks", json!({"p1.1": "200 open", "p1.2": "300 open"}))],
        ),
        (
            "captured nothing",
            paying(),
            result("p1", "captured", "g1", 0),
            (422, "nothing_captured"),
            vec![],
        ),
        (
            "no such payment yet",
            cart(),
            result("p1", "captured", "g1", 1000),
            (503, "payment_not_there_yet"),
            vec![],
        ),
        (
            "cash is confirmed",
            [cart(), vec![pay("p1", json!({"method": "cash"}))]].concat(),
            step("payment.p1.confirm_cash", json!({"amount": 1000, "currency": "EUR"})),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("captured")),
                ("/events/0", json!("payment.p1 cash_confirmed")),
                ("/cart.c1/payments/paid", json!(1000)),
            ],
        ),
        (
            "cash is confirmed once",
            [
                cart(),
                vec![
                    pay("p1", json!({"method": "cash"})),
                    step("payment.p1.confirm_cash", json!({"amount": 1000, "currency": "EUR"})),
                ],
            ]
            .concat(),
            step("payment.p1.confirm_cash", json!({"amount": 1000, "currency": "EUR"})),
            (200, "already_captured"),
            vec![],
        ),
        (
            "a card is not cash",
            paying(),
            step("payment.p1.confirm_cash", json!({"amount": 1000, "currency": "EUR"})),
            (409, "not_cash"),
            vec![],
        ),
        (
            "a cart with money paid is frozen",
            captured(),
            add("c1", "i2", 1),
            (409, "cart_paid"),
            vec![],
        ),
        (
            "a cart with money paid is not abandoned",
            captured(),
            step("cart.c1.abandon", json!({"reason": "r"})),
            (409, "cart_paid"),
            vec![],
        ),
    ]
}

fn failing() -> Vec<Case> {
    let halves = [cart(), vec![pay("p1", json!({"amount": 500})), pay("p2", json!({}))]].concat();
    let bound = then([step("payment.p1.bind_transaction", json!({"transaction_id": "g2"}))]);
    let ignored = |name, given, when| -> Case {
        (
            name,
            given,
            when,
            (200, "ignored"),
            vec![("/events", json!([])), ("/outcome/effects", json!([]))],
        )
    };
    let on_order = [order(), vec![initiate("p1", &of_order())]].concat();
    vec![
        (
            "failed: the lock goes with the last payment open on it",
            paying(),
            result("p1", "failed", "g1", 0),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("failed")),
                ("/lock.ada/reason", json!("failed")),
                ("/cart.c1/payments/payments/0/status", json!("failed")),
                (
                    "/events",
                    json!(["payment.p1 failed", "cart.c1 payment_changed", "cart.c1 unlocked"]),
                ),
            ],
        ),
        (
            "failed: another is still open on it",
            halves,
            result("p1", "failed", "g1", 0),
            (200, "ok"),
            vec![("/lock.ada/state", json!("held"))],
        ),
        (
            "unknown: the lock stays",
            paying(),
            result("p1", "unknown", "g1", 0),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("unknown")),
                ("/lock.ada/state", json!("held")),
                ("/cart.c1/payments/payments/0/status", json!("unknown")),
            ],
        ),
        (
            "unknown, then failed",
            then([result("p1", "unknown", "g1", 0)]),
            result("p1", "failed", "g1", 0),
            (200, "ok"),
            vec![("/payment.p1/status", json!("failed"))],
        ),
        ignored("failed after captured", captured(), result("p1", "failed", "g1", 0)),
        ignored("unknown after captured", captured(), result("p1", "unknown", "g1", 0)),
        ignored(
            "failed for a transaction that is no longer bound",
            bound.clone(),
            result("p1", "failed", "g1", 0),
        ),
        (
            "failed for the bound one",
            bound,
            result("p1", "failed", "g2", 0),
            (200, "ok"),
            vec![("/payment.p1/status", json!("failed"))],
        ),
        (
            "cancel",
            paying(),
            cancel("p1"),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("cancelled")),
                ("/lock.ada/reason", json!("cancelled")),
            ],
        ),
        (
            "cancel while unknown",
            then([result("p1", "unknown", "g1", 0)]),
            cancel("p1"),
            (409, "result_unknown"),
            vec![],
        ),
        ("cancel what has ended", captured(), cancel("p1"), (409, "payment_ended"), vec![]),
        (
            "bind_transaction: also on the lock",
            paying(),
            step("payment.p1.bind_transaction", json!({"transaction_id": "g2"})),
            (200, "ok"),
            vec![
                ("/payment.p1/bound", json!(true)),
                ("/lock.ada/version", json!(2)),
                ("/audit", json!(["ada bound Some(1)"])),
                ("/events", json!(["cart.c1 transaction_bound", "payment.p1 transaction_bound"])),
            ],
        ),
        (
            "bind_transaction of what has ended",
            captured(),
            step("payment.p1.bind_transaction", json!({"transaction_id": "g2"})),
            (409, "payment_ended"),
            vec![],
        ),
        (
            "an order with an open payment is not cancelled",
            on_order.clone(),
            step("order.o1.cancel", json!({"reason": "r"})),
            (409, "payment_open"),
            vec![],
        ),
        (
            "an order with anything paid is not cancelled",
            [on_order, vec![result("p1", "captured", "g1", 1)]].concat(),
            step("order.o1.cancel", json!({"reason": "r"})),
            (409, "order_paid"),
            vec![],
        ),
    ]
}

fn refunding() -> Vec<Case> {
    let surplus = then([result("p1", "captured", "g1", 1200), result("p1", "captured", "g2", 300)]);
    let foreign =
        [captured(), vec![in_currency("USD", result("p1", "captured", "g2", 700))]].concat();
    vec![
        (
            "in full: refunded; what is paid stays",
            [captured(), vec![check_out()]].concat(),
            refund(json!(null)),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("refunded")),
                ("/payment.p1/refunded_amount", json!(1000)),
                ("/order.o1/payments/refunded", json!(1000)),
                ("/order.o1/payments/paid", json!(1000)),
                ("/order.o1/payments/paid_at", json!("2026-01-02T03:04:05.678Z")),
                ("/events", json!(["payment.p1 refunded", "order.o1 payment_changed"])),
            ],
        ),
        (
            "a part only raises refunded_amount",
            captured(),
            refund(json!(400)),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("captured")),
                ("/payment.p1/refunded_amount", json!(400)),
                ("/cart.c1/payments/refunded", json!(400)),
            ],
        ),
        (
            "more than was captured",
            captured(),
            refund(json!(1001)),
            (409, "amount_too_high"),
            vec![],
        ),
        ("what was not captured", paying(), refund(json!(null)), (409, "not_captured"), vec![]),
        (
            "twice",
            [captured(), vec![refund(json!(null))]].concat(),
            refund(json!(null)),
            (409, "nothing_to_refund"),
            vec![],
        ),
        (
            "tasks are done oldest first, as far as it covers whole ones",
            surplus.clone(),
            refund(json!(499)),
            (200, "ok"),
            vec![("/tasks", json!({"p1.1": "200 done", "p1.2": "300 open"}))],
        ),
        (
            "all that came in, by a second transaction too",
            surplus.clone(),
            refund(json!(1500)),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("refunded")),
                ("/tasks", json!({"p1.1": "200 done", "p1.2": "300 done"})),
            ],
        ),
        (
            "several refunds together cover a task",
            [surplus, vec![refund(json!(300)), refund(json!(199))]].concat(),
            refund(json!(1)),
            (200, "ok"),
            vec![
                ("/tasks", json!({"p1.1": "200 done", "p1.2": "300 done"})),
                ("/outcome/data/refund_tasks/0/refunded", json!(300)),
                ("/payment.p1/refunded_amount", json!(500)),
            ],
        ),
        (
            "of another currency by a second transaction: in that currency",
            foreign.clone(),
            with(refund(json!(300)), json!({"currency": "USD"})),
            (200, "ok"),
            vec![
                ("/tasks", json!({"p1.1": "700 open"})),
                ("/outcome/data/refund_tasks/0/refunded", json!(300)),
                ("/data/0/currency", json!("USD")),
                ("/payment.p1/status", json!("captured")),
                ("/payment.p1/refunded_amount", json!(0)),
                ("/cart.c1/payments/refunded", json!(0)),
            ],
        ),
        (
            "by default all that is left of that currency",
            [foreign.clone(), vec![with(refund(json!(300)), json!({"currency": "USD"}))]].concat(),
            with(refund(json!(null)), json!({"currency": "USD"})),
            (200, "ok"),
            vec![
                ("/tasks", json!({"p1.1": "700 done"})),
                ("/data/0/amount", json!(400)),
                ("/payment.p1/status", json!("captured")),
            ],
        ),
        (
            "no more of that currency than came in",
            foreign.clone(),
            with(refund(json!(701)), json!({"currency": "USD"})),
            (409, "amount_too_high"),
            vec![],
        ),
        (
            "a currency that nothing came in of",
            foreign,
            with(refund(json!(null)), json!({"currency": "GBP"})),
            (409, "nothing_to_refund"),
            vec![],
        ),
        (
            "of a late capture",
            then([cancel("p1"), result("p1", "captured", "g1", 1000)]),
            refund(json!(null)),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("refunded")),
                ("/tasks", json!({"p1.1": "1000 done"})),
            ],
        ),
        (
            "of another currency: never summed with the cart's",
            then([in_currency("USD", result("p1", "captured", "g1", 900))]),
            refund(json!(null)),
            (200, "ok"),
            vec![
                ("/payment.p1/refunded_amount", json!(900)),
                ("/cart.c1/payments/refunded", json!(0)),
                ("/cart.c1/payments/payments/0/amount", json!(1000)),
            ],
        ),
    ]
}

fn settle(settlement: Value) -> Step {
    step("payment.p1.settle", json!({"settlement": settlement, "reason": "by hand"}))
}

fn task(id: &str) -> Step {
    settle(json!({"refund_task": id}))
}

fn was_captured(transaction: &str, amount: i64) -> Step {
    settle(json!({
        "captured": {"transaction_id": transaction, "amount": amount, "currency": "EUR"},
    }))
}

fn settling_tasks() -> Vec<Case> {
    let surplus = then([result("p1", "captured", "g1", 1200), result("p1", "captured", "g2", 300)]);
    let late = then([cancel("p1"), result("p1", "captured", "g1", 1000)]);
    vec![
        (
            "a task by its id, whatever is older",
            surplus.clone(),
            task("p1.2"),
            (200, "ok"),
            vec![
                ("/tasks", json!({"p1.1": "200 open", "p1.2": "300 done"})),
                ("/outcome/data/refund_tasks/0/refunded", json!(300)),
                ("/outcome/data/refund_tasks/0/settled", json!(300)),
                ("/payment.p1/refunded_amount", json!(300)),
                ("/cart.c1/payments/refunded", json!(300)),
                ("/events", json!(["payment.p1 refund_settled", "cart.c1 payment_changed"])),
                ("/data/0/amount", json!(300)),
            ],
        ),
        (
            "what is left of it",
            [surplus.clone(), vec![refund(json!(150))]].concat(),
            task("p1.1"),
            (200, "ok"),
            vec![
                ("/data/0/amount", json!(50)),
                ("/outcome/data/refund_tasks/0/refunded", json!(200)),
                ("/outcome/data/refund_tasks/0/settled", json!(50)),
            ],
        ),
        (
            "the last money that was left: refunded",
            late.clone(),
            task("p1.1"),
            (200, "ok"),
            vec![("/payment.p1/status", json!("refunded"))],
        ),
        (
            "again",
            [late.clone(), vec![task("p1.1")]].concat(),
            task("p1.1"),
            (200, "already_settled"),
            vec![("/events", json!([]))],
        ),
        (
            "after it nothing more is given back",
            [late.clone(), vec![task("p1.1")]].concat(),
            refund(json!(null)),
            (409, "nothing_to_refund"),
            vec![],
        ),
        (
            "in another currency",
            [captured(), vec![in_currency("USD", result("p1", "captured", "g2", 700))]].concat(),
            task("p1.1"),
            (200, "ok"),
            vec![
                ("/data/0/currency", json!("USD")),
                ("/payment.p1/refunded_amount", json!(0)),
                ("/payment.p1/status", json!("captured")),
            ],
        ),
        ("one that is not there", late, task("p1.2"), (404, "refund_task_not_found"), vec![]),
        ("one of another payment", surplus, task("p2.1"), (404, "refund_task_not_found"), vec![]),
        ("a payment that is not there", cart(), task("p1.1"), (404, "not_found"), vec![]),
    ]
}

fn settling_results() -> Vec<Case> {
    let unknown = || then([result("p1", "unknown", "g1", 0)]);
    let settled = |step: Step| [unknown(), vec![step]].concat();
    let failed = || settle(json!("failed"));
    vec![
        (
            "the money came in: as captured",
            unknown(),
            was_captured("g1", 1000),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("captured")),
                ("/cart.c1/payments/paid", json!(1000)),
                ("/lock.ada/state", json!("released")),
                ("/data/0/result", json!("captured")),
                ("/data/0/reason", json!("by hand")),
                ("/data/0/applied", json!(1000)),
            ],
        ),
        (
            "what the gateway then says of it changes nothing",
            settled(was_captured("g1", 1000)),
            result("p1", "captured", "g1", 1000),
            (200, "already_captured"),
            vec![("/events", json!([]))],
        ),
        (
            "again",
            settled(was_captured("g1", 1000)),
            was_captured("g1", 1000),
            (200, "already_captured"),
            vec![("/events", json!([]))],
        ),
        (
            "it did not",
            unknown(),
            failed(),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("failed")),
                ("/lock.ada/state", json!("released")),
                ("/data/0/reason", json!("by hand")),
            ],
        ),
        ("again, it did not", settled(failed()), failed(), (200, "already_settled"), vec![]),
        (
            "if it did after all, it is owed back",
            settled(failed()),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![
                ("/payment.p1/status", json!("late_captured")),
                ("/tasks", json!({"p1.1": "1000 open"})),
            ],
        ),
        ("nothing came in", unknown(), was_captured("g1", 0), (422, "nothing_captured"), vec![]),
        ("what is not unknown", paying(), failed(), (409, "not_unknown"), vec![]),
        ("what was captured", captured(), failed(), (409, "not_unknown"), vec![]),
        ("by another", captured(), was_captured("g2", 1000), (409, "not_unknown"), vec![]),
        ("what failed", settled(failed()), was_captured("g1", 1), (409, "not_unknown"), vec![]),
    ]
}

fn refunded_at_the_gateway() -> Vec<Case> {
    let told = |transaction: &str, amount| result("p1", "refunded", transaction, amount);
    let twice = || [captured(), vec![result("p1", "captured", "g2", 1000)]].concat();
    vec![
        (
            "all so far",
            captured(),
            told("g1", 400),
            (200, "ok"),
            vec![
                ("/payment.p1/refunded_amount", json!(400)),
                ("/data/0/amount", json!(400)),
                ("/data/0/reason", json!("refunded by the gateway")),
            ],
        ),
        (
            "more later: the difference",
            [captured(), vec![told("g1", 400)]].concat(),
            told("g1", 1000),
            (200, "ok"),
            vec![("/data/0/amount", json!(600)), ("/payment.p1/status", json!("refunded"))],
        ),
        (
            "an earlier word that comes late",
            [captured(), vec![told("g1", 400)]].concat(),
            told("g1", 300),
            (200, "ignored"),
            vec![("/events", json!([]))],
        ),
        (
            "what was recorded by a refund already",
            [captured(), vec![refund(json!(400))]].concat(),
            told("g1", 400),
            (200, "ignored"),
            vec![],
        ),
        (
            "what a person settled already",
            [twice(), vec![task("p1.1")]].concat(),
            told("g2", 1000),
            (200, "ignored"),
            vec![
                ("/payment.p1/refunded_amount", json!(1000)),
                ("/payment.p1/status", json!("captured")),
            ],
        ),
        (
            "what a refund recorded already, by whichever transaction",
            [twice(), vec![refund(json!(1000))]].concat(),
            told("g1", 1000),
            (200, "ignored"),
            vec![("/events", json!([])), ("/payment.p1/refunded_amount", json!(1000))],
        ),
        (
            "what a refund recorded is told of once",
            [twice(), vec![refund(json!(400)), told("g1", 400)]].concat(),
            told("g2", 300),
            (200, "ok"),
            vec![("/data/0/amount", json!(300)), ("/payment.p1/refunded_amount", json!(700))],
        ),
        (
            "a refund of less than is told of: the difference",
            [twice(), vec![refund(json!(400))]].concat(),
            told("g2", 1000),
            (200, "ok"),
            vec![("/data/0/amount", json!(600)), ("/tasks", json!({"p1.1": "1000 done"}))],
        ),
        (
            "of two transactions each by itself",
            [twice(), vec![told("g2", 1000)]].concat(),
            told("g1", 250),
            (200, "ok"),
            vec![
                ("/payment.p1/refunded_amount", json!(1250)),
                ("/tasks", json!({"p1.1": "1000 done"})),
            ],
        ),
        (
            "of a transaction never more than it captured, whatever others did",
            [captured(), vec![result("p1", "captured", "g2", 300)]].concat(),
            told("g2", 1300),
            (200, "ok"),
            vec![
                ("/payment.p1/refunded_amount", json!(300)),
                ("/payment.p1/status", json!("captured")),
                ("/data/0/amount", json!(300)),
            ],
        ),
        (
            "once all of it, nothing more of it",
            [captured(), vec![result("p1", "captured", "g2", 300), told("g2", 1300)]].concat(),
            told("g2", 2000),
            (200, "ignored"),
            vec![],
        ),
        (
            "never more than came in",
            captured(),
            told("g1", 5000),
            (200, "ok"),
            vec![("/payment.p1/refunded_amount", json!(1000))],
        ),
        (
            "in another currency than it captured",
            captured(),
            in_currency("USD", told("g1", 400)),
            (409, "other_currency"),
            vec![],
        ),
        (
            "before its capture",
            paying(),
            told("g1", 400),
            (503, "payment_not_captured_yet"),
            vec![],
        ),
        ("before its payment", cart(), told("g1", 400), (503, "payment_not_there_yet"), vec![]),
    ]
}

#[test]
fn each_rule_of_payments_holds() {
    check([initiating(), capturing(), failing(), refunding()].concat());
    check([settling_tasks(), settling_results(), refunded_at_the_gateway()].concat());
}

#[test]
fn what_a_person_settles_stands_in_the_security_log() {
    use crate::{security::SecurityKind, testing::Fixture};
    let kinds = |steps: Vec<Step>| {
        let fixture = Fixture::new(&steps);
        fixture.batch.security().iter().map(|entry| entry.kind).collect::<Vec<_>>()
    };
    let unknown = || result("p1", "unknown", "g1", 0);
    let settled = kinds(then([unknown(), settle(json!("failed")), settle(json!("failed"))]));
    assert_eq!(settled, [SecurityKind::PaymentSettled]);
    let surplus = kinds(then([unknown(), was_captured("g1", 1200), task("p1.1")]));
    let expected =
        [SecurityKind::PaymentSettled, SecurityKind::RefundRequested, SecurityKind::RefundSettled];
    assert_eq!(surplus, expected);
}
