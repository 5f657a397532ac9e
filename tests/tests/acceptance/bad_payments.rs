//! Bad payloads of the verbs that lock and pay, one field at a time, made from a table of the
//! fields: the bad values of a field depend on its type only.

use super::bad_input::{Bad, bad};

#[derive(Clone, Copy)]
enum Type {
    Token,
    Money,
    Currency,
    Time,
    /// A fencing token.
    Number,
    Seconds,
    /// Text of at most this many characters.
    Text(usize),
    /// An enum, with one of its values.
    Word(&'static str),
    Target,
    Secret,
}
use Type::{Currency, Money, Number, Seconds, Secret, Target, Text, Time, Token, Word};

impl Type {
    fn good(self) -> &'static str {
        match self {
            Token | Text(_) | Secret => r#""x""#,
            Money | Number | Seconds => "1",
            Currency => r#""EUR""#,
            Time => r#""2026-01-02T03:04:05Z""#,
            Word(word) => word,
            Target => r#"{"cart":"c1"}"#,
        }
    }

    /// Returns bad values, with status and code of the refusal.
    fn bad(self) -> Vec<(String, u16, &'static str)> {
        let long = |length: usize| format!("\"{}\"", "x".repeat(length));
        let malformed = |values: &[&str]| {
            values.iter().map(|value| ((*value).to_owned(), 400, "malformed")).collect::<Vec<_>>()
        };
        let mut cases = malformed(&["[]", "true"]);
        cases.extend(match self {
            Token => vec![
                (long(65), 400, "bad_token"),
                (r#""""#.to_owned(), 400, "bad_token"),
                (r#""a.b""#.to_owned(), 400, "bad_token"),
                (r#""é""#.to_owned(), 400, "bad_token"),
                ("1".to_owned(), 400, "malformed"),
            ],
            Money => {
                let mut cases = malformed(&["0.5", "1e3", "9223372036854775808", r#""1""#]);
                cases.push(("-1".to_owned(), 422, "negative_amount"));
                cases
            }
            Currency => vec![
                (r#""EUX""#.to_owned(), 422, "unknown_currency"),
                (r#""eur""#.to_owned(), 422, "unknown_currency"),
            ],
            Time => malformed(&[r#""yesterday""#, "1767322800", r#""2026-02-30T00:00:00Z""#]),
            Number => malformed(&[r#""1""#, "1.5", "9223372036854775808", "-9223372036854775809"]),
            Seconds => malformed(&["0", "-1", "1.5", "4294967296", r#""60""#]),
            Text(most) => vec![
                (long(most + 1), 422, "too_large"),
                (r#""a\u0000""#.to_owned(), 422, "bad_text"),
                (r#""a\u001b""#.to_owned(), 422, "bad_text"),
                ("\"\u{202e}\"".to_owned(), 422, "bad_text"),
                ("1".to_owned(), 400, "malformed"),
            ],
            Secret => {
                let mut cases = malformed(&["1", "{}"]);
                cases.push((r#""""#.to_owned(), 422, "bad_secret"));
                cases.push((long(1025), 422, "bad_secret"));
                cases
            }
            Word(_) => malformed(&[r#""Card""#, r#""""#, "0"]),
            Target => {
                let mut cases = malformed(&[
                    "{}",
                    r#""c1""#,
                    r#"{"table":"t1"}"#,
                    r#"{"cart":null}"#,
                    r#"{"cart":"c1","order":"o1"}"#,
                ]);
                cases.push((r#"{"cart":"a.b"}"#.to_owned(), 400, "bad_token"));
                cases
            }
        });
        cases
    }
}

const CARD: &str = r#""card""#;

type Field = (&'static str, Type);

/// The verbs, each with its required and its optional fields.
const VERBS: &[(&str, &[Field], &[Field])] = &[
    (
        "cart.c1.lock",
        &[("transaction_id", Token), ("method", Word(CARD))],
        &[("fingerprint", Text(200))],
    ),
    ("cart.c1.bind_transaction", &[("token", Number), ("transaction_id", Token)], &[]),
    ("cart.c1.extend", &[("token", Number), ("seconds", Seconds)], &[]),
    ("cart.c1.unlock", &[("token", Number), ("reason", Text(500))], &[]),
    (
        "cart.c1.check_out",
        &[("order_id", Token)],
        &[("table_id", Token), ("turn_id", Token), ("token", Number)],
    ),
    ("cart.c1.claim", &[("user", Token)], &[("session_secret", Secret)]),
    ("cart.c1.join", &[("user", Token)], &[("secret", Secret)]),
    (
        "payment.p1.initiate",
        &[("target", Target), ("method", Word(CARD))],
        &[
            ("amount", Money),
            ("user", Token),
            ("token", Number),
            ("transaction_id", Token),
            ("order_id", Token),
            ("table_id", Token),
            ("turn_id", Token),
        ],
    ),
    ("payment.p1.bind_transaction", &[("transaction_id", Token)], &[]),
    (
        "payment.p1.record_result",
        &[
            ("transaction_id", Token),
            ("amount", Money),
            ("currency", Currency),
            ("occurred_at", Time),
            ("result", Word(r#""captured""#)),
        ],
        &[],
    ),
    ("payment.p1.confirm_cash", &[("amount", Money), ("currency", Currency)], &[]),
    ("payment.p1.cancel", &[("reason", Text(500))], &[]),
    ("payment.p1.refund", &[("reason", Text(500))], &[("amount", Money), ("currency", Currency)]),
];

/// Returns the payload of these fields, with one of them replaced or left out.
fn payload(fields: &[&Field], changed: &str, value: Option<&str>) -> String {
    let field = |(name, kind): &&Field| {
        let value = if *name == changed { value? } else { kind.good() };
        Some(format!("\"{name}\":{value}"))
    };
    let fields: Vec<_> = fields.iter().filter_map(field).collect();
    format!("{{{}}}", fields.join(","))
}

pub fn cases() -> Vec<Bad> {
    let mut cases = Vec::new();
    for (what, needed, optional) in VERBS {
        let all: Vec<_> = needed.iter().chain(*optional).collect();
        let mut push = |name: String, payload: String, status, code| {
            cases.push(bad(format!("{what}: {name}"), what, payload, status, code));
        };
        for (name, kind) in &all {
            for (value, status, code) in kind.bad() {
                let shown: String = value.chars().take(30).collect();
                push(format!("{name} {shown}"), payload(&all, name, Some(&value)), status, code);
            }
        }
        for (name, _) in *needed {
            let (without, null) = (payload(&all, name, None), payload(&all, name, Some("null")));
            push(format!("no {name}"), without, 400, "missing_field");
            push(format!("{name} null"), null, 400, "malformed");
        }
        let more = payload(&all, "", None).replacen('{', "{\"more\":1,", 1);
        push("an unknown field".to_owned(), more, 400, "unknown_field");
        let (name, kind) = needed[0];
        let twice = format!("{{\"{name}\":{},", kind.good());
        let twice = payload(&all, "", None).replacen('{', &twice, 1);
        push(format!("{name} twice"), twice, 400, "duplicate_key");
    }
    // Well-formed, and nothing there that it could be about.
    let transaction = r#"{"transaction_id":"t"}"#;
    let reason = r#"{"reason":"r"}"#;
    let cash = r#"{"amount":1,"currency":"EUR"}"#;
    for (what, payload, status, code) in [
        ("payment.p1.bind_transaction", transaction, 404, "not_found"),
        ("payment.p1.confirm_cash", cash, 404, "not_found"),
        ("payment.p1.cancel", reason, 404, "not_found"),
        ("payment.p1.refund", reason, 404, "not_found"),
        ("payment.p1.capture", "{}", 404, "unknown_verb"),
        ("cart.c1.unlock", r#"{"token":1,"reason":"r"}"#, 409, "stale_token"),
        ("cart.c1.extend", r#"{"token":-1,"seconds":4294967295}"#, 409, "stale_token"),
        ("cart.c1.lock", r#"{"transaction_id":"t","method":"qr"}"#, 422, "cart_empty"),
        ("cart.c1.check_out", r#"{"order_id":"o2"}"#, 422, "cart_empty"),
        ("cart.c1.check_out", r#"{"order_id":"o2","token":1}"#, 409, "stale_token"),
        ("cart.c1.claim", r#"{"user":"bob"}"#, 409, "no_session"),
    ] {
        cases.push(bad(format!("{what}: {code}"), what, payload, status, code));
    }
    let initiate = |target: &str| format!(r#"{{"target":{target},"method":"card"}}"#);
    for (target, status, code) in [
        (r#"{"cart":"c9"}"#, 404, "cart_not_found"),
        (r#"{"order":"o9"}"#, 404, "order_not_found"),
        (r#"{"cart":"c1"}"#, 422, "cart_empty"),
    ] {
        let name = format!("initiate {target}");
        cases.push(bad(name, "payment.p1.initiate", initiate(target), status, code));
    }
    cases
}
