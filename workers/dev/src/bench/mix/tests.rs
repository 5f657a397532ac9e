use std::collections::HashMap;

use super::{command::STEPS, *};

#[test]
fn the_shares_are_those_of_the_table_and_every_order_ends() {
    let mix = Mix::new(CARTS);
    for _ in 0..3000 {
        mix.done(mix.joining());
    }
    let before = mix.distinct();
    let mut counts: HashMap<String, u32> = HashMap::new();
    for _ in 0..20_000 {
        let command = mix.next();
        let verb = command.what.rsplit('.').next().unwrap();
        *counts.entry(verb.to_owned()).or_default() += 1;
        mix.done(command);
    }
    let share = |verbs: &[&str]| {
        verbs.iter().map(|verb| counts.get(*verb).copied().unwrap_or(0)).sum::<u32>() / 200
    };
    assert!((38..=42).contains(&share(&["set_item", "add_item", "remove_item"])), "{counts:?}");
    assert!((9..=12).contains(&share(&["place"])), "{counts:?}");
    assert!((37..=42).contains(&share(&[&STEPS[..], &["cancel"]].concat())), "{counts:?}");
    assert!((9..=11).contains(&share(&["commit_cod"])), "{counts:?}");
    let repeated = 20_000 - (mix.distinct() - before);
    assert!((800..1200).contains(&repeated), "{repeated} repetitions");
    let (mut placed, mut ended) = (counts["place"], counts["complete"] + counts["cancel"]);
    while let Some(command) = mix.ending() {
        placed += u32::from(command.what.ends_with("place"));
        ended += u32::from(command.what.ends_with("complete") | command.what.ends_with("cancel"));
        mix.done(command);
    }
    // Repetitions of either are among them.
    assert!(placed.abs_diff(ended) < placed / 5, "{placed} placed, {ended} ended");
}
