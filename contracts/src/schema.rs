//! The messages that cross the boundary as JSON Schema 2020-12, made from the types that read and
//! write them.
//!
//! A schema of what is sent permits all that is understood; one of an answer says what is always
//! there. What it cannot say: that no key is repeated, bytes where the limit is in bytes, and what
//! depends on state.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

use crate::{
    Aggregate, Currency, Email, Money, NewPassword, Outcome, Quantity, Secret, Text, Timestamp,
    Token, cart,
    day_close::DayClose,
    list::{ActiveRow, MAX_ROWS},
    lock, order,
    page::{CartRow, OrderRow, Page, RefundTaskRow, TableRow, UnknownPaymentRow},
    payment,
    permissions::SYSTEM_VERBS,
    product,
    query::QueryError,
    table, user,
    verb::Declared,
};

/// The path that references begin with, as in OpenAPI.
const DEFINITIONS: &str = "/components/schemas";

/// A verb that anybody may send, if his role is high enough.
#[derive(Clone, Debug)]
pub struct Verb {
    pub aggregate: Aggregate,
    pub name: &'static str,
    /// One sentence or a few.
    pub about: &'static str,
    /// The name of its payload among [`components`].
    pub component: String,
    payload: fn(&mut SchemaGenerator) -> Schema,
}

/// All verbs but those of the system, by aggregate.
#[must_use]
pub fn verbs() -> Vec<Verb> {
    let all = [
        (Aggregate::Cart, cart::Verb::DECLARED),
        (Aggregate::Payment, payment::Verb::DECLARED),
        (Aggregate::Order, order::Verb::DECLARED),
        (Aggregate::Table, table::Verb::DECLARED),
        (Aggregate::User, user::Verb::DECLARED),
        (Aggregate::Product, product::Verb::DECLARED),
    ];
    let each = all.into_iter().flat_map(|(aggregate, verbs)| {
        verbs.iter().map(move |Declared { name, about, payload }| {
            let component = format!("{}{}", pascal_case(aggregate.as_str()), pascal_case(name));
            Verb { aggregate, name, about: about.trim(), component, payload: *payload }
        })
    });
    each.filter(|verb| !SYSTEM_VERBS.contains(&verb.name)).collect()
}

/// All schemas by name.
#[must_use]
pub fn components() -> Map<String, Value> {
    let (mut sent, mut answered) = (generator(true), generator(false));
    let mut all = Map::new();
    for verb in verbs() {
        all.insert(verb.component, (verb.payload)(&mut sent).to_value());
    }
    for (name, schema) in answers(&mut answered) {
        all.insert(name.to_owned(), schema.to_value());
    }
    all.extend(frames());
    all.extend(sent.take_definitions(true));
    all.extend(answered.take_definitions(true));
    all
}

/// A reference to a component.
#[must_use]
pub fn reference(component: &str) -> Value {
    json!({ "$ref": format!("#{DEFINITIONS}/{component}") })
}

fn generator(is_sent: bool) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = DEFINITIONS.into();
        settings.meta_schema = None;
    });
    if is_sent { settings.for_deserialize() } else { settings.for_serialize() }.into_generator()
}

fn answers(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
    vec![
        ("Outcome", Outcome::json_schema(generator)),
        ("QueryError", QueryError::json_schema(generator)),
        ("CartCore", cart::Core::json_schema(generator)),
        ("CartPayments", cart::Payments::json_schema(generator)),
        ("OrderCore", order::Core::json_schema(generator)),
        ("OrderPayments", order::Payments::json_schema(generator)),
        ("PaymentCore", payment::Core::json_schema(generator)),
        ("TableCore", table::Core::json_schema(generator)),
        ("ProductCore", product::Core::json_schema(generator)),
        ("ProductPage", product::ProductPage::json_schema(generator)),
        ("DayClose", DayClose::json_schema(generator)),
        ("UserState", user::UserState::json_schema(generator)),
        ("Sessions", user::Sessions::json_schema(generator)),
        ("ActiveRow", ActiveRow::json_schema(generator)),
        ("TablePage", Page::<TableRow>::json_schema(generator)),
        ("CartPage", Page::<CartRow>::json_schema(generator)),
        ("OrderPage", Page::<OrderRow>::json_schema(generator)),
        ("RefundTaskPage", Page::<RefundTaskRow>::json_schema(generator)),
        ("UnknownPaymentPage", Page::<UnknownPaymentRow>::json_schema(generator)),
        ("Lock", lock::Live::json_schema(generator)),
        ("LockHistory", lock::History::json_schema(generator)),
    ]
}

/// Bodies of answers that are written piece by piece, and so are no types.
fn frames() -> impl Iterator<Item = (String, Value)> {
    let rows = json!({"type": "array", "maxItems": MAX_ROWS, "items": reference("ActiveRow")});
    let resume = json!({"type": "string", "description": "the position, for the next query"});
    let only =
        |value: bool, description: &str| json!({ "const": value, "description": description });
    let list = json!({
        "type": "object",
        "description": "A page of the active orders, newest first.",
        "properties": {
            "rows": rows, "resume": resume,
            "more": only(true, "there are older ones"),
            "next": {"type": "string", "description": "the header After of the next page"},
            "reset": only(true, "the position is of no use any more: this is everything, or its \
                                 first page"),
        },
        "required": ["rows", "resume"],
    });
    let changes = json!({
        "type": "object",
        "description": "What became of the rows that changed since a position, each once.",
        "properties": { "changes": rows, "resume": resume },
        "required": ["changes", "resume"],
    });
    [
        ("CartView", view("Cart", true)),
        ("OrderView", view("Order", true)),
        ("PaymentView", view("Payment", false)),
        ("TableView", view("Table", false)),
        ("ProductView", view("Product", false)),
        ("ActiveOrders", list),
        ("ActiveOrdersChanges", changes),
    ]
    .into_iter()
    .map(|(name, schema)| (name.to_owned(), schema))
}

fn view(kind: &str, has_payments: bool) -> Value {
    let mut schema = json!({
        "type": "object",
        "properties": {
            "version": {"type": "integer", "format": "uint64", "minimum": 1},
            "core": reference(&format!("{kind}Core")),
        },
        "required": ["version", "core"],
    });
    if has_payments {
        schema["properties"]["payments"] = reference(&format!("{kind}Payments"));
        schema["properties"]["due"] = reference("Money");
        schema["required"] = json!(["version", "core", "payments", "due"]);
    }
    schema
}

/// `add_item` → `AddItem`.
fn pascal_case(text: &str) -> String {
    let capital = |word: &str| {
        let (first, rest) = word.split_at(1);
        format!("{}{rest}", first.to_ascii_uppercase())
    };
    text.split('_').map(capital).collect()
}

/// Implements `JsonSchema` for a type that is one value, and not a struct, on the wire.
macro_rules! value_schema {
    ($($type:ident: $schema:tt,)*) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

value_schema! {
    Token: {
        "type": "string",
        "pattern": "^[A-Za-z0-9_-]{1,64}$",
        "description": "An id, a name or a verb; ids are chosen by the sender.",
    },
    Money: {
        "type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX,
        "description": "In the currency's minor unit.",
    },
    Quantity: { "type": "integer", "minimum": 1, "maximum": 999 },
    Currency: {
        "type": "string",
        "enum": Currency::all().collect::<Vec<_>>(),
        "description": "A code of ISO 4217.",
    },
    Timestamp: {
        "type": "string", "format": "date-time",
        "description": "RFC 3339; answers are in UTC, with milliseconds.",
    },
    Email: {
        "type": "string",
        "maxLength": Email::MAX_LEN,
        "pattern": r"^[^\s\u0000-\u001f\u007f-\u009f]+@[^\s\u0000-\u001f\u007f-\u009f]+$",
    },
    NewPassword: {
        "type": "string", "format": "password", "writeOnly": true,
        "minLength": NewPassword::MIN_CHARS, "maxLength": Secret::MAX_LEN,
        "description": "A password that is chosen; any characters.",
    },
    Secret: {
        "type": "string", "format": "password", "writeOnly": true,
        "minLength": 1, "maxLength": Secret::MAX_LEN,
        "description": "A password or a token; never stored, logged or answered as it came.",
    },
}

impl<const MAX: usize> JsonSchema for Text<MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Text{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Control characters are what no text holds.
        let pattern = concat!(
            r"^[^\u0000-\u001f\u007f-\u009f",
            r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]*$"
        );
        json_schema!({ "type": "string", "maxLength": MAX, "pattern": pattern })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_and_answered_by_the_same_name_is_the_same() {
        let (mut sent, mut answered) = (generator(true), generator(false));
        let verbs = verbs();
        for verb in &verbs {
            (verb.payload)(&mut sent);
        }
        let named: Vec<_> = answers(&mut answered).into_iter().map(|(name, _)| name).collect();
        assert!(verbs.iter().all(|verb| !named.contains(&&*verb.component)));
        let (sent, answered) = (sent.take_definitions(true), answered.take_definitions(true));
        assert!(sent.iter().any(|(name, _)| answered.contains_key(name)));
        for (name, schema) in &sent {
            assert_eq!(answered.get(name).unwrap_or(schema), schema, "{name}");
            assert!(!named.contains(&&**name), "{name}");
            assert!(verbs.iter().all(|verb| verb.component != *name), "{name}");
        }
    }
}
