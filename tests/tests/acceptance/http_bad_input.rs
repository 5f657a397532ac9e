//! Every bad input that HTTP can carry: a clear answer, nothing changed, the next request served.

use brigade_tests::{HttpClient, HttpResponse, TestFleet, producer::item};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::http::{open_fleet, team_cart};

async fn versions(fleet: &TestFleet) -> Vec<i64> {
    let all = "select version from brigade.carts union all select version from brigade.orders";
    sqlx::query_scalar(all).fetch_all(&fleet.sql).await.expect("rows")
}

/// Checks the headers of every answer and the shape of every error.
fn is_a_problem(response: &HttpResponse, what: &str) {
    assert_eq!(response.header("content-type"), "application/problem+json", "{what}");
    let body = response.body();
    assert_eq!(body["status"], response.status, "{what}");
    for member in ["type", "title", "detail", "instance", "code", "message"] {
        assert!(body[member].is_string(), "{what}: {member} of {body}");
    }
    assert_eq!(body["type"], format!("/v1/errors/{}", response.code()), "{what}");
    let instance = format!("urn:brigade:request:{}", response.header("x-request-id"));
    assert_eq!(body["instance"], instance, "{what}");
    is_safe(response, what);
}

fn is_safe(response: &HttpResponse, what: &str) {
    let expected = [
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("referrer-policy", "no-referrer"),
    ];
    for (name, value) in expected {
        assert_eq!(response.header(name), value, "{what}");
    }
    assert!(!response.header("cache-control").is_empty(), "{what}");
    assert_eq!(response.header("access-control-allow-origin"), "", "{what}");
}

#[tokio::test]
async fn bad_commands_over_http_are_answered_as_the_contract_says() {
    let (fleet, http) = open_fleet().await;
    let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"});
    assert_eq!(http.post("cart/c1/open", &open).await.status, 201);
    let order = brigade_tests::producer::placed(&[("Soup", 500, 1)]);
    assert_eq!(http.post("order/o1/place", &order).await.status, 201);
    let cases = super::bad_input::cases().into_iter().chain(super::bad_payments::cases());
    // Of these HTTP takes none over: it has an actor, and a trace, of its own.
    let taken = |name: &str| ["Deadline", "Expected-Version"].contains(&name);
    let cases: Vec<_> =
        cases.filter(|case| case.headers.iter().all(|(name, _)| taken(name))).collect();
    assert!(cases.len() >= 190, "{}", cases.len());
    for (at, case) in cases.iter().enumerate() {
        let path = case.what.replace('.', "/");
        let request = || {
            let request = http.request(Method::POST, &path).header("Command-Id", format!("k{at}"));
            let request = request.header("X-Request-Id", format!("r{at}"));
            let add = |request: reqwest::RequestBuilder, header: &(&str, String)| {
                request.header(header.0, &header.1)
            };
            http.send(case.headers.iter().fold(request, add).body(case.payload.clone()))
        };
        let response = request().await;
        let found = (response.status, response.code());
        assert_eq!(found, (case.status, case.code.to_owned()), "{}", case.name);
        is_a_problem(&response, &case.name);
        assert_eq!(request().await.bytes, response.bytes, "{} again", case.name);
    }
    assert_eq!(versions(&fleet).await, [1, 1], "nothing changed");
    assert_eq!(http.post("cart/c1/add_item", &item("i1", 100, 1)).await.status, 200);
    fleet.finish().await;
}

#[tokio::test]
async fn what_http_itself_can_get_wrong_is_answered_and_changes_nothing() {
    let (fleet, http) = open_fleet().await;
    team_cart(&http, "c1").await;
    let join = r#"{"user":"eve"}"#;
    type Case<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], &'a str, (u16, &'a str));
    let long = format!("cart/{}", "x".repeat(65));
    let key = ("Command-Id", "k1");
    let other_key = ("Idempotency-Key", "k2");
    let cases: &[Case<'_>] = &[
        (Method::GET, "cart/a%2Eb", &[], "", (400, "bad_subject")),
        (Method::GET, "cart/a%2Fb", &[], "", (400, "bad_subject")),
        (Method::GET, "cart/%2A", &[], "", (400, "bad_subject")),
        (Method::GET, "cart/%3E", &[], "", (400, "bad_subject")),
        (Method::GET, "cart/a%20b", &[], "", (400, "bad_subject")),
        (Method::GET, "cart/a%00", &[], "", (400, "bad_subject")),
        (Method::GET, "cart/%C3%BC", &[], "", (400, "bad_subject")),
        (Method::GET, "cart/%FF", &[], "", (400, "bad_subject")),
        (Method::GET, &long, &[], "", (400, "bad_subject")),
        (Method::GET, "outcomes/a.b", &[], "", (400, "bad_subject")),
        (Method::GET, "basket/c1", &[], "", (404, "not_found")),
        (Method::GET, "lock/ada", &[], "", (404, "not_found")),
        (Method::GET, "cart", &[], "", (404, "not_found")),
        (Method::GET, "cart/c1/join/x", &[], "", (404, "not_found")),
        (Method::GET, "cart/c9", &[], "", (404, "not_found")),
        (Method::GET, "cart/c1/join", &[], "", (405, "bad_method")),
        (Method::PUT, "cart/c1", &[], "", (405, "bad_method")),
        (Method::POST, "cart/c1", &[key], join, (405, "bad_method")),
        (Method::DELETE, "cart/c1", &[], "", (405, "bad_method")),
        (Method::OPTIONS, "cart/c1", &[], "", (405, "bad_method")),
        (Method::POST, "active-orders", &[key], join, (405, "bad_method")),
        (Method::GET, "cart/c1", &[("If-None-Match", "1")], "", (400, "bad_header")),
        (Method::GET, "cart/c1", &[("If-None-Match", "\"\u{fc}\"")], "", (400, "bad_header")),
        (Method::GET, "cart/c1", &[("Min-Version", "-1")], "", (400, "bad_header")),
        (Method::GET, "cart/c1", &[("Confirm", "guess")], "", (400, "bad_header")),
        (Method::GET, "active-orders", &[("If-None-Match", "x")], "", (400, "bad_header")),
        (Method::POST, "basket/c1/join", &[key], join, (404, "unknown_verb")),
        (Method::POST, "cart/c1/fly", &[key], join, (404, "unknown_verb")),
        (Method::POST, "cart/a%2Eb/join", &[key], join, (400, "bad_subject")),
        (Method::POST, "cart//join", &[key], join, (400, "bad_subject")),
        (Method::POST, "cart/%3E/join", &[key], join, (400, "bad_subject")),
        (Method::POST, "cart/c1/%2A", &[key], join, (400, "bad_subject")),
        (Method::POST, "cart/c1/join", &[], join, (400, "missing_command_id")),
        (Method::POST, "cart/c1/join", &[("Command-Id", "")], join, (400, "missing_command_id")),
        (Method::POST, "cart/c1/join", &[("Command-Id", "a b")], join, (400, "missing_command_id")),
        (
            Method::POST,
            "cart/c1/join",
            &[("Idempotency-Key", "\"")],
            join,
            (400, "missing_command_id"),
        ),
        // What needs no key has none, or one that can be used.
        (
            Method::POST,
            "sessions",
            &[("Idempotency-Key", "a b")],
            "{}",
            (400, "missing_command_id"),
        ),
        (Method::POST, "sessions", &[("Command-Id", "")], "{}", (400, "missing_command_id")),
        (Method::POST, "sessions", &[key, other_key], "{}", (400, "bad_header")),
        (Method::POST, "sessions", &[], "{}", (400, "missing_field")),
        (
            Method::POST,
            "password-resets",
            &[("Idempotency-Key", "\"")],
            "{}",
            (400, "missing_command_id"),
        ),
        (Method::POST, "cart/c1/join", &[key, key], join, (400, "bad_header")),
        (Method::POST, "cart/c1/join", &[key, other_key], join, (400, "bad_header")),
        (
            Method::POST,
            "cart/c1/join",
            &[key, ("Content-Type", "text/plain")],
            join,
            (415, "not_json"),
        ),
        (
            Method::POST,
            "cart/c1/join",
            &[key, ("Content-Type", "application/x-www-form-urlencoded")],
            join,
            (415, "not_json"),
        ),
        (Method::POST, "cart/c1/join", &[key, ("Deadline", "\u{fc}")], join, (400, "bad_header")),
        (Method::POST, "cart/c1/join", &[key], "fail-point-panics", (500, "internal")),
    ];
    for (method, path, headers, body, expected) in cases {
        let request = http.request(method.clone(), path).body((*body).to_owned());
        let response = http.send(headers.iter().fold(request, |r, (n, v)| r.header(*n, *v))).await;
        let what = format!("{method} {path} {headers:?}");
        assert_eq!(
            (response.status, response.code().as_str()),
            *expected,
            "{what}: {}",
            response.body()
        );
        is_a_problem(&response, &what);
        assert_eq!(response.status == 405, !response.header("allow").is_empty(), "{what}");
    }
    assert_eq!(http.get("cart/c1", &[]).await.etag(), "\"2\"", "nothing changed");
    let login = http.send(http.request(Method::POST, "sessions").body("{}")).await;
    assert_eq!(login.body()["param"], "email", "{}", login.body());
    // Without a type it is JSON, and so it is with one of JSON's.
    for (at, content_type) in [None, Some("Application/JSON; charset=utf-8")].iter().enumerate() {
        let request =
            http.request(Method::POST, "cart/c1/add_item").header("Command-Id", format!("i{at}"));
        let request = match content_type {
            Some(content_type) => request.header("Content-Type", *content_type),
            None => request,
        };
        let response = http.send(request.body(item(&format!("i{at}"), 1, 1).to_string())).await;
        assert_eq!(response.status, 200, "{}", response.body());
    }
    fleet.finish().await;
}

#[tokio::test]
async fn head_numbers_traces_and_origins() {
    let mut fleet = TestFleet::empty().await;
    fleet.settings.http.open = true;
    fleet.settings.http.origins = vec!["https://shop.example".parse().expect("a value")];
    fleet.run_all().await;
    let http = fleet.http_client().await;
    team_cart(&http, "c1").await;
    let head = http.send(http.request(Method::HEAD, "cart/c1")).await;
    let get = http.get("cart/c1", &[]).await;
    assert_eq!((head.status, head.etag(), head.bytes.len()), (200, "\"2\"", 0));
    assert_eq!(head.header("content-length"), get.bytes.len().to_string());
    is_safe(&get, "a view");
    let absent = http.send(http.request(Method::HEAD, "cart/none")).await;
    assert_eq!((absent.status, absent.bytes.len()), (404, 0));

    let told = http.get("cart/c1", &[("X-Request-Id", "r-1")]).await;
    assert_eq!(told.header("x-request-id"), "r-1");
    let made = http.get("cart/c1", &[("X-Request-Id", "r 1")]).await;
    assert!(uuid::Uuid::parse_str(made.header("x-request-id")).is_ok());
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (id, told) in [("i1", Some(trace)), ("i2", None), ("i3", Some("00-nonsense"))] {
        let request = http.request(Method::POST, "cart/c1/add_item").header("Command-Id", id);
        let request = told.into_iter().fold(request, |r, trace| r.header("traceparent", trace));
        assert_eq!(http.send(request.json(&item(id, 1, 1))).await.status, 200);
        let stored = "select traceparent from brigade.events where command_id = $1";
        let stored: Option<String> =
            sqlx::query_scalar(stored).bind(id).fetch_one(&fleet.sql).await.expect("an event");
        let stored = stored.expect("a trace");
        assert_eq!(stored == trace, told == Some(trace), "{id}: {stored}");
        assert_eq!(stored.len(), trace.len());
    }

    let preflight = |origin: &'static str| {
        let request = http.request(Method::OPTIONS, "cart/c1/join").header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "POST");
        http.send(request.header("Access-Control-Request-Headers", "authorization,idempotency-key"))
    };
    let ours = preflight("https://shop.example").await;
    assert_eq!(ours.status, 200);
    assert_eq!(ours.header("access-control-allow-origin"), "https://shop.example");
    assert!(ours.header("access-control-allow-headers").contains("idempotency-key"));
    assert!(ours.header("access-control-allow-methods").contains("POST"));
    assert_eq!(preflight("https://evil.example").await.header("access-control-allow-origin"), "");
    let read = http.get("cart/none", &[("Origin", "https://shop.example")]).await;
    assert_eq!(
        (read.status, read.header("access-control-allow-origin")),
        (404, "https://shop.example")
    );
    assert!(read.header("access-control-expose-headers").contains("etag"));
    let metrics = fleet.metrics.render();
    let counted =
        r#"brigade_http_requests_total{route="/v1/{tenant}/{aggregate}/{id}",status="404"}"#;
    assert!(metrics.contains(counted), "{metrics}");
    fleet.finish().await;
}

/// Returns the first line of the answer to these bytes.
async fn answered(http: &HttpClient, sent: &[u8]) -> String {
    let address = http.base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    // A server that has refused need not read the rest.
    let _refused_early = stream.write_all(sent).await;
    let mut answer = [0; 12];
    let read = stream.read_exact(&mut answer).await;
    read.map(|_| String::from_utf8_lossy(&answer).into_owned()).unwrap_or_default()
}

#[tokio::test]
async fn s7_08_a_parameter_that_does_nothing_or_cannot_be_read_is_told_by_its_name() {
    let (fleet, http) = open_fleet().await;
    team_cart(&http, "c1").await;
    for (path, code, param) in [
        ("tables?limit=5&ofset=5", "unknown_parameter", "ofset"),
        ("cart/c1?limit=5", "unknown_parameter", "limit"),
        ("active-orders/stream?after=x", "unknown_parameter", "after"),
        ("day-close?From=2020-01-01T00:00:00Z", "unknown_parameter", "From"),
        ("day-close?from=yesterday", "bad_header", "from"),
        ("day-close?from=2020-01-01T00:00:00Z&to=2019-01-01T00:00:00Z", "bad_header", "to"),
        ("tables?limit=0", "bad_header", "limit"),
        ("tables?limit=1&limit=2", "bad_header", "limit"),
        ("tables?after=nonsense", "bad_header", "after"),
        ("ended-orders?day=monday", "bad_header", "day"),
        ("refund-tasks?payment=a.b", "bad_header", "payment"),
    ] {
        let response = http.get(path, &[]).await;
        assert_eq!((response.status, response.code().as_str()), (400, code), "{path}");
        assert_eq!(response.body()["param"], param, "{path}");
        let message = response.body()["message"].to_string();
        assert!(!message.contains("header"), "{path}: {message}");
        is_a_problem(&response, path);
    }
    let told = http.get("tables", &[("Limit", "0")]).await.body();
    assert_eq!((&told["param"], &told["code"]), (&json!("Limit"), &json!("bad_header")));
    let login = http.post("sessions?cookies=perhaps", &json!({})).await;
    assert_eq!((login.status, &login.body()["param"]), (400, &json!("cookies")));
    assert_eq!(http.post("cart/c1/join?user=eve", &json!({})).await.code(), "unknown_parameter");
    fleet.finish().await;
}

#[tokio::test]
async fn what_is_too_large_or_no_http_is_refused_before_anybody_reads_it() {
    let (fleet, http) = open_fleet().await;
    team_cart(&http, "c1").await;
    let get =
        |headers: &str| format!("GET /v1/t1/cart/c1 HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    let post = |headers: &str, body: &str| {
        format!(
            "POST /v1/t1/cart/c1/join HTTP/1.1\r\nHost: localhost\r\nCommand-Id: k1\r\n{headers}\r\n{body}"
        )
    };
    let many: String = (0..101).map(|n| format!("X-{n}: x\r\n")).collect();
    let chunk = format!("{:x}\r\n{}\r\n", 8192, " ".repeat(8192)).repeat(9);
    let cases = [
        ("fine", get(""), "HTTP/1.1 200"),
        ("two hosts", get("Host: localhost\r\n"), "HTTP/1.1 400"),
        ("two other hosts", get("Host: elsewhere.example\r\n"), "HTTP/1.1 400"),
        (
            "a header of 64 KiB",
            get(&format!("X-Large: {}\r\n", "x".repeat(65_536))),
            "HTTP/1.1 431",
        ),
        ("101 headers", get(&many), "HTTP/1.1 431"),
        ("no request", "\u{16}\u{3}\u{1} hello\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("a header that is none", get("no colon\r\n"), "HTTP/1.1 400"),
        ("a length of 64 KiB + 1", post("Content-Length: 65537\r\n", ""), "HTTP/1.1 413"),
        (
            "a length beyond u64",
            post("Content-Length: 99999999999999999999\r\n", ""),
            "HTTP/1.1 400",
        ),
        ("chunks above 64 KiB", post("Transfer-Encoding: chunked\r\n", &chunk), "HTTP/1.1 413"),
        (
            "a chunk that is none",
            post("Transfer-Encoding: chunked\r\n", "nonsense\r\n"),
            "HTTP/1.1 400",
        ),
    ];
    for (what, sent, expected) in &cases {
        assert_eq!(answered(&http, sent.as_bytes()).await, *expected, "{what}");
    }
    // Exactly 64 KiB are taken.
    let mut largest = json!({"user": "eve"}).to_string();
    largest.push_str(&" ".repeat(65_536 - largest.len()));
    let request = http.request(Method::POST, "cart/c1/join").header("Command-Id", "k1");
    let response = http.send(request.body(largest)).await;
    assert_eq!(
        (response.status, &response.body()["version"]),
        (200, &json!(3)),
        "{}",
        response.body()
    );
    fleet.finish().await;
}
