//! What an expression of Prometheus names: metrics, and the labels by which it selects or groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
    str::Chars,
};

use crate::deploy::read;

/// Words of the language, besides functions and aggregations, behind which stands a bracket.
const WORDS: [&str; 6] = ["and", "or", "unless", "offset", "bool", "inf"];
/// Behind them stand labels in brackets.
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// What an expression names.
#[derive(Debug, Default, PartialEq)]
pub struct Names {
    /// Each metric with the labels by which it is selected there.
    pub selected: Vec<(String, BTreeSet<String>)>,
    /// The labels by which something is grouped or joined.
    pub grouped: BTreeSet<String>,
    /// The labels that the expression makes.
    pub made: BTreeSet<String>,
}

/// Reads an expression whose syntax promtool has accepted.
///
/// # Panics
/// Where it is written in a way that is not read here.
#[must_use]
pub fn names(expression: &str) -> Names {
    let mut names = Names::default();
    let mut tokens = tokens(expression).into_iter().peekable();
    let mut is_in_texts = false;
    while let Some(token) = tokens.next() {
        let follows = tokens.peek().cloned().unwrap_or_default();
        // Of four texts of `label_replace` the first one is the label.
        let is_first_text = token.starts_with('"') && !is_in_texts;
        is_in_texts = token.starts_with('"') || token == "," && is_in_texts;
        if GROUPINGS.contains(&token.as_str()) {
            let labels = tokens.by_ref().skip(1).take_while(|token| token != ")");
            names.grouped.extend(labels.filter(|token| token != ","));
        } else if is_first_text {
            names.made.insert(token[1..].to_owned());
        } else if is_name(&token) && !WORDS.contains(&token.as_str()) {
            // A function or an aggregation.
            if follows == "(" || GROUPINGS.contains(&follows.as_str()) {
                continue;
            }
            let mut labels = BTreeSet::new();
            if follows == "{" {
                let matchers = tokens.by_ref().skip(1).take_while(|token| token != "}");
                labels.extend(matchers.filter(|token| is_name(token)));
            }
            names.selected.push((token, labels));
        }
    }
    names
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Names, texts (which begin with a quotation mark, and have none at the end), and single signs.
/// Numbers and spans of time are left out.
fn tokens(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chars = expression.chars().peekable();
    while let Some(first) = chars.next() {
        match first {
            '"' => found.push(format!("\"{}", text(&mut chars))),
            c if c.is_whitespace() => {}
            c if c.is_ascii_digit() => drop(word(&mut chars)),
            c if c.is_ascii_alphabetic() || c == '_' => {
                found.push(format!("{c}{}", word(&mut chars)));
            }
            '$' => drop(word(&mut chars)),
            sign => found.push(sign.to_string()),
        }
    }
    found
}

fn text(chars: &mut Peekable<Chars<'_>>) -> String {
    chars.by_ref().take_while(|c| *c != '"').collect()
}

fn word(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut found = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '.') {
        found.push(c);
    }
    found
}

/// Returns the labels of each series that the reference has, those of histograms included.
///
/// # Panics
/// Where the page is not written as expected.
#[must_use]
pub fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for line in read("docs/reference/metrics.md").lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, labels, kind, ..] = cells[..] else { continue };
        let Some(name) = name.strip_prefix("`brigade_") else { continue };
        let name = format!("brigade_{}", name.trim_end_matches('`'));
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels: BTreeSet<_> = labels.filter(|label| !label.is_empty()).collect();
        if kind == "histogram" {
            for part in ["sum", "count"] {
                found.insert(format!("{name}_{part}"), labels.clone());
            }
            let with_bounds = labels.into_iter().chain(["le".to_owned()]).collect();
            found.insert(format!("{name}_bucket"), with_bounds);
        } else {
            assert!(["counter", "gauge"].contains(&kind), "{name} is a {kind}");
            found.insert(name, labels);
        }
    }
    assert!(found.len() > 50, "the page is not read as it is written");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_labels_of_an_expression_are_found() {
        let set = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
        let found = names(
            "label_replace(label_replace(max by (a, b) (m{x=~\"y|z\", w!=\"}\"}) > 0.5, \
             \"inner\", \"$1\", \"a\", \".+\"), \"outer\", \"o\", \"\", \"\")
             unless on (c) rate(n_total[$__rate_interval]) == 1e3 and absent(o[5m])",
        );
        let selected = [("m", set(&["x", "w"])), ("n_total", set(&[])), ("o", set(&[]))];
        assert_eq!(found.selected, selected.map(|(name, labels)| (name.to_owned(), labels)));
        assert_eq!(found.grouped, set(&["a", "b", "c"]));
        assert_eq!(found.made, set(&["inner", "outer"]));
    }
}
