//! The price list of a restaurant: who sets it, what is sold by it, and how it is read.

use std::{collections::BTreeMap, fs};

use brigade_tests::{HttpClient, TestFleet, process, producer::item};
use futures::future::join_all;
use serde_json::{Value, json};

/// Registers a user with these roles and logs in.
pub async fn with_roles(
    fleet: &TestFleet,
    http: &HttpClient,
    user: &str,
    roles: &[&str],
) -> HttpClient {
    let user_web = http.register_and_log_in(user).await;
    let producer = fleet.producer().await;
    let change = format!("user.{user}.change_roles");
    assert_eq!(producer.send(&change, json!({"roles": roles})).await.status, 200);
    user_web
}

/// Returns a payload of `set`.
pub fn product(name: &str, price: i64) -> Value {
    json!({"name": name, "unit_price": price, "currency": "EUR"})
}

/// Returns what a customer sends to add a product.
pub fn wanted(item: &str, sku: &str, quantity: i64) -> Value {
    json!({"item_id": item, "sku": sku, "quantity": quantity})
}

/// Every way in which a customer may ask for something, and whether a price or a name is in it.
fn asked(n: usize, sku: &str) -> (Value, bool) {
    let mut payload = wanted(&format!("i{n}"), sku, 1 + (n % 3) as i64);
    let forged = [
        json!({}),
        json!({"unit_price": 0}),
        json!({"name": "Steak"}),
        json!({"unit_price": 1, "name": "Steak"}),
        json!({"unit_price": null, "name": null}),
        json!({"unit_price": "0"}),
        json!({"unit_price": 500}),
    ];
    let more = &forged[n % forged.len()];
    for (name, value) in more.as_object().expect("fields") {
        payload[name] = value.clone();
    }
    (payload, more.as_object().expect("fields").values().any(|value| !value.is_null()))
}

#[tokio::test]
async fn s7_01_no_requests_of_customers_make_an_order_at_another_price() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let manager = with_roles(&fleet, &http, "mia", &["manager"]).await;
    let staff = with_roles(&fleet, &http, "sam", &["staff"]).await;
    let ada = http.register_and_log_in("ada").await;
    // Nobody below a manager says what anything costs.
    for who in [&ada, &staff] {
        let set = who.post("product/steak/set", &product("Steak", 0)).await;
        assert_eq!((set.status, set.code().as_str()), (403, "not_allowed"));
        assert_eq!(who.post("product/steak/withdraw", &json!({})).await.status, 403);
    }
    let skus = ["steak", "soup", "wine"];
    let mut list: BTreeMap<&str, i64> = BTreeMap::new();
    let mut sold: BTreeMap<(String, String), (String, i64)> = BTreeMap::new();
    for cart in ["c1", "c2", "c3"] {
        // A cart in another currency is no way to a lower price.
        let currency = if cart == "c3" { "IRR" } else { "EUR" };
        let open = json!({"kind": "menu", "owner": "ada", "currency": currency});
        assert_eq!(ada.post(&format!("cart/{cart}/open"), &open).await.status, 201);
    }
    for n in 0..84 {
        // The restaurant changes its prices meanwhile.
        let sku = skus[n % 3];
        if n % 5 == 0 {
            let price = 500 + (n as i64) * 10;
            let set = manager.post(&format!("product/{sku}/set"), &product(sku, price)).await;
            assert!(set.status < 300, "{}", set.body());
            list.insert(sku, price);
        } else if n % 11 == 7 && list.remove(sku).is_some() {
            let gone = manager.post(&format!("product/{sku}/withdraw"), &json!({})).await;
            assert_eq!(gone.status, 200, "{}", gone.body());
        }
        let cart = ["c1", "c2", "c3"][(n / 3) % 3];
        let (payload, is_forged) = asked(n, sku);
        let added = ada.post(&format!("cart/{cart}/add_item"), &payload).await;
        let expected = match list.get(sku) {
            _ if is_forged => (403, "price_not_yours"),
            None => (422, "unknown_product"),
            Some(_) if cart == "c3" => (409, "other_currency"),
            Some(price) => {
                let key = (cart.to_owned(), format!("i{n}"));
                sold.insert(key, (sku.to_owned(), *price));
                (200, "ok")
            }
        };
        assert_eq!((added.status, added.code().as_str()), expected, "{n} {payload}");
    }
    assert!(sold.len() > 10, "{sold:?}");
    for cart in ["c1", "c2"] {
        let order = json!({"order_id": format!("of-{cart}")});
        assert_eq!(ada.post(&format!("cart/{cart}/check_out"), &order).await.status, 200);
        let order = ada.get(&format!("order/of-{cart}"), &[]).await.body();
        let items = order["core"]["items"].as_array().expect("items").clone();
        let of_cart = sold.iter().filter(|((of, _), _)| of == cart);
        assert_eq!(items.len(), of_cart.count());
        for item in items {
            let key = (cart.to_owned(), item["item_id"].as_str().expect("an id").to_owned());
            let (sku, price) = &sold[&key];
            assert_eq!((&item["name"], &item["unit_price"]), (&json!(sku), &json!(price)));
        }
    }
    // A customer places no order by himself, at whatever price; staff may name one.
    let place = json!({"currency": "EUR", "items": [{"sku": "soup", "quantity": 1}]});
    assert_eq!(ada.post("order/o1/place", &place).await.status, 403);
    let cart = json!({"kind": "menu", "owner": "sam", "currency": "EUR"});
    assert_eq!(staff.post("cart/c4/open", &cart).await.status, 201);
    assert_eq!(staff.post("cart/c4/add_item", &item("i1", 1, 1)).await.status, 200);
    fleet.finish().await;
}

/// Whoever adds a product reads its price and does not wait for others who do; who changes it waits
/// for those who are there, and not for all who come.
#[tokio::test]
async fn s7_01_a_price_that_is_changed_while_many_add_the_product_holds_up_nobody() {
    const CARTS: usize = 150;
    const PRICES: i64 = 30;
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    assert_eq!(producer.send("product.soup.set", product("Soup", 1000)).await.status, 201);
    let carts = join_all((0..CARTS).map(async |n| {
        let open = json!({"kind": "menu", "owner": format!("u{n}"), "currency": "EUR"});
        producer.send(&format!("cart.c{n}.open"), open).await.status
    }));
    assert!(carts.await.iter().all(|status| *status == 201));
    let adds = join_all((0..CARTS).map(async |n| {
        let add = wanted("i1", "soup", 1);
        let added = producer.send(&format!("cart.c{n}.add_item"), add).await;
        assert_eq!(added.status, 200, "{}", added.body());
        added.body()["data"]["core"]["items"][0]["unit_price"].as_i64().expect("a price")
    }));
    let changes = async {
        for price in 1001..=1000 + PRICES {
            let set = producer.send("product.soup.set", product("Soup", price)).await;
            assert_eq!(set.status, 200, "{}", set.body());
            // What is sent after the outcome has this price or a later one: here there is no later.
            let cart = format!("cart.p{price}");
            let open = json!({"kind": "menu", "owner": format!("p{price}"), "currency": "EUR"});
            assert_eq!(producer.send(&format!("{cart}.open"), open).await.status, 201);
            let added =
                producer.send(&format!("{cart}.add_item"), wanted("i1", "soup", 1)).await.body();
            assert_eq!(added["data"]["core"]["items"][0]["unit_price"], price, "{added}");
        }
    };
    let (prices, ()) = tokio::join!(adds, changes);
    assert!(prices.iter().all(|price| (1000..=1000 + PRICES).contains(price)), "{prices:?}");
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    let deadlocks: i64 = sqlx::query_scalar(deadlocks).fetch_one(&fleet.sql).await.expect("a row");
    assert_eq!(deadlocks, 0);
    fleet.finish().await;
}

#[tokio::test]
async fn s7_01_a_list_is_imported_looked_at_and_told_page_by_page() {
    let fleet = TestFleet::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("menu.csv");
    let write = |lines: &str| {
        let text = format!("sku,name,unit_price,currency,category,available\n{lines}");
        fs::write(&file, text).expect("written");
    };
    let import = format!("products import {} --tenant t1", file.display());
    let events = async || {
        let events = "select count(*) from brigade.events where aggregate = 'product'";
        sqlx::query_scalar::<_, i64>(events).fetch_one(&fleet.sql).await.expect("a number")
    };
    write("P-1,\"Pizza, large\",1250,EUR,Mains,true\nW-1,Water,300,EUR,,\nS-1,Soup,x,EUR,,\n");
    let error = process::refused(&fleet, &import).await;
    assert!(
        error.contains("line 4: unit_price") && error.contains("nothing was imported"),
        "{error}"
    );
    assert_eq!(events().await, 0);
    write(
        "P-1,\"Pizza, large\",1250,EUR,Mains,true\nW-1,Water,300,EUR,,\nS-1,Soup,650,EUR,,false\n",
    );
    let told = process::printed(&fleet, &format!("{import} --dry-run")).await;
    assert!(told.contains("would be set: P-1: Pizza, large 1250 EUR in Mains (new)"), "{told}");
    assert_eq!(events().await, 0);
    let told = process::printed(&fleet, &import).await;
    assert!(told.contains("[3/3] set S-1: Soup 650 EUR, sold out (new)"), "{told}");
    assert_eq!(events().await, 3);
    assert!(!process::printed(&fleet, &import).await.contains("set "), "nothing to do");
    // What was something else in between is set again, though the file is what it was.
    let producer = fleet.producer().await;
    assert_eq!(producer.send("product.W-1.set", product("Water", 310)).await.status, 200);
    assert_eq!(producer.send("product.S-1.withdraw", json!({})).await.status, 200);
    let told = process::printed(&fleet, &import).await;
    assert!(told.contains("set W-1: Water 300 EUR (was Water 310 EUR)"), "{told}");
    assert_eq!(events().await, 7);
    let listed = process::printed(&fleet, "products ls --tenant t1").await;
    assert!(listed.contains("P-1") && listed.contains("1250 EUR"), "{listed}");

    // Everybody reads it over HTTP, without a token, and is told 304 as long as nothing changes.
    let http = fleet.http_client().await;
    let first = http.get("products", &[("Limit", "2")]).await;
    assert_eq!(first.status, 200, "{}", first.body());
    let skus = |page: &Value| {
        let rows = page["products"].as_array().expect("rows").iter();
        rows.map(|row| row["sku"].as_str().expect("a sku").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (skus(&first.body()), &first.body()["after"]),
        (vec!["P-1".into(), "S-1".into()], &json!("S-1"))
    );
    let second = http.get("products", &[("Limit", "2"), ("After", "S-1")]).await;
    assert_eq!((skus(&second.body()), &second.body()["after"]), (vec!["W-1".into()], &Value::Null));
    let known = [("Limit", "2"), ("If-None-Match", first.etag())];
    assert_eq!(http.get("products", &known).await.status, 304);
    assert_eq!(http.get("products", &[("Limit", "401")]).await.code(), "bad_header");
    assert_eq!(http.of("t9").get("products", &[]).await.code(), "unknown_tenant");
    assert_eq!(producer.send("product.P-1.set", product("Pizza", 1300)).await.status, 200);
    let changed = http.get("products", &known).await;
    assert_eq!((changed.status, &changed.body()["products"][0]["unit_price"]), (200, &json!(1300)));
    assert_eq!(
        http.of("t2").get("products", &[]).await.body(),
        json!({"products": [], "after": null})
    );
    // A product by itself is for whoever has a token, and for programs over NATS.
    assert_eq!(http.get("product/P-1", &[]).await.status, 401);
    let ada = http.register_and_log_in("ada").await;
    assert_eq!(ada.get("product/P-1", &[]).await.body()["core"]["unit_price"], 1300);
    assert_eq!(producer.view("product.P-1", None).await.body()["core"]["listed"], true);
    let page = producer.client.request("q.t1.products", "".into()).await.expect("a page");
    let page: Value = serde_json::from_slice(&page.payload).expect("JSON");
    assert_eq!(skus(&page), ["P-1", "S-1", "W-1"]);
    fleet.finish().await;
}
