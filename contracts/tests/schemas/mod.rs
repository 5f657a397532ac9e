//! Checks messages against the schemas.

use std::{collections::BTreeMap, sync::LazyLock};

use brigade_contracts::schema;
use jsonschema::Validator;
use serde_json::{Value, json};

/// Returns whether a component permits a message; `None`: there is no such component.
pub fn permits(component: &str, message: &Value) -> Option<bool> {
    static VALIDATORS: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
        let components = schema::components();
        let validator = |name: &String| {
            let mut root = schema::reference(name);
            root["components"] = json!({ "schemas": components });
            let options = jsonschema::draft202012::options().should_validate_formats(true);
            options.build(&root).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        components.keys().map(|name| (name.clone(), validator(name))).collect()
    });
    Some(VALIDATORS.get(component)?.is_valid(message))
}
