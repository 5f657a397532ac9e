//! What two hostile programs of a tenant cost another one in time.

use std::{sync::Arc, time::Duration};

use brigade_contracts::permissions::inbox_prefix;
use brigade_tests::{RawClient, TestFleet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Nice, beside, client, figure, quiet, size};
use crate::hostile::attempts;

/// Lets a program try everything again and again, so many attempts a second, or as fast as it can.
/// Returns how many it made.
async fn attack(fleet: &TestFleet, user: &str, rate: Option<u32>, end: Instant) -> usize {
    let mut raw = RawClient::connect(&fleet.nats_url(user)).await;
    let inbox = format!("{}.tries", inbox_prefix(user));
    raw.subscribe(inbox.as_bytes()).await;
    let attempts = attempts(&inbox);
    let mut pace = rate.map(|rate| interval(Duration::from_secs(1) / rate));
    if let Some(pace) = &mut pace {
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut made = 0;
    while Instant::now() < end {
        for attempt in &attempts {
            attempt.make(&mut raw).await;
            made += 1;
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
        }
        // Reads what came, else the server ends the connection.
        raw.refused().await;
    }
    made
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand: the times of another tenant beside two hostile programs"]
async fn s5_09_hostile_programs_slow_no_other() {
    let seconds = size("BRIGADE_TEST_SECONDS", 20);
    let fleet = Arc::new(TestFleet::start().await);
    let quiet = quiet(&fleet).await;
    for (name, rate) in [("paced", Some(100)), ("flood", None)] {
        let attacks = client(&fleet, Nice::Flood, move |fleet| async move {
            let end = Instant::now() + Duration::from_secs(seconds as u64);
            tokio::join!(
                attack(&fleet, "t1-backend", rate, end),
                attack(&fleet, "t1-screen", rate, end)
            )
        });
        let (times, (backend, screen)) = beside(&fleet, name, attacks).await;
        figure(&format!("{name}: {backend} attempts of a backend, {screen} of a screen"));
        times.print(&format!("beside them, {name}"));
        times.compare(&quiet);
        fleet.until_idle().await;
    }
    Arc::into_inner(fleet).expect("the clients have ended").finish().await;
}
