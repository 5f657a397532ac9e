use super::*;
use crate::chaos::{check::money::GatewayCapture, workload::GatewayFact};

#[test]
fn money_that_was_never_said_or_never_recorded_is_found() {
    let fact = GatewayFact {
        tenant: "t1".to_owned(),
        payment: "p1".to_owned(),
        command_id: "a".to_owned(),
        transaction: Some("g1".to_owned()),
        captured: true,
        amount: 1000,
        currency: "EUR".to_owned(),
    };
    let capture = GatewayCapture {
        tenant: "t1".to_owned(),
        payment: "p1".to_owned(),
        transaction: Some("g1".to_owned()),
        amount: 1000,
        currency: "EUR".to_owned(),
    };
    let sound = || {
        let mut evidence = committed(&["a"], &[]);
        evidence.captures = vec![capture.clone()];
        evidence.accounted = vec![("t1 EUR".to_owned(), 900, 100)];
        evidence
    };
    let check = |evidence: &Evidence| {
        let (found, sums) = super::super::money::check(std::slice::from_ref(&fact), &[], evidence);
        (invariants(&found).join(" "), sums["t1 EUR"].captured)
    };
    assert_eq!(check(&sound()), (String::new(), 1000));
    let mut evidence = sound();
    evidence.captures.clear();
    assert_eq!(check(&evidence).0, "I-16 I-10", "it was said, and is lost");
    let mut evidence = sound();
    evidence.captures[0].transaction = Some("g2".to_owned());
    assert_eq!(check(&evidence).0, "I-9 I-16", "it was never said");
    let mut evidence = sound();
    evidence.accounted[0].2 = 99;
    assert_eq!(check(&evidence).0, "I-10", "a cent is missing");
}
