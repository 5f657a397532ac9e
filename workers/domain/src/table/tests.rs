use brigade_contracts::{Aggregate, Timestamp};
use serde_json::{Value, json};

use crate::{
    BatchState, LockPolicy, Missing, State, Table,
    testing::{
        self, Case, Fixture, Step, add, address, check, initiate, open, result, start, step, token,
        with,
    },
};

fn register() -> Step {
    step("table.t1.register", json!({"label": "5", "seats": 4}))
}

fn open_turn(turn: &str) -> Step {
    step("table.t1.open_turn", json!({"turn_id": turn, "party_size": 2}))
}

fn close_turn(turn: &str) -> Step {
    step("table.t1.close_turn", json!({"turn_id": turn}))
}

fn status(status: &str) -> Step {
    step("table.t1.set_status", json!({"status": status}))
}

fn forced(reason: Value) -> Step {
    with(status("available"), json!({"force": true, "reason": reason}))
}

fn place(order: &str, more: Value) -> Step {
    let items = json!([{"sku": "s", "name": "n", "unit_price": 1000, "quantity": 1}]);
    with(step(&format!("order.{order}.place"), json!({"currency": "EUR", "items": items})), more)
}

fn at_table() -> Value {
    json!({"table_id": "t1"})
}

fn cancel(order: &str) -> Step {
    step(&format!("order.{order}.cancel"), json!({"reason": "r"}))
}

fn pay(payment: &str, order: &str) -> Vec<Step> {
    vec![initiate(payment, &json!({"order": order})), result(payment, "captured", "g1", 1000)]
}

/// A cart that `p1` pays, and then puts into order o1 at t1.
fn paying_cart() -> Vec<Step> {
    let placed = json!({"order_id": "o1", "table_id": "t1"});
    vec![
        open("c1", "menu", "ada", None),
        add("c1", "i1", 1000),
        with(initiate("p1", &json!({"cart": "c1"})), placed),
    ]
}

fn given(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    [register()].into_iter().chain(steps).collect()
}

fn seated(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    given([open_turn("u1")].into_iter().chain(steps))
}

/// A party that has ordered, o1.
fn ordered(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    seated([place("o1", at_table())].into_iter().chain(steps))
}

const STATUS: &str = "/table.t1/status";
const CLOSED: &str = "/turn.u1/closed";

fn turns() -> Vec<Case> {
    let no_party = step("table.t1.open_turn", json!({"turn_id": "u1"}));
    let other = step("table.t2.register", json!({"label": "6", "seats": 2}));
    vec![
        (
            "register",
            vec![],
            register(),
            (201, "created"),
            vec![
                (STATUS, json!("available")),
                ("/table.t1/open_turn", json!(null)),
                ("/events", json!(["table.t1 registered"])),
            ],
        ),
        ("register again", given([]), register(), (409, "already_exists"), vec![]),
        ("open_turn at no table", vec![], open_turn("u1"), (404, "not_found"), vec![]),
        (
            "a party sits down",
            given([]),
            open_turn("u1"),
            (200, "ok"),
            vec![
                (STATUS, json!("occupied")),
                ("/table.t1/open_turn/id", json!("u1")),
                ("/table.t1/open_turn/party_size", json!(2)),
                ("/table.t1/open_turn/opened_at", json!("2026-01-02T03:04:05.678Z")),
                ("/outcome/effects", json!(["table.t1@2", "turn.u1@1"])),
                ("/events", json!(["table.t1 turn_opened"])),
            ],
        ),
        (
            "of unknown size",
            given([]),
            no_party,
            (200, "ok"),
            vec![("/table.t1/open_turn/party_size", json!(null))],
        ),
        ("at a reserved table", given([status("reserved")]), open_turn("u1"), (200, "ok"), vec![]),
        (
            "out of service",
            given([status("out_of_service")]),
            open_turn("u1"),
            (409, "out_of_service"),
            vec![],
        ),
        ("a second party", seated([]), open_turn("u2"), (409, "turn_open"), vec![]),
        (
            "a turn of an id that was closed",
            seated([close_turn("u1")]),
            open_turn("u1"),
            (409, "turn_exists"),
            vec![],
        ),
        (
            "a turn of an id that is at another table",
            seated([other]),
            step("table.t2.open_turn", json!({"turn_id": "u1"})),
            (409, "turn_exists"),
            vec![],
        ),
        (
            "a party that ordered nothing goes",
            seated([]),
            close_turn("u1"),
            (200, "ok"),
            vec![
                (STATUS, json!("available")),
                ("/table.t1/open_turn", json!(null)),
                (CLOSED, json!("manual")),
                ("/events", json!(["table.t1 turn_closed"])),
                ("/data/0", json!({"turn_id": "u1", "close_reason": "manual"})),
            ],
        ),
        ("it goes without paying", ordered([]), close_turn("u1"), (409, "unpaid_order"), vec![]),
        (
            "close_turn again",
            seated([close_turn("u1")]),
            close_turn("u1"),
            (409, "turn_closed"),
            vec![],
        ),
        (
            "close_turn of an earlier party",
            seated([close_turn("u1"), open_turn("u2")]),
            close_turn("u1"),
            (409, "turn_closed"),
            vec![],
        ),
        ("close_turn of no party", seated([]), close_turn("u9"), (404, "turn_not_found"), vec![]),
    ]
}

fn placing() -> Vec<Case> {
    let of_turn = |turn| json!({"table_id": "t1", "turn_id": turn});
    vec![
        (
            "at a table: its open turn",
            seated([]),
            place("o1", at_table()),
            (201, "created"),
            vec![
                ("/order.o1/core/table_id", json!("t1")),
                ("/order.o1/core/turn_id", json!("u1")),
                ("/data/0/turn_id", json!("u1")),
                ("/outcome/effects", json!(["order.o1@1"])),
            ],
        ),
        (
            "of a turn: its table",
            seated([]),
            place("o1", json!({"turn_id": "u1"})),
            (201, "created"),
            vec![("/order.o1/core/table_id", json!("t1"))],
        ),
        ("of both", seated([]), place("o1", of_turn("u1")), (201, "created"), vec![]),
        ("nobody sits there", given([]), place("o1", at_table()), (409, "no_open_turn"), vec![]),
        ("no such table", vec![], place("o1", at_table()), (404, "table_not_found"), vec![]),
        (
            "no such turn",
            vec![],
            place("o1", json!({"turn_id": "u1"})),
            (404, "turn_not_found"),
            vec![],
        ),
        (
            "a turn that is not at this table",
            seated([]),
            place("o1", of_turn("u2")),
            (404, "turn_not_found"),
            vec![],
        ),
        (
            "a closed turn",
            seated([close_turn("u1")]),
            place("o1", of_turn("u1")),
            (409, "turn_closed"),
            vec![],
        ),
        (
            "a closed turn of an earlier party",
            seated([close_turn("u1"), open_turn("u2")]),
            place("o1", json!({"turn_id": "u1"})),
            (409, "turn_closed"),
            vec![],
        ),
        (
            "check_out at a table",
            seated([open("c1", "menu", "ada", None), add("c1", "i1", 1000)]),
            step("cart.c1.check_out", json!({"order_id": "o1", "table_id": "t1"})),
            (200, "ok"),
            vec![("/order.o1/core/turn_id", json!("u1")), (STATUS, json!("occupied"))],
        ),
        (
            "check_out where nobody sits",
            given([open("c1", "menu", "ada", None), add("c1", "i1", 1000)]),
            step("cart.c1.check_out", json!({"order_id": "o1", "table_id": "t1"})),
            (409, "no_open_turn"),
            vec![("/events", json!([]))],
        ),
    ]
}

fn the_one_rule() -> Vec<Case> {
    let freed = [(STATUS, json!("available")), (CLOSED, json!("paid"))];
    let paid = result("p1", "captured", "g1", 1000);
    let free = json!([{"sku": "s", "name": "water", "unit_price": 0, "quantity": 1}]);
    let two = ordered([place("o2", at_table())]);
    vec![
        (
            "the capture that pays the last order frees the table, and lists each effect",
            ordered([initiate("p1", &json!({"order": "o1"}))]),
            paid.clone(),
            (200, "ok"),
            [
                &freed[..],
                &[
                    (
                        "/events",
                        json!([
                            "payment.p1 captured",
                            "order.o1 payment_changed",
                            "order.o1 paid",
                            "table.t1 turn_closed",
                        ]),
                    ),
                    (
                        "/outcome/effects",
                        json!(["payment.p1@2", "order.o1@4", "table.t1@3", "turn.u1@2"]),
                    ),
                    ("/data/3", json!({"turn_id": "u1", "close_reason": "paid"})),
                ],
            ]
            .concat(),
        ),
        (
            "with another order unpaid it does not",
            [two.clone(), vec![initiate("p1", &json!({"order": "o1"}))]].concat(),
            paid.clone(),
            (200, "ok"),
            vec![(STATUS, json!("occupied")), (CLOSED, json!(null))],
        ),
        (
            "nor paid in part",
            ordered([initiate("p1", &json!({"order": "o1"}))]),
            result("p1", "captured", "g1", 999),
            (200, "ok"),
            vec![(STATUS, json!("occupied"))],
        ),
        (
            "the order that is cancelled last, beside a paid one",
            [two, pay("p1", "o1")].concat(),
            cancel("o2"),
            (200, "ok"),
            freed.to_vec(),
        ),
        ("the only order is cancelled", ordered([]), cancel("o1"), (200, "ok"), freed.to_vec()),
        (
            "the capture that checks out at a table, with nothing else unpaid",
            seated(paying_cart()),
            paid.clone(),
            (200, "ok"),
            [
                &freed[..],
                &[
                    ("/outcome/data/check_out", json!("ok")),
                    ("/order.o1/core/turn_id", json!("u1")),
                    (
                        "/outcome/effects",
                        json!([
                            "cart.c1@7",
                            "payment.p1@2",
                            "order.o1@2",
                            "table.t1@3",
                            "lock.ada@2",
                            "turn.u1@2"
                        ]),
                    ),
                ],
            ]
            .concat(),
        ),
        (
            "a capture is never refused: no table of this id, the money stays on the cart",
            paying_cart(),
            paid.clone(),
            (200, "ok"),
            vec![
                ("/outcome/data/check_out", json!("table_not_found")),
                ("/cart.c1/payments/paid", json!(1000)),
                ("/order.o1", json!(null)),
            ],
        ),
        (
            "nor where nobody sits",
            given(paying_cart()),
            paid.clone(),
            (200, "ok"),
            vec![
                ("/outcome/data/check_out", json!("no_open_turn")),
                ("/cart.c1/payments/paid", json!(1000)),
                (STATUS, json!("available")),
            ],
        ),
        (
            "a later check_out of what is paid frees the table",
            given([paying_cart(), vec![paid, open_turn("u1")]].concat()),
            step("cart.c1.check_out", json!({"order_id": "o1", "table_id": "t1"})),
            (200, "ok"),
            freed.to_vec(),
        ),
        (
            "an order that costs nothing is paid when it is placed",
            seated([]),
            place("o1", json!({"table_id": "t1", "items": free})),
            (201, "created"),
            [&freed[..], &[("/outcome/data/payments/paid_at", json!("2026-01-02T03:04:05.678Z"))]]
                .concat(),
        ),
        (
            "a refund opens nothing again",
            ordered(pay("p1", "o1")),
            step("payment.p1.refund", json!({"reason": "cold"})),
            (200, "ok"),
            freed.to_vec(),
        ),
        (
            "what an earlier party owed does not touch the present one",
            ordered([forced(json!("ran")), open_turn("u2"), place("o2", at_table())]),
            cancel("o1"),
            (200, "ok"),
            vec![(STATUS, json!("occupied")), ("/table.t1/open_turn/id", json!("u2"))],
        ),
        (
            "nor does it keep its table busy",
            ordered([
                forced(json!("ran")),
                open_turn("u2"),
                place("o2", at_table()),
                initiate("p1", &json!({"order": "o2"})),
            ]),
            result("p1", "captured", "g1", 1000),
            (200, "ok"),
            vec![(STATUS, json!("available")), (CLOSED, json!("forced"))],
        ),
    ]
}

fn statuses() -> Vec<Case> {
    vec![
        ("reserved", given([]), status("reserved"), (200, "ok"), vec![(STATUS, json!("reserved"))]),
        (
            "out of service, and back",
            given([status("out_of_service")]),
            status("available"),
            (200, "ok"),
            vec![
                (
                    "/data/0",
                    json!({"from": "out_of_service", "status": "available", "forced": false,
                           "reason": null, "unpaid": [], "actor": "staff"}),
                ),
                ("/events", json!(["table.t1 status_changed"])),
            ],
        ),
        (
            "what it is already",
            given([]),
            status("available"),
            (200, "ok"),
            vec![("/events", json!([])), ("/outcome/effects", json!([]))],
        ),
        ("occupied without a turn", given([]), status("occupied"), (409, "no_open_turn"), vec![]),
        (
            "occupied with one",
            seated([]),
            status("occupied"),
            (200, "ok"),
            vec![("/events", json!([]))],
        ),
        ("reserved with a turn", seated([]), status("reserved"), (409, "turn_open"), vec![]),
        (
            "out of service with a turn",
            seated([]),
            status("out_of_service"),
            (409, "turn_open"),
            vec![],
        ),
        (
            "available closes the turn",
            seated([]),
            status("available"),
            (200, "ok"),
            vec![
                (STATUS, json!("available")),
                (CLOSED, json!("manual")),
                ("/events", json!(["table.t1 turn_closed", "table.t1 status_changed"])),
                ("/outcome/effects", json!(["table.t1@4", "turn.u1@2"])),
            ],
        ),
        (
            "available with an unpaid order",
            ordered([]),
            status("available"),
            (409, "unpaid_order"),
            vec![],
        ),
        (
            "unless forced with a reason",
            ordered([]),
            forced(json!("left without paying")),
            (200, "ok"),
            vec![
                (STATUS, json!("available")),
                (CLOSED, json!("forced")),
                ("/data/0", json!({"turn_id": "u1", "close_reason": "forced"})),
                (
                    "/data/1",
                    json!({"from": "occupied", "status": "available", "forced": true,
                           "reason": "left without paying", "unpaid": ["o1"], "actor": "staff"}),
                ),
            ],
        ),
        ("without a reason", ordered([]), forced(json!(null)), (422, "reason_required"), vec![]),
        ("an empty one", ordered([]), forced(json!(" ")), (422, "reason_required"), vec![]),
        (
            "forced where nothing is unpaid: it was not necessary",
            seated([]),
            forced(json!("r")),
            (200, "ok"),
            vec![(CLOSED, json!("manual")), ("/data/1/forced", json!(false))],
        ),
    ]
}

#[test]
fn every_rule_of_turns_holds() {
    check(turns());
}

#[test]
fn orders_are_placed_at_the_open_turn_of_a_table() {
    check(placing());
}

#[test]
fn a_turn_without_an_unpaid_order_is_closed_and_its_table_available() {
    check(the_one_rule());
}

#[test]
fn every_rule_of_statuses_holds() {
    check(statuses());
}

/// A table after these steps, its row then damaged, as the next batch loads it.
fn damaged(steps: &[Step], damage: impl Fn(&mut Table)) -> Fixture {
    let fixture = Fixture::new(steps);
    let mut states: Vec<State> = fixture.batch.changed().cloned().collect();
    let mut reach = testing::reach();
    let orders = states.iter().filter_map(State::order).filter_map(|order| {
        let key = (token("t1"), order.turn_id.clone()?);
        Some((key, order.head.address.clone()))
    });
    for (key, order) in orders {
        reach.turn_orders.entry(key).or_default().push(order);
    }
    for (_, table, turn) in fixture.batch.turns() {
        let key = (token("t1"), turn.id.clone());
        reach.turn_orders.entry(key.clone()).or_default();
        reach.turns.insert(key, Some(table.clone()));
    }
    for state in &mut states {
        if let State::Table(table) = state {
            damage(table);
        }
    }
    let batch = BatchState::new(states, reach, LockPolicy::default(), 1..100);
    Fixture { batch, now: fixture.now }
}

fn turn(table: &mut Table) -> &mut crate::Turn {
    table.turn.as_mut().unwrap()
}

fn close_behind_its_back(table: &mut Table, now: Timestamp) {
    let turn = turn(table);
    turn.closed_at = Some(now);
    turn.close_reason = Some(brigade_contracts::table::CloseReason::Manual);
    table.open_turn_id = None;
}

/// Its name, what went before, the damage, what is found, and the status and close reason after.
type Broken = (&'static str, Vec<Step>, fn(&mut Table), &'static str, &'static str, Value);

#[test]
fn each_finding_is_repaired_once_by_what_the_orders_say() {
    use brigade_contracts::table::Status::{Available, Occupied};
    let paid = ordered(pay("p1", "o1"));
    let cases: [Broken; 9] = [
        (
            "occupied, nobody ever sat there",
            given([]),
            |t| t.status = Occupied,
            "ghost_no_turn",
            "available",
            json!(null),
        ),
        (
            "occupied after the party paid",
            paid.clone(),
            |t| t.status = Occupied,
            "ghost_no_turn",
            "available",
            json!("paid"),
        ),
        (
            "the pointer to the turn is lost, and the party sits there",
            ordered([]),
            |t| t.open_turn_id = None,
            "ghost_no_turn",
            "occupied",
            json!(null),
        ),
        (
            "the turn was closed, and the party has not paid",
            ordered([]),
            |t| {
                close_behind_its_back(t, start());
                t.status = Occupied;
            },
            "ghost_no_turn",
            "occupied",
            json!(null),
        ),
        (
            "the turn was not closed with the last payment",
            paid,
            |t| {
                turn(t).closed_at = None;
                t.open_turn_id = Some(token("u1"));
                t.status = Occupied;
            },
            "ghost_all_paid",
            "available",
            json!("reconciled"),
        ),
        (
            "available with a party that has ordered",
            ordered([]),
            |t| t.status = Available,
            "phantom_open_turn",
            "occupied",
            json!(null),
        ),
        (
            "available with a party that has just sat down",
            seated([]),
            |t| t.status = Available,
            "phantom_open_turn",
            "occupied",
            json!(null),
        ),
        (
            "available with a pointer to a closed turn",
            seated([close_turn("u1")]),
            |t| t.open_turn_id = Some(token("u1")),
            "phantom_open_turn",
            "available",
            json!("manual"),
        ),
        (
            "available, the turn closed, and something unpaid",
            ordered([]),
            |t| {
                close_behind_its_back(t, start());
                t.status = Available;
            },
            "phantom_unpaid",
            "occupied",
            json!(null),
        ),
    ];
    for (name, steps, damage, finding, becomes, closed) in cases {
        let mut fixture = damaged(&steps, damage);
        let evidence = json!({"seen": "at noon"});
        let version = fixture.batch.loaded.states[&address(Aggregate::Table, "t1")].head().version;
        let ask = |version, finding: &str| {
            let payload =
                json!({"expected_version": version, "finding": finding, "evidence": evidence});
            step("table.t1.reconcile", payload)
        };
        for other in brigade_contracts::table::Finding::ALL {
            if other.as_str() != finding {
                let seen = fixture.when(&ask(version, other.as_str()));
                assert_eq!(seen["outcome"]["code"], "not_found_so", "{name}: {other:?}");
            }
        }
        let seen = fixture.when(&ask(version + 1, finding));
        assert_eq!(seen["outcome"]["status"], 412, "{name}");
        let seen = fixture.when(&ask(version, finding));
        assert_eq!(seen["outcome"]["status"], 200, "{name}: {seen:#}");
        assert_eq!(seen["table.t1"]["status"], becomes, "{name}");
        assert_eq!(seen["table.t1"]["open_turn"].is_null(), becomes == "available", "{name}");
        assert_eq!(seen["events"], json!(["table.t1 reconciled"]), "{name}");
        let data = &seen["data"][0];
        assert_eq!((&data["finding"], &data["evidence"]), (&json!(finding), &evidence), "{name}");
        assert!(data["cause"].is_string(), "{name}");
        let state = &fixture.batch.loaded.states[&address(Aggregate::Table, "t1")];
        let turn = state.table().unwrap().turn.as_ref();
        assert_eq!(json!(turn.and_then(|turn| turn.close_reason)), closed, "{name}");
        for any in brigade_contracts::table::Finding::ALL {
            let seen = fixture.when(&ask(version + 1, any.as_str()));
            assert_eq!(seen["outcome"]["code"], "not_found_so", "{name}: {any:?} is left");
        }
    }
}

#[test]
fn a_party_that_just_sat_down_and_a_turn_that_was_forced_are_no_findings() {
    for steps in [given([]), seated([]), ordered([]), ordered([forced(json!("ran"))])] {
        let mut fixture = damaged(&steps, |_| {});
        let version = fixture.batch.loaded.states[&address(Aggregate::Table, "t1")].head().version;
        for finding in brigade_contracts::table::Finding::ALL {
            let payload = json!({
                "expected_version": version, "finding": finding, "evidence": {},
            });
            let seen = fixture.when(&step("table.t1.reconcile", payload));
            assert_eq!(seen["outcome"]["code"], "not_found_so", "{finding:?} of {steps:?}");
        }
    }
}

#[test]
fn what_is_not_loaded_of_a_table_is_wanted() {
    let states = || Fixture::new(&ordered([])).batch.changed().cloned().collect::<Vec<_>>();
    let wants = |reach, (target, payload): &Step| {
        let mut batch = BatchState::new(states(), reach, LockPolicy::default(), []);
        assert!(batch.decide(&testing::command(target, &[], payload), start()).is_none());
        batch.missing().iter().cloned().collect::<Vec<_>>()
    };
    let table = Missing::Aggregate(address(Aggregate::Table, "t1"));
    assert_eq!(wants(testing::reach(), &cancel("o1")), std::slice::from_ref(&table), "its orders");
    let mut reach = testing::reach();
    reach.turns.clear();
    let of_turn = Missing::Turn(token("t1"), token("u7"));
    assert_eq!(wants(reach, &place("o2", json!({"turn_id": "u7"}))), [of_turn]);
}
