//! Payloads that are refused, each with its status and code.

mod schemas;

use brigade_contracts::{Aggregate, Body, Command, Door, Refusal, schema, user::Validate};

/// Returns the code with which a payload is refused. Its schema refuses it too, but for whether a
/// key is repeated.
fn refused(aggregate: Aggregate, verb: &str, payload: &str) -> Refusal {
    let refusal = Body::decode(aggregate, verb, payload.as_bytes()).unwrap_err();
    let verbs = schema::verbs();
    let known = verbs.iter().find(|v| (v.aggregate, v.name) == (aggregate, verb));
    if let (Some(verb), Ok(value)) = (known, serde_json::from_str(payload))
        && refusal.code != "duplicate_key"
    {
        assert_eq!(schemas::permits(&verb.component, &value), Some(false), "{verb:?} {payload}");
    }
    refusal
}

#[test]
fn a_payload_that_is_malformed_or_impossible_is_refused_by_kind() {
    let item = |field: &str, value: &str| {
        let mut fields = vec![
            ("item_id", "\"i1\""),
            ("sku", "\"s\""),
            ("name", "\"n\""),
            ("unit_price", "1"),
            ("quantity", "1"),
        ];
        for (name, old) in &mut fields {
            if *name == field {
                *old = value;
            }
        }
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    };
    let long = format!("\"{}\"", "x".repeat(201));
    let deep = format!("{{\"user\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("join", String::new(), 400, "malformed"),
        ("join", "not json".into(), 400, "malformed"),
        ("join", "[\"bob\"]".into(), 400, "malformed"),
        ("join", "null".into(), 400, "malformed"),
        ("join", "{}".into(), 400, "missing_field"),
        ("join", "{\"user\":null}".into(), 400, "malformed"),
        ("join", "{\"user\":7}".into(), 400, "malformed"),
        ("join", "{\"user\":\"bob\"} x".into(), 400, "malformed"),
        ("join", "{\"user\":\"bob\",\"user\":\"eve\"}".into(), 400, "duplicate_key"),
        ("join", "{\"user\":\"bob\",\"extra\":1}".into(), 400, "unknown_field"),
        ("join", "{\"user\":\"b.b\"}".into(), 400, "bad_token"),
        ("join", "{\"user\":\"\"}".into(), 400, "bad_token"),
        ("join", format!("{{\"user\":\"{}\"}}", "x".repeat(65)), 400, "bad_token"),
        ("join", deep, 400, "malformed"),
        (
            "open",
            "{\"kind\":\"bowl\",\"owner\":\"a\",\"currency\":\"EUR\"}".into(),
            400,
            "malformed",
        ),
        (
            "open",
            "{\"kind\":\"team\",\"owner\":\"a\",\"currency\":\"EUX\"}".into(),
            422,
            "unknown_currency",
        ),
        ("add_item", item("quantity", "0"), 422, "quantity_out_of_range"),
        ("add_item", item("quantity", "1000"), 422, "quantity_out_of_range"),
        ("add_item", item("quantity", "-1"), 422, "quantity_out_of_range"),
        ("add_item", item("quantity", "1.5"), 400, "malformed"),
        ("add_item", item("quantity", "99999999999999999999"), 400, "malformed"),
        ("add_item", item("unit_price", "-1"), 422, "negative_amount"),
        ("add_item", item("unit_price", "0.5"), 400, "malformed"),
        ("add_item", item("unit_price", "9223372036854775808"), 400, "malformed"),
        ("add_item", item("name", &long), 422, "too_large"),
        ("add_item", item("name", "\"a\\u0000b\""), 422, "bad_text"),
    ];
    for (verb, payload, status, code) in cases {
        let shown: String = payload.chars().take(60).collect();
        let refusal = refused(Aggregate::Cart, verb, &payload);
        assert_eq!((refusal.status, &*refusal.code), (status, code), "{verb} {shown}");
    }
}

#[test]
fn a_payload_of_a_payment_or_a_lock_is_refused_by_kind() {
    let initiate = |target: &str, method: &str, amount: &str| {
        format!("{{\"target\":{target},\"method\":\"{method}\",\"amount\":{amount}}}")
    };
    let result = |result: &str, currency: &str, at: &str| {
        format!(
            "{{\"result\":\"{result}\",\"transaction_id\":\"g1\",\"amount\":1,\
             \"currency\":\"{currency}\",\"occurred_at\":\"{at}\"}}"
        )
    };
    let (cart, at) = ("{\"cart\":\"c1\"}", "2026-01-02T03:04:05Z");
    let long = "x".repeat(201);
    let cases: Vec<(Aggregate, &str, String, u16, &str)> = vec![
        (Aggregate::Payment, "initiate", initiate("{}", "card", "1"), 400, "malformed"),
        (Aggregate::Payment, "initiate", initiate("\"c1\"", "card", "1"), 400, "malformed"),
        (
            Aggregate::Payment,
            "initiate",
            initiate("{\"cart\":\"c1\",\"order\":\"o1\"}", "card", "1"),
            400,
            "malformed",
        ),
        (
            Aggregate::Payment,
            "initiate",
            initiate("{\"table\":\"t1\"}", "card", "1"),
            400,
            "malformed",
        ),
        (
            Aggregate::Payment,
            "initiate",
            initiate("{\"cart\":\"c.1\"}", "card", "1"),
            400,
            "bad_token",
        ),
        (Aggregate::Payment, "initiate", initiate(cart, "gold", "1"), 400, "malformed"),
        (Aggregate::Payment, "initiate", initiate(cart, "card", "-1"), 422, "negative_amount"),
        (Aggregate::Payment, "initiate", initiate(cart, "card", "0.5"), 400, "malformed"),
        (Aggregate::Payment, "record_result", result("lost", "EUR", at), 400, "malformed"),
        (
            Aggregate::Payment,
            "record_result",
            result("captured", "EUX", at),
            422,
            "unknown_currency",
        ),
        (Aggregate::Payment, "record_result", result("captured", "EUR", "now"), 400, "malformed"),
        (Aggregate::Payment, "confirm_cash", "{\"amount\":1}".into(), 400, "missing_field"),
        (Aggregate::Payment, "cancel", "{}".into(), 400, "missing_field"),
        (Aggregate::Payment, "fly", "{}".into(), 404, "unknown_verb"),
        (Aggregate::Cart, "lock", "{\"method\":\"card\"}".into(), 400, "missing_field"),
        (
            Aggregate::Cart,
            "lock",
            format!("{{\"transaction_id\":\"g\",\"method\":\"qr\",\"fingerprint\":\"{long}\"}}"),
            422,
            "too_large",
        ),
        (Aggregate::Cart, "expire_lock", "{\"token\":\"7\"}".into(), 400, "malformed"),
        (Aggregate::Cart, "expire_lock", "{\"token\":1.5}".into(), 400, "malformed"),
        (Aggregate::Cart, "extend", "{\"token\":7,\"seconds\":0}".into(), 400, "malformed"),
        (Aggregate::Cart, "extend", "{\"token\":7,\"seconds\":-1}".into(), 400, "malformed"),
        (Aggregate::Cart, "rebuild_cache", "{\"part\":\"crust\"}".into(), 400, "malformed"),
        (Aggregate::Lock, "rebuild_cache", "{}".into(), 404, "unknown_verb"),
    ];
    for (aggregate, verb, payload, status, code) in cases {
        let refusal = refused(aggregate, verb, &payload);
        assert_eq!((refusal.status, &*refusal.code), (status, code), "{verb} {payload}");
    }
}

#[test]
fn a_payload_of_a_table_is_refused_by_kind() {
    let long = "x".repeat(501);
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("register", "{\"label\":\"5\"}".into(), 400, "missing_field"),
        ("register", "{\"label\":\"5\",\"seats\":0}".into(), 422, "quantity_out_of_range"),
        ("register", "{\"label\":\"5\",\"seats\":\"4\"}".into(), 400, "malformed"),
        ("register", format!("{{\"label\":\"{long}\",\"seats\":4}}"), 422, "too_large"),
        ("register", "{\"label\":\"5\",\"seats\":4,\"x\":1}".into(), 400, "unknown_field"),
        ("open_turn", "{\"turn_id\":\"u.1\"}".into(), 400, "bad_token"),
        ("open_turn", "{\"turn_id\":\"u1\",\"party_size\":0}".into(), 422, "quantity_out_of_range"),
        ("close_turn", "{}".into(), 400, "missing_field"),
        ("set_status", "{\"status\":\"dirty\"}".into(), 400, "malformed"),
        ("set_status", "{\"status\":\"available\",\"force\":1}".into(), 400, "malformed"),
        (
            "set_status",
            format!("{{\"status\":\"available\",\"force\":true,\"reason\":\"{long}\"}}"),
            422,
            "too_large",
        ),
        (
            "reconcile",
            "{\"expected_version\":-1,\"finding\":\"ghost_no_turn\",\"evidence\":{}}".into(),
            400,
            "malformed",
        ),
        (
            "reconcile",
            "{\"expected_version\":1,\"finding\":\"haunted\",\"evidence\":{}}".into(),
            400,
            "malformed",
        ),
        (
            "reconcile",
            "{\"expected_version\":1,\"finding\":\"ghost_no_turn\"}".into(),
            400,
            "missing_field",
        ),
        ("clean", "{}".into(), 404, "unknown_verb"),
    ];
    for (verb, payload, status, code) in cases {
        let refusal = refused(Aggregate::Table, verb, &payload);
        assert_eq!((refusal.status, &*refusal.code), (status, code), "{verb} {payload}");
    }
}

#[test]
fn a_payload_of_a_user_is_refused_by_kind_and_never_quoted() {
    const WORD: &str = "hunter2";
    let token = |user: &str| format!("{{\"refresh_token\":\"{user}.{}\"}}", "A".repeat(43));
    let long = format!("{{\"email\":\"a@b\",\"password\":\"{}\"}}", "x".repeat(1025));
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("register", "{\"email\":\"a@b\",\"profile_id\":\"p\"}".into(), 400, "missing_field"),
        ("login", "{\"email\":\"a@b\"}".into(), 400, "missing_field"),
        ("login", "{}".into(), 400, "missing_field"),
        ("login", format!("{{\"password\":\"{WORD}\"}}"), 400, "missing_field"),
        ("login", "{\"email\":\"a@b\",\"password\":31337}".into(), 400, "malformed"),
        ("login", format!("{{\"email\":\"a@b\",\"password\":[\"{WORD}\"]}}"), 400, "malformed"),
        ("login", format!("{{\"{WORD}\":1}}"), 400, "unknown_field"),
        (
            "login",
            format!("{{\"password\":\"{WORD}\",\"password\":\"{WORD}\"}}"),
            400,
            "duplicate_key",
        ),
        ("login", format!("{{\"email\":\"{WORD}\",\"password\":\"p\"}}"), 422, "bad_email"),
        ("login", "{\"email\":\"a@b\",\"password\":\"\"}".into(), 422, "bad_secret"),
        ("login", long, 422, "bad_secret"),
        ("login", WORD.into(), 400, "malformed"),
        ("refresh", token("u1").replace("refresh", WORD), 400, "unknown_field"),
        ("refresh", "{\"refresh_token\":null}".into(), 400, "malformed"),
        ("logout", "{\"user\":\"u1\"}".into(), 400, "unknown_field"),
        ("update_profile", "{\"email\":\"nobody\"}".into(), 422, "bad_email"),
        ("change_roles", "{\"roles\":[\"a b\"]}".into(), 400, "bad_token"),
        ("change_roles", "{}".into(), 400, "missing_field"),
        ("register_subscription", "{\"plan\":\"gold\"}".into(), 400, "missing_field"),
        ("cancel_subscription", "{\"subscription_id\":\"\"}".into(), 400, "bad_token"),
        ("rebuild_cache", "{\"part\":\"password\"}".into(), 400, "malformed"),
        ("promote", "{}".into(), 404, "unknown_verb"),
    ];
    for (verb, payload, status, code) in cases {
        let refusal = refused(Aggregate::User, verb, &payload);
        assert_eq!((refusal.status, &*refusal.code), (status, code), "{verb} {payload}");
        let told = format!("{refusal:?}");
        assert!(!told.contains(WORD) && !told.contains("31337"), "{payload}");
        // The name of what is missing is not the payload's.
        assert!(refusal.param.is_some() || code != "missing_field", "{verb} {payload}");
    }
    assert_eq!(refused(Aggregate::User, "login", "{}").param.as_deref(), Some("email"));
    for (payload, status) in [("", 400), ("[]", 400), ("{}", 400), ("{\"access_token\":7}", 400)] {
        assert_eq!(Validate::decode(payload.as_bytes()).unwrap_err().status, status, "{payload}");
    }
    let empty = Validate::decode(b"{\"access_token\":\"\"}").unwrap_err();
    assert_eq!((empty.status, &*empty.code), (401, "invalid_token"));
}

#[test]
fn a_verb_with_a_secret_comes_through_the_request_door_only_and_leaves_no_trace() {
    const WORD: &str = "correct horse";
    let token = format!("u1.{}", "A".repeat(43));
    for (verb, payload, secret) in [
        (
            "register",
            format!("{{\"email\":\"a@b\",\"profile_id\":\"p\",\"password\":\"{WORD}\"}}"),
            WORD,
        ),
        ("login", format!("{{\"email\":\"a@b\",\"password\":\"{WORD}\"}}"), WORD),
        ("refresh", format!("{{\"refresh_token\":\"{token}\"}}"), &token),
    ] {
        let decode_payload = |door: &str, payload: &str| {
            let subject = format!("{door}.t1.user.u1.{verb}");
            Command::decode(&subject, [("Command-Id", "k1")].into_iter(), payload.as_bytes())
        };
        let decode = |door: &str| decode_payload(door, &payload);
        let command = decode("req").unwrap();
        // Nothing of the secret is in the hash, which is stored.
        let other = payload.replace(secret, &secret.replace(['o', 'A'], "B"));
        assert_ne!(payload, other);
        let other = decode_payload("req", &other).unwrap();
        assert_eq!(command.payload_hash, other.payload_hash, "{verb}");
        assert_eq!(command.payload_hash == [0; 32], verb != "register", "{verb}");
        assert!(!format!("{command:?}").contains(secret), "{command:?}");
        let sent = command.request.unwrap().body.encode().1;
        assert!(String::from_utf8(sent).unwrap().contains(secret), "{verb}");
        let refused = decode("cmd").unwrap().request.unwrap_err();
        assert_eq!((refused.status, &*refused.code), (400, "secret_on_durable_door"), "{verb}");
    }
}

#[test]
fn nobody_can_address_a_lock() {
    assert_eq!(Aggregate::parse("lock"), None);
    assert_eq!(Aggregate::parse_with_lock("lock"), Some(Aggregate::Lock));
    let id = [("Command-Id", "k1")];
    let command = Command::decode("cmd.t1.lock.ada.unlock", id.into_iter(), b"{}").unwrap();
    assert_eq!(command.request.unwrap_err().code, "unknown_verb");
}

#[test]
fn invalid_utf8_is_malformed() {
    let refusal = Body::decode(Aggregate::Cart, "join", b"{\"user\":\"\xff\"}").unwrap_err();
    assert_eq!((refusal.status, &*refusal.code), (400, "malformed"));
}

#[test]
fn a_command_is_refused_by_what_is_wrong_around_its_payload() {
    let decode = |subject: &str, headers: &[(&str, &str)], payload: &[u8]| match Command::decode(
        subject,
        headers.iter().copied(),
        payload,
    ) {
        Ok(command) => command.request.err().map(|refusal| (refusal.status, refusal.code)),
        Err(refusal) => Some((refusal.status, refusal.code)),
    };
    let id = ("Command-Id", "k1");
    let join = b"{\"user\":\"bob\"}";
    let large = vec![b' '; 65_537];
    let long_id = format!("req.t1.cart.{}.join", "x".repeat(65));
    let header = "x".repeat(4096);
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], u16, &'a str);
    let sender = ("Nats-Request-Info", "{\"acc\":\"T-t2\"}");
    let cases: [Case<'_>; 12] = [
        ("req.t1.cart.c1.join", &[], join, 400, "missing_command_id"),
        ("req.t1.cart.c1", &[id], join, 400, "bad_subject"),
        ("req.t!.cart.c1.join", &[id], join, 400, "bad_subject"),
        ("req.t1.cart.c1.join", &[id, sender], join, 403, "wrong_tenant"),
        (&long_id, &[id], join, 400, "bad_subject"),
        ("req.t1.basket.c1.join", &[id], join, 404, "unknown_verb"),
        ("req.t1.cart.c1.jump", &[id], join, 404, "unknown_verb"),
        ("req.t1.cart.c1.join", &[id], &large, 413, "payload_too_large"),
        ("req.t1.cart.c1.join", &[id, ("X", &header)], join, 413, "headers_too_large"),
        ("req.t1.cart.c1.join", &[id, ("Deadline", "soon")], join, 400, "bad_header"),
        ("req.t1.cart.c1.join", &[id, ("Actor", "a"), ("Actor", "a")], join, 400, "bad_header"),
        ("cmd.t1.cart.c1.join", &[id, ("Nats-Msg-Id", "k1")], join, 400, "bad_header"),
    ];
    for (subject, headers, payload, status, code) in cases {
        assert_eq!(decode(subject, headers, payload), Some((status, code.into())), "{subject}");
    }
    assert_eq!(decode("req.t1.cart.c1.join", &[id], join), None);
    assert_eq!(decode("cmd.t1.cart.c1.join", &[id], &large[..1]), Some((400, "malformed".into())));
}

#[test]
fn the_payload_limit_is_exact() {
    let mut payload = b"{\"user\":\"bob\"}".to_vec();
    payload.resize(65_536, b' ');
    let command =
        Command::decode("req.t1.cart.c1.join", [("Command-Id", "k1")].into_iter(), &payload);
    let command = command.unwrap();
    assert!(command.request.is_ok());
    assert_eq!(command.door, Door::Request);
}

/// What a worker sends goes on for a tenant that is suspended.
#[test]
fn only_what_comes_from_the_fleets_account_is_of_a_worker() {
    let id = ("Command-Id", "k1");
    let actor = |name| ("Actor", name);
    let from_tenant = ("Nats-Request-Info", r#"{"acc":"T-t1"}"#);
    let is_of_worker = |door: &str, headers: &[(&str, &str)]| {
        let subject = format!("{door}.t1.cart.c1.abandon");
        Command::decode(&subject, headers.iter().copied(), b"{}").unwrap().is_of_worker
    };
    assert!(is_of_worker("req", &[id, actor("cart-lock-expiry")]));
    assert!(!is_of_worker("req", &[id, actor("cart-lock-expiry"), from_tenant]));
    // What is stored has lost the account of its sender.
    assert!(!is_of_worker("cmd", &[id, actor("cart-lock-expiry")]));
    assert!(!is_of_worker("req", &[id, actor("ada")]) && !is_of_worker("req", &[id]));
}
