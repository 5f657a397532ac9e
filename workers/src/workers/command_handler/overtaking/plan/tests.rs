use super::*;

fn recent(counts: &[(&str, usize)]) -> Vec<Box<str>> {
    let of = |(tenant, count): &(&str, usize)| vec![Box::from(*tenant); *count];
    counts.iter().flat_map(of).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_tenant_with_an_equal_share_or_more_is_heavy() {
    for (counts, expected) in [
        (vec![], vec![]),
        (vec![("a", SAMPLE - 1)], vec![]),
        (vec![("a", SAMPLE)], vec!["a"]),
        (vec![("a", 990), ("b", 10)], vec!["a"]),
        (vec![("a", 500), ("b", 500)], vec!["a", "b"]),
        (vec![("a", 510), ("b", 490)], vec!["a"]),
        (vec![("a", 450), ("b", 450), ("c", 50), ("d", 50)], vec!["a", "b"]),
        (vec![("a", 900), ("b", 40), ("c", 30), ("d", 30)], vec!["a"]),
    ] {
        assert_eq!(heavy(&recent(&counts)), names(&expected), "{counts:?}");
    }
}

#[test]
fn a_tenant_that_floods_is_heavy_and_one_with_a_hundredth_beside_it_is_not() {
    for flood in (50..=95).step_by(5) {
        for others in 1..=(100 - flood) {
            let names: Vec<_> = (0..others).map(|n| format!("o{n}")).collect();
            let each = (100 - flood) * 10 / others;
            let mut counts = vec![("flood", 1000 - each * others)];
            counts.extend(names.iter().map(|name| (name.as_str(), each)));
            let heavy = heavy(&recent(&counts));
            assert!(heavy.contains("flood"), "{flood} {others}");
            assert!(each >= 1000 - each * others || heavy.len() == 1, "{flood} {others}");
        }
    }
    let many: Vec<_> = (0..500).map(|n| n.to_string()).collect();
    let counts: Vec<_> = many.iter().map(|name| (name.as_str(), 2)).collect();
    assert_eq!(heavy(&recent(&counts)), names(&[]), "all of them together are no flood");
}

fn above(tenants: &[&str], heavy: &[&str]) -> ConsumerState {
    ConsumerState { tenants: Some(names(tenants)), heavy: names(heavy), ..ConsumerState::default() }
}

fn make(tenants: &[&str], heavy: &[&str]) -> LaneStep {
    LaneStep::Make { tenants: names(tenants), heavy: names(heavy) }
}

#[test]
fn a_lane_is_made_for_all_but_the_heavy_who_may_use_the_one_below() {
    let (shared, listed) = (ConsumerState::default(), ["a", "b", "c"].map(str::to_owned));
    let flood = recent(&[("a", 1000)]);
    let step = |below, above, age, recent: &[Box<str>]| {
        super::next_step(below, above, age, recent, &listed)
    };
    assert_eq!(step(&shared, None, Duration::ZERO, &flood), make(&["b", "c"], &["a"]));
    assert_eq!(step(&shared, None, Duration::ZERO, &[]), LaneStep::Leave);
    let first = above(&["b", "c"], &["a"]);
    let second = recent(&[("b", 1000)]);
    assert_eq!(step(&first, None, Duration::ZERO, &second), make(&["c"], &["b"]));
    let second = recent(&[("b", 500), ("c", 500)]);
    assert_eq!(step(&first, None, Duration::ZERO, &second), LaneStep::Leave, "no tenant is left");
}

#[test]
fn a_lane_is_made_again_for_a_new_tenant_and_when_the_flood_is_anothers() {
    let (shared, listed) = (ConsumerState::default(), ["a", "b", "c"].map(str::to_owned));
    let step = |above: &ConsumerState, age, counts: &[(&str, usize)]| {
        super::next_step(&shared, Some(above), age, &recent(counts), &listed)
    };
    let (all, less) = (above(&["b", "c"], &["a"]), above(&["b"], &["a"]));
    let a = [("a", 1000)];
    assert_eq!(step(&all, RENEWAL_INTERVAL, &a), LaneStep::Leave);
    assert_eq!(step(&less, Duration::ZERO, &a), LaneStep::Leave, "not so soon");
    assert_eq!(step(&less, RENEWAL_INTERVAL, &a), make(&["b", "c"], &["a"]));
    let b = [("a", 100), ("b", 900)];
    assert_eq!(step(&all, RENEWAL_INTERVAL, &b), LaneStep::Leave);
    assert_eq!(step(&all, REVIEW_INTERVAL, &b), make(&["a", "c"], &["b"]));
    assert_eq!(step(&all, REVIEW_INTERVAL, &a), LaneStep::Leave);
    assert_eq!(step(&all, REVIEW_INTERVAL, &[]), LaneStep::Leave, "nothing is known");
    let many: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), 1)).collect();
    assert_eq!(step(&all, REVIEW_INTERVAL, &many), LaneStep::Delete, "nobody is heavy any more");
}

#[test]
fn the_tenants_of_a_lane_are_bounded() {
    let listed: Vec<_> = (0..2 * MAX_TENANTS).map(|n| format!("t{n}")).collect();
    let flood = recent(&[("t0", 1000)]);
    let step = |above, age| next_step(&ConsumerState::default(), above, age, &flood, &listed);
    let LaneStep::Make { tenants, heavy } = step(None, Duration::ZERO) else { panic!("no lane") };
    assert_eq!((tenants.len(), heavy), (MAX_TENANTS, names(&["t0"])));
    assert!(tenants.contains("t1"), "the first of them are taken");
    let other = above(&["t1"], &["t0"]);
    assert_eq!(
        step(Some(&other), RENEWAL_INTERVAL),
        LaneStep::Leave,
        "a new tenant is not known to wait"
    );
    assert_ne!(step(Some(&other), REVIEW_INTERVAL), LaneStep::Leave);
}
