//! The files of `deploy/`, read as their tools read them.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use serde_json::{Map, Value};
use tokio::process::Command;

use crate::interop::run;

/// Returns the path of a file of the repository.
#[must_use]
pub fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

/// Reads a file of the repository.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Reads the documents of a file of YAML, with what `<<` merges in.
///
/// # Panics
/// Where it is no YAML.
#[must_use]
pub fn documents(file: &str) -> Vec<Value> {
    let text = read(file);
    let document = |text: &str| {
        let value = serde_yaml_ng::from_str(text);
        merged(value.unwrap_or_else(|error| panic!("{file}: {error}")))
    };
    text.split("\n---\n").map(document).collect()
}

/// Reads a file of YAML with one document.
#[must_use]
pub fn document(file: &str) -> Value {
    documents(file).swap_remove(0)
}

/// Merges what stands under `<<`, which counts less than what stands beside it.
fn merged(value: Value) -> Value {
    match value {
        Value::Object(mut own) => {
            let mut all = match own.remove("<<").map(merged) {
                Some(Value::Object(anchored)) => anchored,
                _ => Map::new(),
            };
            all.extend(own.into_iter().map(|(name, value)| (name, merged(value))));
            Value::Object(all)
        }
        Value::Array(items) => items.into_iter().map(merged).collect(),
        other => other,
    }
}

/// Returns the strings of a list.
///
/// # Panics
/// Where it is none.
#[must_use]
pub fn words(list: &Value) -> Vec<&str> {
    let items = list.as_array().unwrap_or_else(|| panic!("{list} is no list"));
    items.iter().map(|word| word.as_str().unwrap_or_else(|| panic!("{word} is no text"))).collect()
}

/// Returns the environment that the image gives to the program.
///
/// # Panics
/// Where a line has no value.
#[must_use]
pub fn of_image() -> BTreeMap<String, String> {
    let image = read("deploy/Dockerfile");
    let (_, last) = image.split_once("\nFROM scratch\n").expect("the last stage");
    let lines = last.lines().filter_map(|line| line.strip_prefix("ENV "));
    lines.map(|line| super::production::setting(line).expect("a value")).collect()
}

/// Returns a program that this machine has: on the PATH, or in the cache folder, where
/// `.ci/deploy-tools` and `.ci/prometheus` put some. Else says that what needs it is skipped.
#[expect(clippy::disallowed_methods, reason = "where programs are")]
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let set = |name: &str| env::var_os(name).map(PathBuf::from);
    let cache = set("BRIGADE_CACHE_DIR")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("brigade")))
        .or_else(|| Some(set("HOME")?.join(".cache/brigade")));
    let cached = cache.into_iter();
    let cached =
        cached.flat_map(|cache| ["deploy-tools/bin", "prometheus"].map(|at| cache.join(at)));
    let places = folders.into_iter().chain(cached);
    let found = places.map(|folder| folder.join(name)).find(|program| program.exists());
    if found.is_none() {
        eprintln!("SKIPPED, there is no {name} (.ci/deploy-tools, .ci/prometheus)");
    }
    found
}

/// Runs a tool that complains of nothing, and returns what it prints.
///
/// # Panics
/// Where it complains.
pub async fn accepted(command: &mut Command) -> String {
    run(command).await.unwrap_or_else(|error| panic!("{error:#}"))
}
