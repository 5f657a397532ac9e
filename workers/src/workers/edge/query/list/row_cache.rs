//! Rows in memory: bounded by their weight and their age, and never older than what was seen.

use std::{sync::Arc, time::Duration};

use brigade_contracts::Address;
use moka::{
    Entry,
    ops::compute::{CompResult, Op},
    sync::Cache,
};

use super::{
    row::{ListRow, RowParts},
    snapshot::RowVersions,
};

/// The size of the cache, in bytes. A usual row has about 1 KiB, and its parts as much again.
const MAX_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// The size of an entry without its text, in bytes: address, versions, the cache's own.
const ENTRY_OVERHEAD: usize = 400;
/// A row that was not read or changed this long is of an order that has most likely ended. Ended
/// ones are read for positions, which can be used for as long.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// A row that is unchanged this long is read again: nothing stays in memory for ever.
const LIFE: Duration = Duration::from_secs(60 * 60);

/// The rows in memory, and the parts of which a row is not complete yet.
pub struct RowCache(Cache<Address, RowParts>);

impl RowCache {
    /// Creates an empty cache.
    #[must_use]
    pub fn new() -> Self {
        let weight = |_: &Address, parts: &RowParts| {
            u32::try_from(parts.size() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(MAX_CACHE_BYTES).weigher(weight);
        Self(cache.time_to_idle(IDLE).time_to_live(LIFE).build())
    }

    /// Returns the row of exactly these versions.
    #[must_use]
    pub fn find(&self, address: &Address, versions: RowVersions<'_>) -> Option<Arc<ListRow>> {
        self.0.get(address)?.row.filter(|row| row.versions() == versions)
    }

    /// Stores what is newer than what is there, part by part: whatever comes late, from the watch
    /// or from SQL, changes nothing. Returns the parts that are stored now; `None` if `new` had no
    /// newer one.
    pub fn merge(&self, address: &Address, new: &RowParts) -> Option<RowParts> {
        let merged = self.0.entry_by_ref(address).and_compute_with(|known| {
            let known = known.map(Entry::into_value).unwrap_or_default();
            known.merged_with(&address.id, new).map_or(Op::Nop, Op::Put)
        });
        match merged {
            CompResult::Inserted(known) | CompResult::ReplacedWith(known) => {
                Some(known.into_value())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use brigade_contracts::{Aggregate, Currency, Money, Part, Timestamp, list::ActiveRow, order};
    use brigade_domain::{Head, Order};
    use proptest::prelude::*;

    use super::*;

    fn address() -> Address {
        Address::new("t1", Aggregate::Order, "o1").expect("tokens")
    }

    /// Returns the order after the change `version`, with these versions of its parts.
    fn order(version: u64, (core, payments): (u64, u64)) -> Order {
        use order::Status::{Accepted, Completed, Placed, Preparing, Ready, Served};
        let at =
            |n: u64| Timestamp::parse(&format!("2026-01-02T03:04:05.{n:03}Z")).expect("a time");
        let parts = [(Part::Core, (core, at(core))), (Part::Payments, (payments, at(payments)))];
        let status = [Placed, Accepted, Preparing, Ready, Served, Completed];
        let money = |amount: u64| Money::new(amount.cast_signed()).expect("positive");
        Order {
            head: Head { address: address(), version, at: at(version), parts: parts.into() },
            status: *status.get(usize::try_from(core).expect("small") - 1).unwrap_or(&Completed),
            currency: Currency::new("EUR").expect("a currency"),
            cart_id: None,
            owner: None,
            table_id: None,
            turn_id: None,
            items: Vec::new(),
            total: money(5),
            paid: money(payments - 1),
            refunded: Money::ZERO,
            paid_at: (payments > 5).then(|| at(payments)),
            payments: Vec::new(),
            created_at: at(1),
            reason: None,
        }
    }

    /// Returns the part as it stands in KV.
    fn pushed(order: &Order, part: Part) -> RowParts {
        let value = match part {
            Part::Core => order.active_core(),
            _ => order.active_payment(),
        };
        RowParts::read_part(&address(), part, value.get().as_bytes()).expect("genuine").0
    }

    /// Returns the row as its shape says.
    fn shape(order: &Order) -> String {
        let core = serde_json::from_str(order.active_core().get()).expect("a core");
        let payment = serde_json::from_str(order.active_payment().get()).expect("a payment");
        let row = ActiveRow { core, payment, due: order.due() };
        serde_json::to_string(&row).expect("JSON")
    }

    #[derive(Clone, Copy, Debug)]
    enum Comes {
        Poll,
        Push(Part),
    }

    /// For each change the parts that it touches (core, payments); and for each arrival the state
    /// it is of.
    type Happenings = (Vec<(bool, bool)>, Vec<(usize, Comes)>);

    fn happenings() -> impl Strategy<Value = Happenings> {
        let touched = prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))];
        prop::collection::vec(touched, 0..8).prop_flat_map(|changes| {
            let comes = prop_oneof![
                Just(Comes::Poll),
                Just(Comes::Push(Part::Core)),
                Just(Comes::Push(Part::Payments)),
            ];
            let comes = prop::collection::vec((0..=changes.len(), comes), 0..30);
            (Just(changes), comes)
        })
    }

    proptest! {
        #[test]
        fn s4_05_polling_never_overrides_a_newer_pushed_row((changes, comes) in happenings()) {
            let mut versions = vec![(1, 1)];
            for (n, (core, payments)) in (2..).zip(changes) {
                let (c, p) = versions[versions.len() - 1];
                versions.push((if core { n } else { c }, if payments { n } else { p }));
            }
            let states: Vec<_> = (1..).zip(&versions).map(|(n, v)| order(n, *v)).collect();
            let (cache, address) = (RowCache::new(), address());
            let (mut core, mut payments) = (0, 0);
            for (n, comes) in comes {
                let new = match comes {
                    Comes::Poll => RowParts::from_order(&states[n]),
                    Comes::Push(part) => pushed(&states[n], part),
                };
                let is_newer = match comes {
                    Comes::Push(Part::Core) => versions[n].0 > core,
                    Comes::Push(_) => versions[n].1 > payments,
                    Comes::Poll => versions[n].0 > core || versions[n].1 > payments,
                };
                prop_assert_eq!(cache.merge(&address, &new).is_some(), is_newer);
                if !matches!(comes, Comes::Push(Part::Payments)) {
                    core = core.max(versions[n].0);
                }
                if !matches!(comes, Comes::Push(Part::Core)) {
                    payments = payments.max(versions[n].1);
                }
                // The newest of each part, never an older one; and each state as SQL gives it.
                for (state, (c, p)) in states.iter().zip(&versions) {
                    let found = cache.find(&address, (&address.id, *c, *p));
                    prop_assert_eq!(found.is_some(), (*c, *p) == (core, payments));
                    if let Some(row) = found {
                        prop_assert_eq!(row.text.get(), shape(state));
                        prop_assert_eq!(row.active, state.status.is_active());
                    }
                }
            }
        }
    }

    #[test]
    fn only_what_this_build_writes_is_taken() {
        let order = order(1, (1, 1));
        let of =
            |part, value: &str| RowParts::read_part(&address(), part, value.as_bytes()).is_some();
        let (core, payment) = (order.active_core(), order.active_payment());
        assert!(of(Part::Core, core.get()) && of(Part::Payments, payment.get()));
        assert!(!of(Part::Core, payment.get()) && !of(Part::Payments, core.get()));
        let odd = [("{", "{ "), ("}", ",\"new\":1}"), ("\"version\":1", "\"version\":-1")];
        for (from, to) in odd {
            assert!(!of(Part::Core, &core.get().replacen(from, to, 1)), "{to}");
            assert!(!of(Part::Payments, &payment.get().replacen(from, to, 1)), "{to}");
        }
        let item =
            r#"{"item_id":null,"sku":"s","name":"Soup","unit_price":1,"quantity":1,"note":null}"#;
        let items = |count| format!("\"items\":[{}]", vec![item; count].join(","));
        let large = |count| core.get().replacen("\"items\":[]", &items(count), 1);
        assert!(of(Part::Core, &large(80)) && !of(Part::Core, &large(120)), "an older build's");
        let other = core.get().replacen("\"o1\"", "\"o2\"", 1);
        assert!(!of(Part::Core, &other), "of another order");
    }
}
