use proptest::prelude::*;

use super::*;
use crate::{Aggregate, Body, Refusal, Timestamp};

fn command(cart: usize, id: usize) -> Send {
    let address = Address::new("t1", Aggregate::Cart, &format!("c{cart}")).unwrap();
    let body = Body::decode(Aggregate::Cart, "join", br#"{"user":"ada"}"#).unwrap();
    Send { command_id: Token::new(&format!("k{id}")).unwrap(), ..Send::new(address, body) }
}

fn outcome(status: u16) -> Outcome {
    let refusal = Refusal::new(status, "code", "message");
    Outcome::unaddressed("", refusal)
}

fn standings(line: &Line) -> String {
    let letter = |entry: &QueuedCommand| match entry.standing {
        CommandState::Pending => 'p',
        CommandState::Done(_) => 'd',
        CommandState::Refused(_) => 'r',
        CommandState::Skipped => 's',
        CommandState::Failed(_) => 'f',
    };
    line.entries().iter().map(letter).collect()
}

fn id(n: usize) -> Token {
    Token::new(&format!("k{n}")).unwrap()
}

#[test]
fn a_refusal_stops_only_those_that_say_so() {
    let mut line = Line::new(10);
    line.add(command(1, 0)).unwrap();
    line.add_if_done(command(1, 1)).unwrap();
    line.add_if_done(command(2, 2)).unwrap();
    line.add_if_done(command(1, 3)).unwrap();
    line.add(command(1, 4)).unwrap();
    line.add_if_done(command(1, 5)).unwrap();
    line.decide(&id(0), outcome(409));
    assert_eq!(standings(&line), "rspspp");
    line.decide(&id(4), outcome(200));
    assert_eq!(standings(&line), "rspsdp");
    // Also one that is added later.
    line.decide(&id(5), outcome(504));
    line.add_if_done(command(1, 6)).unwrap();
    assert_eq!(standings(&line), "rspsdrs");
    // What is decided stays so.
    line.decide(&id(5), outcome(200));
    assert_eq!(standings(&line), "rspsdrs");
}

#[test]
fn it_is_bounded_and_what_is_decided_makes_room() {
    let mut line = Line::new(2);
    line.add(command(1, 0)).unwrap();
    line.add(command(1, 1)).unwrap();
    assert_eq!(line.add(command(1, 1)), Err(QueueError::Repeated));
    assert_eq!(line.add(command(1, 2)), Err(QueueError::Full));
    line.decide(&id(0), outcome(200));
    line.add(command(1, 2)).unwrap();
    assert_eq!((standings(&line).as_str(), line.pending()), ("pp", 2));
    assert!(line.get(&id(0)).is_none() && line.get(&id(2)).is_some());
}

#[test]
fn what_depends_on_a_refused_one_is_skipped_also_when_that_makes_room() {
    let mut line = Line::new(2);
    line.add(command(1, 0)).unwrap();
    line.add(command(2, 1)).unwrap();
    line.decide(&id(0), outcome(409));
    line.add_if_done(command(1, 2)).unwrap();
    assert!(line.get(&id(0)).is_none());
    assert_eq!(standings(&line), "ps");
}

#[test]
fn no_secret_waits_nor_is_one_read_from_what_was_kept() {
    let secrets = [
        ("register", r#"{"email":"a@b","profile_id":"p","password":"hush-hush"}"#),
        ("login", r#"{"email":"a@b","password":"hush"}"#),
        ("refresh", r#"{"refresh_token":"hush"}"#),
    ];
    for (verb, payload) in secrets {
        let address = Address::new("t1", Aggregate::User, "ada").unwrap();
        let body = Body::decode(Aggregate::User, verb, payload.as_bytes()).unwrap();
        let mut line = Line::new(2);
        assert_eq!(line.add(Send::new(address, body)), Err(QueueError::Secret));
        line.add(command(1, 0)).unwrap();
        let kept = serde_json::to_string(&line).unwrap();
        let kept = kept.replace("req.t1.cart.c1.join", &format!("req.t1.user.ada.{verb}"));
        let kept = kept.replace(r#"{"user":"ada"}"#, payload);
        assert!(kept.contains(verb) && kept.contains(payload), "{kept}");
        let again: Line = serde_json::from_str(&kept).unwrap();
        assert_eq!((again.entries().len(), again.unreadable.len()), (0, 1));
        assert!(!serde_json::to_string(&again).unwrap().contains("hush"));
    }
}

#[test]
fn a_line_that_is_kept_and_read_again_is_the_same() {
    let mut line = Line::new(3);
    let at = Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap();
    line.add(Send {
        door: crate::Door::Durable,
        deadline: Some(at),
        expected_version: Some(7.into()),
        actor: Some(id(9)),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        ..command(1, 0)
    })
    .unwrap();
    line.add(command(1, 1)).unwrap();
    line.add_if_done(command(1, 2)).unwrap();
    line.decide(&id(0), outcome(200));
    line.decide(&id(1), outcome(409));
    let again: Line = serde_json::from_str(&serde_json::to_string(&line).unwrap()).unwrap();
    assert_eq!(format!("{again:?}"), format!("{line:?}"));
    assert_eq!(standings(&again), "drs");
}

#[test]
fn one_that_fails_for_good_ends_and_what_depends_on_it_is_skipped() {
    let mut line = Line::new(10);
    line.add(command(1, 0)).unwrap();
    line.add_if_done(command(1, 1)).unwrap();
    line.add(command(1, 2)).unwrap();
    line.fail(&id(0), "too large".to_owned());
    assert_eq!(standings(&line), "fsp");
    let again: Line = serde_json::from_str(&serde_json::to_string(&line).unwrap()).unwrap();
    assert_eq!(format!("{again:?}"), format!("{line:?}"));
}

#[test]
fn what_fails_rests_ever_longer_behind_the_others() {
    let mut line = Line::new(10);
    for n in 0..5 {
        line.add(command(n, n)).unwrap();
    }
    let (mut pauses, start) = (Pauses::default(), Instant::now());
    let ready = |pauses: &Pauses, now, at_most| -> Vec<String> {
        let ready = line.ready(&HashSet::new(), pauses, now, at_most);
        ready.iter().map(|send| send.address.id.to_string()).collect()
    };
    assert_eq!(ready(&pauses, start, 2), ["c0", "c1"]);
    for n in [0, 1, 0] {
        pauses.failed(command(n, n).address, start);
    }
    assert_eq!(ready(&pauses, start, 2), ["c2", "c3"]);
    // Of those that failed, the one that failed the least comes first.
    let later = pauses.next(start).unwrap();
    assert_eq!(ready(&pauses, later, 10), ["c2", "c3", "c4", "c1"]);
    let later = pauses.next(later).unwrap();
    assert_eq!(ready(&pauses, later, 10), ["c2", "c3", "c4", "c1", "c0"]);
    assert_eq!(pauses.next(later), None);

    let mut now = later;
    let mut rests = Vec::new();
    for _ in 0..100 {
        pauses.failed(command(2, 2).address, now);
        let over = pauses.next(now).unwrap();
        rests.push(over - now);
        now = over;
    }
    assert!(rests.is_sorted() && rests[0] * 2 == rests[1], "{rests:?}");
    assert_eq!(rests[99], std::time::Duration::from_secs(10));
    pauses.end(&command(2, 2).address);
    assert_eq!(ready(&pauses, start, 1), ["c2"]);
}

#[test]
fn a_body_of_another_aggregate_than_the_address_is_not_taken() {
    let order = Address::new("t1", Aggregate::Order, "o1").unwrap();
    let mut line = Line::new(2);
    let taken = line.add(Send { address: order, ..command(1, 0) });
    assert_eq!(taken, Err(QueueError::OtherAggregate));
}

#[test]
fn one_entry_that_cannot_be_read_is_handed_back_and_costs_only_what_depends_on_it() {
    let mut line = Line::new(10);
    for n in [0, 1, 3] {
        line.add(command(1, n)).unwrap();
    }
    line.add_if_done(command(1, 4)).unwrap();
    line.add_if_done(command(2, 5)).unwrap();
    line.add(command(1, 6)).unwrap();
    line.add_if_done(command(1, 7)).unwrap();
    line.decide(&id(0), outcome(200));
    line.decide(&id(1), outcome(200));
    let mut kept = serde_json::to_value(&line).unwrap();
    // Of a newer program: one that was done, and one that was not.
    for at in [1, 2] {
        kept["entries"][at]["subject"] = "req.t1.cart.c1.gift_wrap".into();
    }
    let mut again: Line = serde_json::from_value(kept.clone()).unwrap();
    assert_eq!(standings(&again), "dsppp");
    // Until they are taken they are kept on.
    again = serde_json::from_value(serde_json::to_value(&again).unwrap()).unwrap();
    let given_back = [kept["entries"][1].clone(), kept["entries"][2].clone()];
    assert_eq!(again.take_unreadable(), given_back);
    assert_eq!(again.take_unreadable(), [Value::Null; 0]);
    // What depends on one that was done is not skipped.
    kept["entries"].as_array_mut().unwrap().remove(2);
    let again: Line = serde_json::from_value(kept).unwrap();
    assert_eq!(standings(&again), "dpppp");
}

proptest! {
    /// Whatever is added and decided when: an aggregate has at most one on its way, the first of
    /// those that are not decided.
    #[test]
    fn s4_10_on_one_aggregate_each_is_sent_after_the_outcome_of_the_one_before(
        steps in prop::collection::vec((0..4_usize, 0..3_usize, any::<bool>()), 0..60),
        at_once in 1..4_usize,
    ) {
        let mut line = Line::new(1000);
        let mut under_way: Vec<Send> = Vec::new();
        let mut sent: HashMap<Address, Vec<usize>> = HashMap::new();
        let mut added: HashMap<Address, Vec<usize>> = HashMap::new();
        let number = |send: &Send| send.command_id.as_str()[1..].parse::<usize>().unwrap();
        for (n, (kind, cart, flag)) in steps.into_iter().enumerate() {
            match kind {
                0 | 1 => {
                    let send = command(cart, n);
                    added.entry(send.address.clone()).or_default().push(n);
                    line.add(send).unwrap();
                }
                _ if !under_way.is_empty() => {
                    let send = under_way.remove(cart % under_way.len());
                    // Some are lost on the way, and sent again.
                    if flag {
                        line.decide(&send.command_id, outcome(if kind == 2 { 200 } else { 409 }));
                    } else {
                        sent.get_mut(&send.address).unwrap().pop();
                    }
                }
                _ => {}
            }
            let busy: HashSet<Address> =
                under_way.iter().map(|send| send.address.clone()).collect();
            for send in line.ready(&busy, &Pauses::default(), Instant::now(), at_once - under_way.len()) {
                prop_assert!(!busy.contains(&send.address));
                sent.entry(send.address.clone()).or_default().push(number(&send));
                under_way.push(send);
            }
            prop_assert!(under_way.len() <= at_once);
        }
        for (address, sent) in &sent {
            prop_assert!(added[address].starts_with(sent), "{sent:?} of {:?}", added[address]);
        }
    }
}
