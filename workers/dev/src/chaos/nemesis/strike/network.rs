//! Faults of the network.

use std::{slice, time::Duration};

use brigade_contracts::WorkerName;
use rand::{Rng, rngs::StdRng};

use super::{ChaosFault, Mend, Strike};
use crate::{
    TcpProxy,
    chaos::{fleet::ChaosFleet, member::FleetMember},
    proxy::Direction,
};

/// Which proxies of a member.
type Of = fn(&FleetMember) -> &[TcpProxy];

fn nats(member: &FleetMember) -> &[TcpProxy] {
    &member.nats
}

fn postgres(member: &FleetMember) -> &[TcpProxy] {
    slice::from_ref(&member.postgres)
}

/// Strikes the network, between all members and a server or between one and a server.
pub fn strike(fault: ChaosFault, fleet: &ChaosFleet, random: &mut StdRng) -> Strike {
    let lasts = Duration::from_millis(random.random_range(1000..5000));
    let all = |of: Of| fleet.members.iter().flat_map(of);
    let shut = |of: Of| {
        all(of).for_each(TcpProxy::shut);
        Strike::lasting(format!("for {:.1} s", lasts.as_secs_f64()), Mend::Open, lasts)
    };
    match fault {
        ChaosFault::CutNats => shut(nats),
        ChaosFault::CutPostgres => shut(postgres),
        ChaosFault::SlowPostgres => {
            let delay = Duration::from_millis(random.random_range(20..150));
            all(postgres).for_each(|proxy| proxy.delay(delay));
            let lasts = lasts + Duration::from_secs(2);
            let detail = format!("{delay:?} each way for {:.1} s", lasts.as_secs_f64());
            Strike::lasting(detail, Mend::Open, lasts)
        }
        ChaosFault::SlowNats => {
            let (at, delay) = (fleet.any(random), random.random_range(50..300));
            let delay = Duration::from_millis(delay);
            nats(&fleet.members[at]).iter().for_each(|proxy| proxy.delay(delay));
            let lasts = lasts + Duration::from_secs(2);
            let name = fleet.name(at);
            let detail = format!("{name}, {delay:?} each way for {:.1} s", lasts.as_secs_f64());
            Strike::lasting(detail, Mend::Open, lasts)
        }
        ChaosFault::Isolate => isolate(fleet, random),
        _ => silent(fault, fleet, random),
    }
}

fn silent(fault: ChaosFault, fleet: &ChaosFleet, random: &mut StdRng) -> Strike {
    let at = fleet.any(random);
    let member = &fleet.members[at];
    let (server, proxies) = match random.random_ratio(1, 2) {
        true => ("nats-server", nats(member)),
        false => ("Postgres", postgres(member)),
    };
    let name = fleet.name(at);
    if fault == ChaosFault::HalfOpen {
        proxies.iter().for_each(TcpProxy::silence);
        return Strike::over(format!("{name} and {server}"));
    }
    let direction = [Direction::Forth, Direction::Back][random.random_range(0..2)];
    proxies.iter().for_each(|proxy| proxy.silence_one_way(direction));
    let (from, to) = if direction == Direction::Forth { (name, server) } else { (server, name) };
    Strike::over(format!("from {from} to {to}"))
}

/// Cuts one process off from nats-server, for much longer than the others need to notice: mostly
/// one of those whose work is divided among them.
fn isolate(fleet: &ChaosFleet, random: &mut StdRng) -> Strike {
    let at = fleet.any_weighted(random, |worker| match worker {
        WorkerName::OutboxRelay => 5,
        _ => 1,
    });
    let lasts = Duration::from_millis(random.random_range(15_000..20_000));
    nats(&fleet.members[at]).iter().for_each(TcpProxy::shut);
    let detail = format!("{} for {:.1} s", fleet.name(at), lasts.as_secs_f64());
    Strike::lasting(detail, Mend::Open, lasts)
}
