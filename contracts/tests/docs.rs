//! The documentation says what the sources say: codes, verbs, fields, events, limits, headers,
//! environment, scenarios, and paths.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use brigade_contracts::{
    Aggregate, MAX_AMOUNT, MAX_CONTENTS, MAX_EVENT, MAX_HEADER_BLOCK, MAX_HEADERS, MAX_ITEMS,
    MAX_NAME, MAX_NOTE, MAX_OPEN_CARTS, MAX_ORDERS_OF_TURN, MAX_PAYLOAD, MAX_PAYMENTS,
    MAX_PENDING_ORDERS,
    day_close::MAX_DAYS,
    event,
    list::{MAX_BYTES, MAX_FOLLOWED, MAX_ROW_BYTES, MAX_ROWS},
    page::MAX_PAGE_LIMIT,
    permissions::SYSTEM_VERBS,
    query::{MAX_HISTORY_LIMIT, MAX_PRODUCTS_LIMIT, MAX_WAIT_MS},
    schema,
    user::{MAX_ROLES, MAX_SESSIONS},
};
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below a folder of the repository with this extension, by its path from the root.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{folder}/{name}");
        if entry.file_type().unwrap().is_dir() {
            if !["target", "node_modules"].contains(&name.as_str()) {
                found.extend(files(&path, extension));
            }
        } else if name.strip_suffix(extension).is_some_and(|stem| stem.ends_with('.')) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The words between backticks, the odd pieces.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of a row of a table whose first cell begins with a word in backticks.
fn cells(line: &str) -> Option<Vec<&str>> {
    line.starts_with("| `").then(|| line.split('|').skip(1).map(str::trim).collect())
}

/// The text after each occurrence of a pattern.
fn after<'a>(text: &'a str, pattern: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(pattern).map(move |(at, _)| &text[at + pattern.len()..])
}

/// The string literal that a text begins with.
fn literal(text: &str) -> Option<&str> {
    text.trim_start().strip_prefix('"')?.split_once('"').map(|(literal, _)| literal)
}

/// Codes that nobody outside gets: of rows in SQL that no worker writes.
const INTERNAL_CODES: &[&str] = &["unknown_aggregate"];
/// The places where a refusal is made of a code that a function is given, or of a table.
const CODE_IS_GIVEN: &[&str] = &[
    "workers/domain/src/payment/initiate.rs",
    "workers/domain/src/user/session.rs",
    "workers/domain/src/user/subscription.rs",
    "workers/src/workers/edge/http/openapi/responses.rs",
];
/// These functions, and the status that they give.
const GIVEN: &[(&str, Option<u16>)] = &[
    ("target_not_found(", Some(404)),
    ("unauthorized(", Some(401)),
    ("conflict(", Some(409)),
    ("Done::code(", None),
    ("Self::code(", None),
];

/// Code → its statuses, as far as they stand beside it.
fn codes_of_the_sources() -> BTreeMap<String, BTreeSet<u16>> {
    let mut codes: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    let mut add = |code: &str, status: Option<u16>| {
        codes.entry(code.to_owned()).or_default().extend(status);
    };
    let is_test = |path: &&String| path.contains("/tests") || path.contains("/testing.rs");
    let sources = files("contracts/src", "rs").into_iter().chain(files("workers", "rs"));
    for path in sources.filter(|path| !is_test(&path)) {
        let text = read(&path);
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for arguments in after(text, "Refusal::new(") {
            let (status, rest) = arguments.split_once(',').unwrap();
            match (status.trim().parse().ok(), literal(rest)) {
                (Some(status), Some(code)) => add(code, Some(status)),
                _ => assert!(CODE_IS_GIVEN.contains(&&*path), "{path}: a code is not seen here"),
            }
        }
        for (function, status) in GIVEN {
            after(text, function).filter_map(literal).for_each(|code| add(code, *status));
        }
        if path == "contracts/src/refusal.rs" {
            after(text, "=> \"").for_each(|rest| {
                add(rest.split('"').next().unwrap_or_default(), Some(400));
            });
        }
    }
    codes.retain(|code, _| !INTERNAL_CODES.contains(&code.as_str()));
    codes
}

#[test]
fn every_code_of_the_sources_stands_in_the_reference_and_no_other() {
    let page = read("docs/reference/errors.md");
    let mut documented = BTreeMap::new();
    for row in page.lines().filter_map(cells) {
        let statuses: BTreeSet<u16> =
            row[1].split(", ").map(|status| status.parse().unwrap()).collect();
        let code = row[0].trim_matches('`').to_owned();
        assert_eq!(documented.insert(code.clone(), statuses), None, "{code} stands there twice");
    }
    let sources = codes_of_the_sources();
    assert_eq!(documented.keys().collect::<Vec<_>>(), sources.keys().collect::<Vec<_>>());
    for (code, statuses) in sources.iter().filter(|(_, statuses)| !statuses.is_empty()) {
        assert_eq!(&documented[code], statuses, "{code}");
    }
    // Other pages name codes too.
    for page in ["commands.md", "queries.md", "http.md", "limits.md", "guarantees.md"] {
        let text = read(format!("docs/reference/{page}"));
        for line in text.lines() {
            let words = line.split(['(', ')', '|', ',', ';', ' ']);
            let pairs: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
            for pair in pairs.windows(2) {
                let Ok(status @ 400..=599) = pair[0].trim_matches('`').parse::<u16>() else {
                    continue;
                };
                let code = pair[1].trim_end_matches(['.', ':']).trim_matches('`');
                let is_code = pair[1].starts_with('`') && !code.contains(['-', '/']);
                if is_code && let Some(statuses) = documented.get(code) {
                    assert!(statuses.contains(&status), "{page}: {status} {code}");
                } else if is_code {
                    panic!("{page}: there is no code {code}");
                }
            }
        }
    }
}

/// (Aggregate or `system`, verb) → field → whether it may be left out.
fn documented_verbs() -> BTreeMap<(String, String), BTreeMap<String, bool>> {
    let mut verbs = BTreeMap::new();
    let mut aggregate = None;
    let mut present: Vec<(String, String)> = Vec::new();
    for line in read("docs/reference/commands.md").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            let name = title.to_lowercase();
            let known = Aggregate::parse(&name).is_some().then_some(name);
            aggregate = known.or((title == "System verbs").then(|| "system".to_owned()));
            present.clear();
        } else if let (Some(title), Some(aggregate)) = (line.strip_prefix("### "), &aggregate) {
            present = quoted(title).map(|verb| (aggregate.clone(), verb.to_owned())).collect();
            for verb in &present {
                assert!(verbs.insert(verb.clone(), BTreeMap::new()).is_none(), "{verb:?} twice");
            }
        } else if let Some(row) = cells(line) {
            let name = row[0].trim_matches('`');
            for verb in present.iter().filter(|_| !name.contains('[')) {
                verbs.get_mut(verb).unwrap().insert(name.to_owned(), row[1].ends_with('?'));
            }
        }
    }
    verbs
}

#[test]
fn every_verb_and_each_of_its_fields_stands_in_the_reference() {
    let mut documented = documented_verbs();
    let components = schema::components();
    for verb in schema::verbs() {
        let name = (verb.aggregate.to_string(), verb.name.to_owned());
        let fields = documented.remove(&name).unwrap_or_else(|| panic!("{name:?} is missing"));
        let payload = &components[&verb.component];
        let required = payload["required"].as_array().cloned().unwrap_or_default();
        let properties = payload["properties"].as_object().cloned().unwrap_or_default();
        let expected: BTreeMap<String, bool> = properties
            .into_iter()
            .map(|(field, _)| (field.clone(), !required.contains(&Value::from(field))))
            .collect();
        assert_eq!(fields, expected, "{name:?}: field and whether it may be left out");
    }
    let system: BTreeSet<_> = documented.into_keys().collect();
    let expected = SYSTEM_VERBS.iter().map(|verb| ("system".to_owned(), (*verb).to_owned()));
    assert_eq!(system, expected.collect());
}

#[test]
fn every_event_stands_in_the_reference_with_what_it_touches() {
    let mut documented = BTreeMap::new();
    let mut aggregate = None;
    for line in read("docs/reference/events.md").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            aggregate = Aggregate::parse(&title.to_lowercase());
        } else if let (Some(row), Some(aggregate)) = (cells(line), aggregate) {
            for name in quoted(row[0]) {
                let before = documented.insert((aggregate, name.to_owned()), row[2].to_owned());
                assert_eq!(before, None, "{aggregate} {name} stands there twice");
            }
        }
    }
    let touches = |kind: &event::EventKind| match kind.touches {
        [] => "nothing".to_owned(),
        parts => parts.iter().map(|part| part.as_str()).collect::<Vec<_>>().join(", "),
    };
    let kinds = event::ALL.iter();
    let expected: BTreeMap<_, _> =
        kinds.map(|kind| ((kind.aggregate, kind.name.to_owned()), touches(kind))).collect();
    assert_eq!(documented, expected);
}

#[test]
fn the_limits_are_those_of_the_code() {
    let page = read("docs/reference/limits.md");
    for (name, value) in [
        ("MAX_PAYLOAD", MAX_PAYLOAD),
        ("MAX_HEADERS", MAX_HEADERS),
        ("MAX_HEADER_BLOCK", MAX_HEADER_BLOCK),
        ("MAX_NAME", MAX_NAME),
        ("MAX_NOTE", MAX_NOTE),
        ("MAX_CONTENTS", MAX_CONTENTS),
        ("MAX_EVENT", MAX_EVENT),
        ("MAX_AMOUNT", usize::try_from(MAX_AMOUNT).unwrap()),
        ("MAX_ITEMS", MAX_ITEMS),
        ("MAX_PAYMENTS", MAX_PAYMENTS),
        ("MAX_ORDERS_OF_TURN", MAX_ORDERS_OF_TURN),
        ("MAX_OPEN_CARTS", MAX_OPEN_CARTS),
        ("MAX_ROLES", MAX_ROLES),
        ("MAX_SESSIONS", MAX_SESSIONS),
        ("MAX_PENDING_ORDERS", MAX_PENDING_ORDERS),
        ("MAX_ROWS", MAX_ROWS),
        ("MAX_ROW_BYTES", MAX_ROW_BYTES),
        ("MAX_FOLLOWED", MAX_FOLLOWED),
        ("MAX_PAGE_LIMIT", usize::from(MAX_PAGE_LIMIT)),
        ("MAX_BYTES", MAX_BYTES),
        ("MAX_HISTORY_LIMIT", usize::from(MAX_HISTORY_LIMIT)),
        ("MAX_PRODUCTS_LIMIT", usize::from(MAX_PRODUCTS_LIMIT)),
        ("MAX_DAYS", usize::try_from(MAX_DAYS).unwrap()),
        ("MAX_WAIT_MS", usize::try_from(MAX_WAIT_MS).unwrap()),
    ] {
        let row = page.lines().find(|line| line.contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("{name} is missing"));
        let limit = row.split('|').nth(2).unwrap().split_whitespace().next().unwrap();
        assert_eq!(limit.trim_end_matches(','), value.to_string(), "{name}");
    }
}

#[test]
fn every_header_and_every_variable_stands_in_the_reference() {
    let (headers, operations) =
        (read("docs/reference/headers.md"), read("docs/reference/operations.md"));
    let source = read("contracts/src/header.rs");
    for name in after(&source, ": &str = ").filter_map(literal) {
        // Of the way from worker to server.
        let internal = ["Nats-Schedule", "Nats-Batch"].iter().any(|own| name.starts_with(own));
        assert!(internal || headers.contains(&format!("`{name}`")), "{name} is missing");
    }
    let source = read("workers/src/fleet/config/variables.rs");
    let (_, help) = source.split_once("pub const VARIABLES: &str = \"").unwrap();
    let (help, _) = help.split_once("\";").unwrap();
    let names = help.split_whitespace().filter(|word| word.starts_with("BRIGADE_"));
    for name in names.map(|name| name.trim_end_matches([',', '.', ';', ':'])) {
        assert!(operations.contains(&format!("`{name}`")), "{name} is missing");
    }
}

#[test]
fn every_metric_that_operators_are_told_of_exists() {
    let sources: String = files("workers/src", "rs").into_iter().map(read).collect();
    for page in ["docs/production.md", "docs/reference/operations.md"] {
        let text = read(page);
        let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let names = text.split(|c| !is_of_name(c)).filter(|word| word.starts_with("brigade_"));
        for name in names {
            assert!(sources.contains(&format!("\"{name}\"")), "{page}: there is no {name}");
        }
    }
}

/// The metrics that the sources register, by name.
fn registered_metrics() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files("workers/src", "rs") {
        let text = read(path);
        for kind in ["counter", "counters", "gauge", "gauges", "histograms", "seconds"] {
            // Also of a function that registers several of a kind.
            let pattern = format!("{kind}(");
            let names = after(&text, &pattern).filter_map(literal);
            for name in names.filter(|name| name.starts_with("brigade_")) {
                assert!(found.insert(name.to_owned()), "{name} is registered twice");
            }
        }
    }
    found
}

#[test]
fn every_metric_has_a_line_in_the_reference_and_every_line_a_metric() {
    let page = read("docs/reference/metrics.md");
    let mut documented = BTreeSet::new();
    for row in page.lines().filter_map(cells) {
        let name = row[0].trim_matches('`').to_owned();
        assert!(documented.insert(name.clone()), "{name} stands there twice");
    }
    assert_eq!(documented, registered_metrics());
}

/// The rows that a test's name begins with: `s2_03_s2_04_…` proves S2-03 and S2-04.
fn rows_of(test: &str) -> Vec<String> {
    let words: Vec<&str> = test.split('_').collect();
    let row = |pair: &[&str]| {
        let scene = pair[0].strip_prefix('s').filter(|digits| digits.parse::<u8>().is_ok())?;
        let is_row = pair[1].len() == 2 && pair[1].parse::<u8>().is_ok();
        is_row.then(|| format!("S{scene}-{}", pair[1]))
    };
    words.chunks_exact(2).map_while(row).collect()
}

/// The names of all functions of the repository.
fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in ["contracts", "tests", "workers"].into_iter().flat_map(|dir| files(dir, "rs")) {
        let text = read(path);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = after(&text, "fn ").filter_map(|rest| rest.split(|c| !is_name(c)).next());
        found.extend(names.map(ToOwned::to_owned));
    }
    found
}

#[test]
fn every_numbered_test_stands_under_its_row_and_every_named_test_exists() {
    let mut rows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut row = None;
    for line in read("docs/scenarios.md").lines() {
        if let Some((number, _)) = line.strip_prefix("**").and_then(|rest| rest.split_once("**")) {
            assert!(rows.insert(number.to_owned(), BTreeSet::new()).is_none(), "{number} twice");
            row = Some(number.to_owned());
        } else if let (Some(test), Some(row)) = (line.trim_start().strip_prefix("- `"), &row) {
            rows.get_mut(row).unwrap().insert(test.trim_end_matches('`').to_owned());
        }
    }
    assert!(rows.values().flatten().count() > 100, "the page is not read as it is written");
    let functions = functions();
    for (row, test) in rows.iter().flat_map(|(row, tests)| tests.iter().map(move |t| (row, t))) {
        assert!(functions.contains(test), "{row}: there is no test {test}");
        let numbers = rows_of(test);
        assert!(numbers.is_empty() || numbers.contains(row), "{test} is of another row than {row}");
    }
    for test in &functions {
        for row in rows_of(test) {
            let listed = rows.get(&row).is_some_and(|tests| tests.contains(test));
            assert!(listed, "{test} does not stand under {row} in docs/scenarios.md");
        }
    }
}

#[test]
fn a_tests_name_says_which_rows_it_proves() {
    assert_eq!(rows_of("s2_03_s2_04_nothing_changes"), ["S2-03", "S2-04"]);
    assert_eq!(rows_of("s10_01_x"), ["S10-01"]);
    for none in ["send_10_items", "s_03_x", "s2_3_x", "settle", "s5_"] {
        assert_eq!(rows_of(none), Vec::<String>::new(), "{none}");
    }
}

/// Returns the anchor by which a heading is linked.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches(['#', ' ']).to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_path_and_every_link_leads_somewhere() {
    let pages = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(ToOwned::to_owned);
    for page in pages.into_iter().chain(files("docs", "md")) {
        let text = read(&page);
        let folder = Path::new(&page).parent().unwrap().to_owned();
        for link in after(&text, "](").filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = if path.is_empty() { PathBuf::from(&page) } else { folder.join(path) };
            assert!(root().join(&path).exists(), "{page}: {link} leads nowhere");
            if !heading.is_empty() {
                let target = read(&path);
                let mut headings = target.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.any(|known| known == heading), "{page}: {link} leads nowhere");
            }
        }
        // Those of the architecture are of a mixed form.
        if page == "ARCHITECTURE.md" {
            continue;
        }
        let starts =
            ["contracts/", "deploy/", "docs/", "migrations/", "nats/", "tests/", "workers/"];
        let is_path = |word: &&str| starts.iter().any(|start| word.starts_with(start));
        let plain = |word: &&str| !word.contains(['<', '*', '…', ' ']);
        for path in text.lines().flat_map(quoted).filter(is_path).filter(plain) {
            assert!(root().join(path).exists(), "{page}: there is no {path}");
        }
    }
}
