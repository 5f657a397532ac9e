//! Prints letters, for people and as JSON.

use std::io::{Write as _, stdout};

use anyhow::Result;
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade::{
    operations::dead_letters::{Group, Letter, Overflow, Page},
    runtime::{
        dead_letter::{RAW_HEADERS, RAW_SUBJECT},
        delivery::pairs,
    },
};
use brigade_contracts::Timestamp;
use serde_json::{Value, json};

use crate::{
    output::line,
    printable::{printable, printable_json},
};

pub(super) fn list(page: &Page, json: bool) -> Result<()> {
    if !json {
        line(format_args!(
            "{:>8}  {:<24}  {:<22}  {:<40}  reason",
            "number", "at", "worker", "subject"
        ))?;
    }
    for letter in &page.letters {
        if json {
            line(format_args!("{}", printable_json(&as_json(letter))))?;
            continue;
        }
        let number = letter.number;
        let [at, worker, subject, reason] =
            [&letter.at, &letter.worker, &letter.subject, &letter.reason].map(|t| printable(t));
        let notes = notes(letter);
        line(format_args!("{number:>8}  {at:<24}  {worker:<22}  {subject:<40}  {reason}{notes}"))?;
    }
    if let Some(last) = page.letters.last().filter(|_| page.more) {
        eprintln!("There are more: go on with --after {}, or choose a --limit.", last.number);
    }
    Ok(())
}

/// Prints what was counted of letters that SQL had no room for: they have no number, and nothing
/// can be done with them.
pub(super) fn list_overflow(counted: &[Overflow], json: bool) -> Result<()> {
    for Overflow { tenant, worker, reason, letters, first_at, last_at, last_subject } in counted {
        let [first_at, last_at] = [first_at, last_at].map(|at| Timestamp::from(*at).to_string());
        if json {
            let counted = json!({
                "number": null, "not_kept": letters, "first_at": first_at, "at": last_at,
                "worker": worker, "tenant": tenant, "subject": last_subject, "reason": reason,
            });
            line(format_args!("{}", printable_json(&counted)))?;
            continue;
        }
        let [worker, subject, reason] = [worker, last_subject, reason].map(|text| printable(text));
        line(format_args!(
            "{:>8}  {last_at:<24}  {worker:<22}  {subject:<40}  {reason} [{letters} like this \
             counted since {first_at}, not kept]",
            "-"
        ))?;
    }
    Ok(())
}

fn as_json(letter: &Letter) -> Value {
    json!({
        "number": letter.number.to_string(),
        "at": letter.at,
        "worker": letter.worker,
        "subject": letter.subject,
        "reason": letter.reason,
        "headers": pairs(Some(&letter.headers)).collect::<Vec<_>>(),
        "payload_gone": letter.payload_gone(),
        "action": letter.action,
        "outcome": letter.outcome,
        "id_belongs_to": letter.id_belongs_to,
    })
}

/// Returns what became of a letter, in brackets.
fn notes(letter: &Letter) -> String {
    let gone = letter.payload_gone().map(|_| " [payload not kept]").unwrap_or_default();
    let action = letter.action.as_ref().map(|action| format!(" [{action}]"));
    let outcome = letter.outcome.map(|status| format!(" [has the outcome {status}]"));
    let other = letter.id_belongs_to.as_ref();
    let other = other.map(|other| format!(" [its Command-Id belongs to {}]", printable(other)));
    gone.to_owned() + &action.unwrap_or_default() + &outcome.or(other).unwrap_or_default()
}

/// Prints a letter whole, and whether it can be replayed as it is.
pub(super) fn show(letter: &Letter, payload: &[u8], replay: &Result<()>) -> Result<()> {
    let Letter { number, worker, subject, reason, .. } = letter;
    let [worker, subject, reason] = [worker, subject, reason].map(|text| printable(text));
    line(format_args!("{subject} (dead letter {number} of {worker}){}", notes(letter)))?;
    line(format_args!("reason: {reason}"))?;
    match replay {
        Ok(()) => line(format_args!("replay: possible"))?,
        Err(why) => line(format_args!("replay: not possible: {}", printable(&why.to_string())))?,
    }
    line(format_args!(""))?;
    for (name, value) in pairs(Some(&letter.headers)) {
        line(format_args!("{}: {}", printable(name), printable(value)))?;
        if [RAW_HEADERS, RAW_SUBJECT].contains(&name)
            && let Ok(raw) = BASE64_STANDARD.decode(value)
        {
            line(format_args!("  = {}", raw.escape_ascii()))?;
        }
    }
    line(format_args!(""))?;
    for text in String::from_utf8_lossy(payload).lines() {
        line(format_args!("{}", printable(text)))?;
    }
    Ok(())
}

/// Prints the same as an object: the payload as text if it is one, and in base64.
pub(super) fn show_json(letter: &Letter, payload: &[u8], replay: &Result<()>) -> Result<()> {
    let mut shown = as_json(letter);
    shown["payload"] = json!(std::str::from_utf8(payload).ok());
    shown["payload_base64"] = json!(BASE64_STANDARD.encode(payload));
    shown["replay_refused"] = json!(replay.as_ref().err().map(ToString::to_string));
    line(format_args!("{}", printable_json(&shown)))
}

/// Prints the payload alone, byte for byte: to be edited.
pub(super) fn payload(payload: &[u8]) -> Result<()> {
    stdout().write_all(payload)?;
    Ok(stdout().flush()?)
}

pub(super) fn groups(groups: &[Group], json: bool) -> Result<()> {
    if !json {
        line(format_args!(
            "{:>8}  {:<22}  {:<24}  {:<24}  {:>8}  {:<20}  reason",
            "letters", "worker", "oldest", "newest", "example", "tenants"
        ))?;
    }
    for group in groups {
        let Group { worker, reason, letters, decided, tenants, oldest, newest, example } = group;
        let [oldest, newest] = [oldest, newest].map(|at| Timestamp::from(*at).to_string());
        if json {
            let group = json!({
                "worker": worker, "reason": reason, "letters": letters, "decided": decided,
                "tenants": tenants, "oldest": oldest, "newest": newest,
                "example": example.to_string(),
            });
            line(format_args!("{}", printable_json(&group)))?;
            continue;
        }
        let some = tenants.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(",");
        let more =
            if tenants.len() > 3 { format!(" +{}", tenants.len() - 3) } else { String::new() };
        let tenants = printable(&some) + &more;
        let [worker, reason] = [worker, reason].map(|text| printable(text));
        let decided =
            if *decided > 0 { format!(" [{decided} have outcomes]") } else { String::new() };
        line(format_args!(
            "{letters:>8}  {worker:<22}  {oldest:<24}  {newest:<24}  {example:>8}  {tenants:<20}  \
             {reason}{decided}"
        ))?;
    }
    Ok(())
}
