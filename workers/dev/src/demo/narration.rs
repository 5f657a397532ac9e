//! The words of the demo.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use crate::LocalStack;

/// One line, or several.
pub fn say(text: impl AsRef<str>) {
    // A closed pipe is no reason to stop checking promises.
    let _said = writeln!(std::io::stdout(), "{}", text.as_ref());
}

pub fn title() {
    say("brigade demo: an evening in a restaurant, on this machine, with real servers.");
    say(
        "Nothing is simulated: the workers are processes, and they are really stopped and killed.\n",
    );
}

pub fn fleet_is_started(stack: &LocalStack, took: Duration) {
    say(format!(
        "  nats-server on 127.0.0.1:{}, Postgres on 127.0.0.1:{}, a process for each worker: up in {:.1} s",
        stack.nats.port(),
        stack.postgres.port(),
        took.as_secs_f64()
    ));
}

pub fn farewell(held: bool, took: Duration) {
    let verdict = if held { "Every promise held." } else { "A promise was BROKEN." };
    say(format!(
        "\n{verdict} {:.0} s; servers stopped, scratch folder removed.",
        took.as_secs_f64()
    ));
    say("Next: `cargo run -- up`, then the README, Try it by hand.");
}

/// ✓ or ✗, in colour on a terminal.
#[must_use]
pub fn mark(good: bool) -> &'static str {
    match (good, std::io::stdout().is_terminal()) {
        (true, true) => "\x1b[32m✓\x1b[0m",
        (false, true) => "\x1b[31m✗\x1b[0m",
        (true, false) => "✓",
        (false, false) => "✗",
    }
}

#[must_use]
pub fn millis(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}
