//! The ETag and the size of a page.

use std::sync::Arc;

use brigade_contracts::{Era, list::MAX_BYTES};
use sha2::{Digest, Sha256};

use super::{row::ListRow, snapshot::RowVersions};

/// The most bytes of an answer beside its rows.
const ENVELOPE: usize = 512;

/// Returns how many rows, from the first one on, an answer has room for.
#[must_use]
pub fn count_fitting(rows: &[Arc<ListRow>]) -> usize {
    let mut left = MAX_BYTES - ENVELOPE;
    rows.iter()
        .take_while(|row| {
            let fits = left.checked_sub(row.text.get().len() + 1);
            left = fits.unwrap_or(0);
            fits.is_some()
        })
        .count()
}

/// Returns the entity tag of a page, without quotation marks: the first 128 bits of SHA-256, in
/// hex, and the era unless it is the first. How many of the rows an answer has room for follows from
/// their versions; that there are older ones (`is_cut`) does not. A page that is not the first one is
/// never taken for a list of the same orders.
#[must_use]
pub fn list_tag<'a>(
    era: Era,
    is_first: bool,
    rows: impl Iterator<Item = RowVersions<'a>>,
    is_cut: bool,
) -> String {
    let mut hash = Sha256::new();
    hash.update(if is_first { "list" } else { "page" });
    hash.update(if is_cut { " and more\n" } else { "\n" });
    for (order, core, payments) in rows {
        hash.update(format!("{order} {core} {payments}\n"));
    }
    let tag = hex::encode(&hash.finalize()[..16]);
    if era.is_first() { tag } else { format!("{tag}-{era}") }
}

/// Puts a tag between quotation marks.
#[must_use]
pub fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::workers::edge::query::list::{
        page::{ListPlace, PageStart},
        position::ListPosition,
        snapshot::{ListMoment, SnapshotOrder},
    };
    use brigade_contracts::{Token, list::List};

    fn row(size: usize) -> Arc<ListRow> {
        let text = RawValue::from_string(format!("\"{}\"", "x".repeat(size - 2)));
        Arc::new(ListRow::from_text(text.expect("JSON")))
    }

    proptest! {
        #[test]
        fn an_answer_has_room_for_what_fits(sizes in prop::collection::vec(2..400_000_usize, 0..12)) {
            let rows: Vec<_> = sizes.iter().map(|size| row(*size)).collect();
            let fitting = count_fitting(&rows);
            let taken: usize = sizes[..fitting].iter().map(|size| size + 1).sum();
            prop_assert!(taken + ENVELOPE <= MAX_BYTES);
            if let Some(next) = sizes.get(fitting) {
                prop_assert!(taken + next + 1 + ENVELOPE > MAX_BYTES);
            }
        }

        #[test]
        fn one_etag_names_one_list(
            a in prop::collection::vec(("[a-c]{1,2}", 1..3_u64, 1..3_u64), 0..4),
            b in prop::collection::vec(("[a-c]{1,2}", 1..3_u64, 1..3_u64), 0..4),
            more: (bool, bool),
            first: (bool, bool),
        ) {
            let tag = |rows: &[(String, u64, u64)], more, first| {
                let orders: Vec<SnapshotOrder> =
                    rows.iter().map(|(o, c, p)| SnapshotOrder::of_versions(o, *c, *p)).collect();
                list_tag(Era::FIRST, first, orders.iter().map(SnapshotOrder::versions), more)
            };
            let same = (&a, more.0, first.0) == (&b, more.1, first.1);
            prop_assert_eq!(tag(&a, more.0, first.0) == tag(&b, more.1, first.1), same);
        }
    }

    #[test]
    fn the_envelope_has_room_for_the_longest_positions() {
        let tenant = Token::new(&"t".repeat(Token::MAX_LEN)).expect("a token");
        let moment = ListMoment { start: i64::MAX, xid: i64::MAX, at: i64::MAX };
        let place = ListPlace { created_at: i64::MAX, order: tenant.clone() };
        let first = ListPosition { tenant, moment, whole: true };
        let resume = first.to_string();
        let next = PageStart { first, place }.to_string();
        let list =
            List { reset: true, rows: vec![], more: true, next: Some(&next), resume: &resume };
        assert!(serde_json::to_vec(&list).expect("JSON").len() < ENVELOPE);
    }

    #[test]
    fn an_etag_never_changes_for_the_same_list() {
        let orders =
            [SnapshotOrder::of_versions("o2", 3, 1), SnapshotOrder::of_versions("o1", 1, 1)];
        let tag = list_tag(Era::FIRST, true, orders.iter().map(SnapshotOrder::versions), false);
        assert_eq!(tag, "6d89fdc52dc7f829ba7bc8b9f6b21c84");
        let tag = list_tag(Era::new(9), true, orders.iter().map(SnapshotOrder::versions), false);
        assert_eq!(tag, "6d89fdc52dc7f829ba7bc8b9f6b21c84-9");
    }
}
