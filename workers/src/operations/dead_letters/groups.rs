//! Groups of letters that died of the same: a thousand letters are often one cause.

use std::collections::{BTreeSet, HashMap};

use brigade_contracts::subject;
use time::OffsetDateTime;

use super::{Letter, Number};

/// Letters of a worker with the same reason.
#[derive(Clone, Debug)]
pub struct Group {
    pub worker: String,
    /// The reason without what differs between the letters: `…` stands for it.
    pub reason: String,
    pub letters: u64,
    /// Those of them whose commands have outcomes by now.
    pub decided: u64,
    pub tenants: BTreeSet<String>,
    pub oldest: OffsetDateTime,
    pub newest: OffsetDateTime,
    /// The newest one.
    pub example: Number,
}

/// Returns the groups of letters, the largest first.
#[must_use]
pub fn grouped(letters: &[Letter]) -> Vec<Group> {
    let mut groups: HashMap<(&str, String), Group> = HashMap::new();
    for letter in letters {
        let key = (letter.worker.as_str(), cause(&letter.reason));
        let group = groups.entry(key).or_insert_with_key(|(worker, reason)| Group {
            worker: (*worker).to_owned(),
            reason: reason.clone(),
            letters: 0,
            decided: 0,
            tenants: BTreeSet::new(),
            oldest: letter.stored_at,
            newest: letter.stored_at,
            example: letter.number,
        });
        group.letters += 1;
        group.decided += u64::from(letter.outcome.is_some());
        group.tenants.extend(subject::tenant_of(&letter.subject).map(str::to_owned));
        group.oldest = group.oldest.min(letter.stored_at);
        if letter.stored_at >= group.newest {
            (group.newest, group.example) = (letter.stored_at, letter.number);
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by(|a, b| {
        b.letters.cmp(&a.letters).then_with(|| (&a.worker, &a.reason).cmp(&(&b.worker, &b.reason)))
    });
    groups
}

/// Returns a reason with `…` in the place of each word with a digit, and of what stands in quotes:
/// ids, times and numbers differ from letter to letter.
fn cause(reason: &str) -> String {
    let mut cause = String::with_capacity(reason.len());
    let mut quote = None;
    let mut word = String::new();
    let put = |word: &mut String, cause: &mut String| {
        let differs = word.bytes().any(|byte| byte.is_ascii_digit());
        cause.push_str(if differs { "…" } else { word });
        word.clear();
    };
    for c in reason.chars() {
        match quote {
            Some(end) if c == end => {
                quote = None;
                cause.push('…');
                cause.push(c);
            }
            Some(_) => {}
            // An apostrophe stands within a word.
            None if c == '"' || c == '`' || c == '\'' && word.is_empty() => {
                put(&mut word, &mut cause);
                quote = Some(c);
                cause.push(c);
            }
            None if c.is_alphanumeric() || "_-.'".contains(c) => word.push(c),
            None => {
                put(&mut word, &mut cause);
                cause.push(c);
            }
        }
    }
    put(&mut word, &mut cause);
    cause
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    #[test]
    fn what_differs_between_letters_of_a_cause_is_left_out() {
        for (reason, expected) in [
            ("payment_not_there_yet", "payment_not_there_yet"),
            ("new row for \"orders\" violates \"fault\"", "new row for \"…\" violates \"…\""),
            ("no key 17 of c1 after 250ms: it's gone", "no key … of … after …: it's gone"),
            ("wrong_tenant: sent from T-t2", "wrong_tenant: sent from …"),
            ("it never \"ends", "it never \""),
            ("", ""),
        ] {
            assert_eq!(cause(reason), expected);
        }
    }

    #[test]
    fn letters_are_grouped_by_worker_and_cause() {
        let letter = |number, worker: &str, tenant: &str, reason: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("Origin-Subject", format!("cmd.{tenant}.cart.c1.open"));
            headers.insert("Dead-Reason", reason);
            let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(number);
            let number = Number::Stream(number.cast_unsigned());
            Letter::new(number, worker, headers, at)
        };
        let letters = [
            letter(1, "command-handler", "t1", "row 1 is locked"),
            letter(2, "outbox-relay", "t1", "too large"),
            letter(3, "command-handler", "t2", "row 2 is locked"),
        ];
        let groups = grouped(&letters);
        assert_eq!(groups.len(), 2);
        let first = &groups[0];
        assert_eq!((first.letters, first.reason.as_str()), (2, "row … is locked"));
        assert_eq!((first.example, first.tenants.len()), (Number::Stream(3), 2));
        assert!(first.oldest < first.newest);
        assert_eq!(groups[1].worker, "outbox-relay");
    }
}
