//! The OpenAPI document: every answer conforms to it.

use brigade_tests::{HttpClient, TestFleet, http_client::HttpResponse, producer::placed};
use serde_json::{Value, json};

/// Checks that an answer is one that the document has for this operation.
fn assert_told(document: &Value, method: &str, path: &str, page: &HttpResponse) {
    let status = page.status.to_string();
    let responses = &document["paths"][path][method]["responses"];
    let response = &responses[&status];
    let response = match response["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect("it resolves"),
        None => response,
    };
    assert!(response.is_object(), "{method} {path}: {status} is not told");
    // Nothing here is sent again, and no list has a second page.
    let headers = response["headers"].as_object().unwrap().keys();
    for header in headers.filter(|name| !["Idempotency-Replayed", "Link"].contains(&name.as_str()))
    {
        assert_ne!(page.header(header), "", "{method} {path} {status}: {header}");
    }
    let Some(content) = response["content"].as_object() else {
        assert_eq!(page.bytes.len(), 0, "{method} {path} {status}");
        return;
    };
    let media = content.get(page.header("content-type")).expect("a type that is told");
    let mut schema = media["schema"].clone();
    schema["components"] = document["components"].clone();
    let options = jsonschema::draft202012::options().should_validate_formats(true);
    let checked = options.build(&schema).unwrap();
    if let Err(error) = checked.validate(&page.body()) {
        panic!("{method} {path} {status}: {error} in {}", page.body());
    }
}

/// Sends a query of a path of the document and checks the answer against it.
async fn ask(
    http: &HttpClient,
    document: &Value,
    path: &str,
    id: &str,
    known: &str,
) -> HttpResponse {
    let asked = path.strip_prefix("/v1/{tenant}/").unwrap();
    let asked = asked.replace("{id}", id).replace("{command_id}", id);
    let headers = [("If-None-Match", known)];
    let page = http.get(&asked, if known.is_empty() { &[] } else { &headers }).await;
    assert_told(document, "get", path, &page);
    page
}

async fn send(http: &HttpClient, document: &Value, path: &str, payload: Value) -> HttpResponse {
    let page = http.post(path, &payload).await;
    let pieces: Vec<_> = path.split('/').collect();
    let told = format!("/v1/{{tenant}}/{}/{{id}}/{}", pieces[0], pieces[2]);
    assert_told(document, "post", &told, &page);
    page
}

#[tokio::test]
async fn what_is_answered_is_what_the_document_says() {
    let mut fleet = TestFleet::empty().await;
    fleet.settings.http.open = true;
    fleet.run_all().await;
    let http = fleet.http_client().await;
    let document = http.get("../openapi.json", &[]).await;
    assert_eq!((document.status, document.header("content-type")), (200, "application/json"));
    let document = document.body();
    assert_told(&document, "get", "/v1/openapi.json", &http.get("../openapi.json", &[]).await);

    let commands = [
        ("cart/c1/open", json!({"kind": "team", "owner": "ada", "currency": "EUR"}), 201),
        ("cart/c1/join", json!({"user": "b b"}), 400),
        ("cart/c1/join", json!({"user": "bob"}), 200),
        ("cart/c1/join", json!({"user": "bob"}), 409),
        ("cart/c1/lock", json!({"transaction_id": "g1", "method": "card"}), 422),
        ("cart/c1/add_item", brigade_tests::producer::item("i1", 500, 2), 200),
        ("cart/c1/lock", json!({"transaction_id": "g1", "method": "card"}), 200),
        ("cart/c1/remove_item", json!({"item_id": "i1"}), 423),
        ("order/o1/place", placed(&[("Soup", 500, 1)]), 201),
        ("order/o2/accept", json!({}), 404),
        ("table/t5/register", json!({"label": "5", "seats": 4}), 201),
        ("payment/p1/initiate", json!({"target": {"order": "o1"}, "method": "cash"}), 201),
        (
            "user/ada/register",
            json!({"email": "ada@x", "profile_id": "p", "password": "correct horse"}),
            201,
        ),
        ("user/ada/login", json!({"email": "ada@x", "password": "correct horse"}), 200),
        ("user/ada/login", json!({"email": "ada@x", "password": "wrong"}), 401),
    ];
    for (path, payload, status) in commands {
        let page = send(&http, &document, path, payload).await;
        assert_eq!(page.status, status, "{path} {:?}", page.body());
    }
    for (aggregate, id) in [("cart", "c1"), ("order", "o1"), ("table", "t5"), ("payment", "p1")] {
        let path = format!("/v1/{{tenant}}/{aggregate}/{{id}}");
        let view = ask(&http, &document, &path, id, "").await;
        let same = ask(&http, &document, &path, id, view.etag()).await;
        let none = ask(&http, &document, &path, "none", "").await;
        assert_eq!((view.status, same.status, none.status), (200, 304, 404), "{path}");
    }
    ask(&http, &document, "/v1/{tenant}/user/{id}", "ada", "").await;
    let list = ask(&http, &document, "/v1/{tenant}/active-orders", "", "").await;
    let resume = list.body()["resume"].as_str().unwrap().to_owned();
    http.post("order/o1/accept", &json!({})).await;
    let changes = http.get("active-orders", &[("Resume", &resume)]).await;
    assert_eq!(changes.body()["changes"].as_array().map(Vec::len), Some(1));
    assert_told(&document, "get", "/v1/{tenant}/active-orders", &changes);
    http.post_as("k1", "order/o1/prepare", &json!({})).await;
    for (id, status) in [("k1", 200), ("k2", 404)] {
        let path = "/v1/{tenant}/outcomes/{command_id}";
        assert_eq!(ask(&http, &document, path, id, "").await.status, status);
    }
    fleet.finish().await;
}
