//! The place of a row in a list, as clients get it: one opaque word, which any edge understands.

use brigade_contracts::{
    Refusal, Token,
    header::{AFTER, bad},
};

use super::PagedList;

/// The last row of the page before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PagePlace {
    /// The time that the list is sorted by, in milliseconds of the Unix time; 0 where it is sorted
    /// by ids alone.
    pub at: i64,
    /// The id of the row: a Token, or `<payment>.<n>`.
    pub id: String,
}

impl PagePlace {
    /// Reads a place in this list.
    ///
    /// # Errors
    /// `400 bad_header` if no page of such a list has named it.
    pub fn parse(text: &str, list: &PagedList) -> Result<Self, Refusal> {
        Self::read(text, form(list)).ok_or_else(|| bad(AFTER))
    }

    fn read(text: &str, form: &str) -> Option<Self> {
        let mut words = text.strip_prefix(form)?.strip_prefix('.')?.splitn(2, '.');
        let at = i64::from_str_radix(words.next()?, 16).ok().filter(|at| *at >= 0)?;
        let id = words.next()?;
        let (token, number) = id.split_once('.').unwrap_or((id, "1"));
        let is_number = number.len() <= 10 && number.parse::<u32>().is_ok();
        (Token::new(token).is_ok() && is_number).then(|| Self { at, id: id.to_owned() })
    }

    /// Writes the place, as it is in this list.
    #[must_use]
    pub fn to_word(&self, list: &PagedList) -> String {
        format!("{}.{:x}.{}", form(list), self.at, self.id)
    }
}

/// The first word of all places in a list of this kind.
fn form(list: &PagedList) -> &'static str {
    match list {
        PagedList::Tables => "t1",
        PagedList::Carts(_) => "c1",
        PagedList::Orders(_) => "o1",
        PagedList::EndedOrders(_) => "e1",
        PagedList::RefundTasks(_) => "r1",
        PagedList::UnknownPayments => "u1",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lists() -> [PagedList; 6] {
        let ada = || Token::new("ada").expect("a token");
        [
            PagedList::Tables,
            PagedList::Carts(ada()),
            PagedList::Orders(ada()),
            PagedList::EndedOrders(None),
            PagedList::RefundTasks(None),
            PagedList::UnknownPayments,
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_lists_of_its_kind_alone(
            at in 0..i64::MAX,
            id in "[A-Za-z0-9_-]{1,64}(\\.[1-9][0-9]{0,4})?",
        ) {
            let place = PagePlace { at, id };
            for of in lists() {
                let word = place.to_word(&of);
                prop_assert!(word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
                for list in lists() {
                    let read = PagePlace::parse(&word, &list).map_err(|refusal| refusal.status);
                    prop_assert_eq!(read, if list == of { Ok(place.clone()) } else { Err(400) });
                }
            }
        }

        #[test]
        fn anything_is_borne(text in "\\PC{0,80}", tail in "[a-z0-9.-]{0,40}") {
            for list in lists() {
                for text in [text.clone(), format!("{}.{tail}", form(&list))] {
                    let _borne = PagePlace::parse(&text, &list);
                }
            }
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let read = |text| PagePlace::parse(text, &PagedList::Tables).map_err(|r| r.code);
        assert_eq!(read("t1.0.tb1"), Ok(PagePlace { at: 0, id: "tb1".to_owned() }));
        for bad in ["", "t1", "t1.0", "t1.0.", "t1.x.tb1", "t1.-1.tb1", "t2.0.tb1", "t1.0.a b"] {
            assert_eq!(read(bad), Err("bad_header".into()), "{bad}");
        }
        for bad in ["t1.0.p1.", "t1.0.p1.x", "t1.0.p1.1.1", "t10.tb1", "tb1"] {
            assert_eq!(read(bad), Err("bad_header".into()), "{bad}");
        }
    }
}
