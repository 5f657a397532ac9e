//! From a command to its outcome: the checks that hold for every command, the aggregate that
//! decides it, and what follows from that.

use brigade_contracts::{
    Address, Body, MAX_EVENT, Outcome, Part, Refusal, command::Request, rebuild::Rebuild,
};
use serde::{Serialize, Serializer};

use crate::{
    cart,
    changes::Event,
    json::raw,
    loaded::Missing,
    lock_attempt, order,
    outcome::{Done, Extra, NotDone, Result},
    payment, product,
    refusal::{not_found, too_large},
    relation,
    state::State,
    table,
    unit_of_work::UnitOfWork,
    user,
};

/// Decides a command.
///
/// # Errors
/// If the command is deferred, with what is missing; `None`: it only waits for others.
pub(crate) fn decide(
    work: &mut UnitOfWork<'_>,
    request: &Request,
) -> std::result::Result<Outcome, Option<Missing>> {
    // Whoever may not ask leaves no trace in what is another's, and learns nothing of it.
    match relation::require(work, request) {
        Ok(()) => {}
        Err(NotDone::Deferred(missing)) => return Err(missing),
        Err(NotDone::Refused(refused)) => {
            return Ok(Outcome::refused(work.command, refused.0, None));
        }
    }
    let refused = match try_decide(work, request) {
        Ok(done) => return Ok(done_outcome(work, &request.address, done)),
        Err(NotDone::Deferred(missing)) => return Err(missing),
        Err(NotDone::Refused(refused)) => *refused,
    };
    work.roll_back();
    let (refusal, extra) = refused;
    if let Err(NotDone::Deferred(missing)) = lock_attempt::record(work, request, &refusal) {
        return Err(missing);
    }
    let present = work.present(&request.address).map(|state| state.head().version);
    let present = present.filter(|_| user::reveals_version(&request.body));
    let mut outcome = Outcome::refused(work.command, refusal, present);
    if let Some(extra) = extra {
        outcome.data = raw(&OutcomeData(vec![extra]));
    }
    Ok(outcome)
}

fn try_decide(work: &mut UnitOfWork<'_>, request: &Request) -> Result<Done> {
    let address = &request.address;
    work.find::<State>(address)?;
    if request.deadline.is_some_and(|deadline| deadline < work.now) {
        let message = "the deadline passed before this was decided";
        return Err(Refusal::new(504, "deadline_passed", message).into());
    }
    if !user::is_for_strangers(&request.body) {
        work.expect_version(request)?;
    }
    let done = match &request.body {
        Body::Cart(verb) => cart::decide(work, address, verb),
        Body::Payment(verb) => payment::decide(work, address, verb),
        Body::Order(verb) => order::decide(work, address, verb),
        Body::Table(verb) => table::decide(work, address, verb),
        Body::User(verb) => user::decide(work, request, verb),
        Body::Product(verb) => product::decide(work, address, verb),
        Body::Rebuild(_, rebuild) => self::rebuild(work, address, rebuild),
    }?;
    table::close_paid_turns(work)?;
    require_small_events(work)?;
    Ok(done)
}

fn rebuild(work: &mut UnitOfWork<'_>, address: &Address, rebuild: &Rebuild) -> Result<Done> {
    work.find::<State>(address)?.ok_or_else(not_found)?;
    let selected = |part: &Part| rebuild.part.is_none_or(|only| only == *part);
    for part in address.aggregate.parts().iter().copied().filter(selected) {
        if part.is_written_by_projector() {
            work.changes.repeat_events.push((address.clone(), part));
        } else {
            work.changes.reprojected.push(address.clone());
        }
    }
    Ok(Done::ok())
}

/// Refuses what no stream would take. The limits of carts, orders and turns are such that it
/// never happens; but an event that is committed and cannot be published is worse.
fn require_small_events(work: &UnitOfWork<'_>) -> Result<()> {
    if work.changes.events.iter().all(|event| event.payload.size() <= MAX_EVENT) {
        return Ok(());
    }
    Err(too_large("the event of this command would be too large").into())
}

fn done_outcome(work: &UnitOfWork<'_>, address: &Address, done: Done) -> Outcome {
    let state = work.present(address).expect("whatever is done is done to something");
    let version = state.head().version;
    let of_subject = |event: &&Event| event.address == *address;
    let touched = |event: &Event| event.kind.touches.contains(&Part::Payments);
    let mut data = match state {
        State::User(user) => user.public_parts(),
        _ => vec![("core", state.part(Part::Core))],
    };
    if work.changes.events.iter().filter(of_subject).any(touched) {
        data.push(("payments", state.part(Part::Payments)));
    }
    data.extend(done.extras);
    Outcome {
        command_id: Some(work.command.command_id.to_string()),
        status: done.status,
        code: done.code.into(),
        message: "done".into(),
        aggregate: address.aggregate.to_string(),
        id: address.id.to_string(),
        version: Some(version),
        etag: Some(work.etag(version)),
        effects: effects(work),
        data: raw(&OutcomeData(data)),
        retry_after_ms: None,
        param: None,
    }
}

/// Returns every aggregate, sorted by address, and turn that has a new version, and the version.
fn effects(work: &UnitOfWork<'_>) -> Vec<String> {
    let version_before = |address| work.before(address).map(|state| state.head().version);
    let mut heads: Vec<_> = work.changed().map(State::head).collect();
    heads.retain(|head| version_before(&head.address) != Some(head.version));
    heads.sort_unstable_by(|one, other| one.address.cmp(&other.address));
    let turns = work.changes.turns.iter();
    let turns = turns.map(|((_, id), (_, turn))| format!("turn.{id}@{}", turn.version));
    heads.into_iter().map(|head| head.address.at(head.version)).chain(turns).collect()
}

/// The data of an outcome: the projections of parts, and the fields that the verb adds.
struct OutcomeData(Vec<Extra>);

impl Serialize for OutcomeData {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
