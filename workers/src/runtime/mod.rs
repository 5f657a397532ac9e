//! The common ground of every worker, with the rules that hold for all of them:
//!
//! 1. A worker is a function `run(Context)` that returns when it has drained. `fleet::registry`
//!    lists them; `fleet` starts them, each with connections and credentials of its own.
//! 2. A consuming worker turns a batch of messages into [`Verdict`]s, and nothing else: only
//!    [`consume`] acknowledges, delays, dead-letters and keeps messages alive.
//! 3. Every step may be repeated. A message is acknowledged after everything that it causes is
//!    durable, so a crash at any point means a repetition, never a loss.
//! 4. A dependency that is away is no failure of a message: [`Verdict::Away`] keeps it in hand. Nor
//!    is a lock that somebody else holds: [`Verdict::Held`] sets it aside, where no other message
//!    waits for it.
//! 5. Drain ([`Context::drain`]): take nothing more, finish what is in hand, acknowledge, return.
//! 6. [`Health`] reports the progress of each duty: a worker one of whose duties hangs is not
//!    ready, and is started again with new connections. Nothing waits for a server without a limit.
//! 7. A duty that needs NATS is left to others while NATS is away ([`Lease::hold`]).
//!
//! [`Context::drain`]: crate::infra::Context::drain
//! [`Health`]: crate::infra::Health
//! [`Lease::hold`]: crate::infra::Lease::hold

pub mod command_client;
pub mod consume;
pub mod dead_letter;
pub mod delivery;
pub mod http;
pub mod metrics;
pub mod supervise;
pub mod verdict;

pub use command_client::{CommandClient, CommandOptions, NotDecided};
pub use consume::{BatchPermit, Handler, RefusalReason, Source, consume};
pub use delivery::Delivery;
pub use metrics::{ConsumeMetrics, DeadLetterMetrics};
pub use verdict::Verdict;
