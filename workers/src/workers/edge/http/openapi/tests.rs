use std::collections::BTreeSet;

use brigade_contracts::{cart, order, payment, permissions::SYSTEM_VERBS, product, table, user};

use super::*;
use crate::workers::edge::http::{parameters, routes};

/// All values in a value, itself included.
fn all(value: &Value) -> Vec<&Value> {
    let inner: Vec<&Value> = match value {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    std::iter::once(value).chain(inner.into_iter().flat_map(all)).collect()
}

/// Path, method and operation.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let mut all = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            all.push((path.as_str(), method.as_str(), operation));
        }
    }
    all
}

#[test]
fn every_verb_of_every_aggregate_but_the_systems_is_told() {
    let document = document();
    let verbs = [
        ("cart", cart::Verb::NAMES),
        ("payment", payment::Verb::NAMES),
        ("order", order::Verb::NAMES),
        ("table", table::Verb::NAMES),
        ("user", user::Verb::NAMES),
        ("product", product::Verb::NAMES),
    ];
    for (aggregate, names) in verbs {
        for verb in names.iter().chain(SYSTEM_VERBS) {
            let path = format!("/v1/{{tenant}}/{aggregate}/{{id}}/{verb}");
            let post = &document["paths"][&path]["post"];
            assert_eq!(post.is_object(), !SYSTEM_VERBS.contains(verb), "{path}");
            assert_ne!(
                post["description"].as_str().map(|d| d.contains("For nobody over HTTP")),
                Some(true)
            );
        }
    }
}

#[test]
fn every_path_that_is_served_is_told() {
    let document = document();
    for (path, _) in routes() {
        let path = path.replace("{aggregate}", "cart").replace("{verb}", "join");
        assert!(document["paths"][&path].is_object(), "{path}");
    }
}

#[test]
fn every_parameter_that_is_taken_is_told_and_no_other() {
    let document = document();
    for (path, _) in routes() {
        let taken: BTreeSet<&str> = parameters::taken(path).iter().copied().collect();
        let path = path.replace("{aggregate}", "cart").replace("{verb}", "join");
        let operations = document["paths"][&path].as_object().unwrap().values();
        let told = operations.flat_map(|operation| operation["parameters"].as_array());
        let told = told.flatten().filter_map(|parameter| {
            let reference = parameter["$ref"].as_str();
            let parameter = reference.map_or(Some(parameter), |r| document.pointer(&r[1..]))?;
            (parameter["in"] == "query").then(|| parameter["name"].as_str())?
        });
        assert_eq!(told.collect::<BTreeSet<_>>(), taken, "{path}");
    }
}

#[test]
fn every_reference_resolves() {
    let document = document();
    let references: Vec<&str> =
        all(&document).into_iter().filter_map(|value| value.get("$ref")?.as_str()).collect();
    assert!(references.len() > 500, "{}", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("of this document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_schema_and_every_answer_that_stands_there_is_used() {
    let document = document();
    let text = document.to_string();
    for kind in ["schemas", "responses", "parameters", "headers"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("\"#/components/{kind}/{name}\"");
            assert!(text.contains(&reference), "{reference}");
        }
    }
}

#[test]
fn operations_have_names_of_their_own_and_name_what_stands_in_their_paths() {
    let document = document();
    let mut names = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        assert!(names.insert(operation["operationId"].as_str().unwrap()), "{path} {method}");
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let told: BTreeSet<String> = parameters
            .filter_map(|parameter| {
                let parameter = document.pointer(&parameter["$ref"].as_str()?[1..])?;
                (parameter["in"] == "path").then(|| parameter["name"].as_str())?
            })
            .map(|name| format!("{{{name}}}"))
            .collect();
        let pieces = path.split('/').filter(|piece| piece.starts_with('{'));
        assert_eq!(pieces.map(str::to_owned).collect::<BTreeSet<_>>(), told, "{path}");
    }
}

#[test]
fn whoever_has_no_token_may_register_log_in_refresh_and_read_this_and_the_prices() {
    let document = document();
    let open: BTreeSet<&str> = operations(&document)
        .into_iter()
        .filter(|(_, _, operation)| operation["security"] == json!([]))
        .filter_map(|(_, _, operation)| operation["operationId"].as_str())
        .collect();
    let expected = [
        "UserLogin",
        "UserRefresh",
        "UserRegister",
        "UserRequestPasswordReset",
        "UserResetPassword",
        "createSession",
        "getError",
        "getErrors",
        "getOpenApi",
        "getProducts",
        "postGatewayMessage",
        "refreshSession",
        "requestPasswordReset",
    ];
    assert_eq!(open, BTreeSet::from(expected));
}

#[test]
fn every_example_is_what_its_schema_says() {
    let document = document();
    let media = all(&document).into_iter().filter_map(|value| {
        let example = value.get("example")?;
        Some((&value["schema"], example))
    });
    let outcome = &document["components"]["schemas"]["Outcome"];
    let examples: Vec<_> = media.chain([(outcome, &outcome["examples"][0])]).collect();
    assert!(examples.len() > 15, "{}", examples.len());
    for (schema, example) in examples {
        let mut root = schema.clone();
        root["components"] = document["components"].clone();
        let options = jsonschema::draft202012::options().should_validate_formats(true);
        let validator = options.build(&root).unwrap();
        assert!(validator.is_valid(example), "{example}");
    }
    let locked = &document["components"]["responses"]["Status423"];
    let example = &locked["content"]["application/problem+json"]["example"];
    assert_eq!((&example["code"], &example["status"]), (&json!("cart_locked"), &json!(423)));
}
