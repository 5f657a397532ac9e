//! The schemas permit what is sent and answered, and nothing else.

mod schemas;

use std::{collections::BTreeSet, fs};

use brigade_contracts::{
    Aggregate, Body, cart, order, payment, permissions::SYSTEM_VERBS, product, schema, table, user,
};
use schemas::permits;
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = format!("{}/golden/v1/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_verb_of_every_aggregate_but_the_systems_has_a_schema_and_is_told_about() {
    let all = [
        (Aggregate::Cart, cart::Verb::NAMES),
        (Aggregate::Payment, payment::Verb::NAMES),
        (Aggregate::Order, order::Verb::NAMES),
        (Aggregate::Table, table::Verb::NAMES),
        (Aggregate::User, user::Verb::NAMES),
        (Aggregate::Product, product::Verb::NAMES),
    ];
    let names = all.iter().flat_map(|(of, names)| names.iter().map(|name| (*of, *name)));
    let expected: BTreeSet<_> = names.filter(|(_, verb)| !SYSTEM_VERBS.contains(verb)).collect();
    let verbs = schema::verbs();
    assert_eq!(verbs.iter().map(|v| (v.aggregate, v.name)).collect::<BTreeSet<_>>(), expected);
    assert!(verbs.iter().all(|verb| !verb.about.is_empty()), "{verbs:?}");
    let components = schema::components();
    assert!(verbs.iter().all(|verb| components.contains_key(&verb.component)));
}

#[test]
fn every_command_that_is_understood_is_permitted_and_none_with_a_field_more() {
    for verb in schema::verbs() {
        let mut command = golden(&format!("command.{}.{}", verb.aggregate, verb.name));
        assert_eq!(permits(&verb.component, &command), Some(true), "{verb:?} {command}");
        command["odd"] = json!(1);
        assert_eq!(permits(&verb.component, &command), Some(false), "{verb:?}");
    }
}

/// A field of a command may be left out exactly where it may be null, and the schema says so.
#[test]
fn what_may_be_left_out_may_be_null_and_is_so_in_the_schema() {
    for verb in schema::verbs() {
        let command = golden(&format!("command.{}.{}", verb.aggregate, verb.name));
        for field in command.as_object().unwrap().keys() {
            let (mut without, mut null) = (command.clone(), command.clone());
            without.as_object_mut().unwrap().remove(field);
            null[field] = Value::Null;
            for changed in [without, null] {
                let read = Body::decode(verb.aggregate, verb.name, changed.to_string().as_bytes());
                let permitted = permits(&verb.component, &changed);
                assert_eq!(permitted, Some(read.is_ok()), "{verb:?} {changed}");
            }
        }
    }
}

#[test]
fn every_answer_is_permitted_and_none_with_a_field_less() {
    let (cart, order) = (golden("part.cart.core"), golden("part.order.core"));
    let (payment, table) = (golden("part.payment.core"), golden("part.table.core"));
    let paid = [golden("part.cart.payments"), golden("part.order.payments")];
    let mut row = golden("kv.active_orders.core");
    row["payment"] = golden("kv.active_orders.payment");
    row["due"] = json!(2800);
    let answers = [
        ("Outcome", golden("outcome.done")),
        ("Outcome", golden("outcome.login")),
        ("Outcome", golden("outcome.refused")),
        ("QueryError", golden("query.error")),
        ("CartView", json!({"version": 3, "core": cart, "payments": paid[0], "due": 0})),
        ("OrderView", json!({"version": 3, "core": order, "payments": paid[1], "due": 0})),
        ("PaymentView", json!({"version": 3, "core": payment})),
        ("TableView", json!({"version": 3, "core": table})),
        ("ProductView", json!({"version": 3, "core": golden("part.product.core")})),
        ("ProductCore", golden("part.product.core")),
        ("ProductPage", golden("query.products")),
        ("DayClose", golden("query.day_close")),
        ("CartCore", cart),
        ("CartPayments", paid[0].clone()),
        ("OrderCore", order),
        ("OrderPayments", paid[1].clone()),
        ("PaymentCore", payment),
        ("TableCore", table),
        ("UserState", golden("query.user_state")),
        ("Sessions", golden("query.user_sessions")),
        ("TablePage", golden("query.tables")),
        ("CartPage", golden("query.carts")),
        ("OrderPage", golden("query.orders")),
        ("RefundTaskPage", golden("query.refund_tasks")),
        ("UnknownPaymentPage", golden("query.unknown_payments")),
        ("Lock", golden("query.lock")),
        ("LockHistory", golden("query.lock_history")),
        ("ActiveOrders", json!({"rows": [row], "resume": "p"})),
        ("ActiveOrdersChanges", json!({"changes": [row], "resume": "p"})),
        ("ActiveRow", row),
    ];
    for (component, answer) in answers {
        assert_eq!(permits(component, &answer), Some(true), "{component} {answer}");
        for field in answer.as_object().unwrap().keys() {
            let mut less = answer.clone();
            less.as_object_mut().unwrap().remove(field);
            assert_eq!(permits(component, &less), Some(false), "{component} without {field}");
        }
    }
}

#[test]
fn every_reference_resolves_and_no_name_was_given_twice() {
    let components = schema::components();
    let names: BTreeSet<&str> = components.keys().map(String::as_str).collect();
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    components.values().for_each(|schema| references(schema, &mut found));
    assert!(!found.is_empty());
    for reference in found {
        let name = reference.strip_prefix("#/components/schemas/").expect("of a component");
        assert!(names.contains(name), "{reference}");
    }
    // The generator puts a number behind a name that is taken by another type.
    let numbered = |name: &&str| name.ends_with(|c: char| c.is_ascii_digit());
    let numbered: Vec<_> = names.iter().filter(|name| numbered(name)).collect();
    assert_eq!(numbered, [&"Text200", &"Text500"]);
}
