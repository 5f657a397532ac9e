//! How long a tenant's requests take beside the flood of another.
//!
//! On one machine the flooding client, the measuring client, the fleet and both servers share the
//! processors. A client of production is elsewhere and takes none, so the flooding one is a thread
//! at the lowest priority: it sends as fast as it is answered, out of what the others leave it. The
//! measuring client and the fleet do not wait in one runtime for each other either. What is left is
//! the work of fleet and servers for both tenants, on the same processors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use brigade_tests::{Producer, Reply, TestFleet, until};
use futures::future::join_all;
use tokio::{
    runtime,
    sync::{oneshot, watch},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{figure, open, second, size};

/// Time between two requests, whether the one before was answered or not.
const EVERY: Duration = Duration::from_millis(20);
/// Seconds that are long enough for a thousand requests and more.
const QUIET: usize = 21;

/// The priority of a client's thread.
#[derive(Clone, Copy)]
pub enum Nice {
    /// The lowest one: it takes what the others leave.
    Flood,
    /// That of the fleet.
    Measured,
}

/// Runs a client on a thread and in a runtime of its own, and returns what it returns.
pub async fn client<T: Send + 'static, F: Future<Output = T>>(
    fleet: &Arc<TestFleet>,
    nice: Nice,
    work: impl FnOnce(Arc<TestFleet>) -> F + Send + 'static,
) -> T {
    let (ended, end) = oneshot::channel();
    let fleet = fleet.clone();
    thread::spawn(move || {
        if matches!(nice, Nice::Flood) {
            // Linux has a priority for each thread.
            rustix::process::nice(19).expect("a lower priority");
        }
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        // Nobody listens where the test has failed meanwhile.
        let _gone = ended.send(runtime.expect("a runtime").block_on(work(fleet)));
    });
    end.await.expect("the client to end")
}

/// The time until a request was answered with something else than `503`, how often it was asked
/// before, and the answer.
async fn asked(producer: &Producer, id: &str) -> (Duration, usize, Reply) {
    let (began, again) = (Instant::now(), AtomicUsize::new(0));
    let (subject, payload) = (format!("req.{}.cart.{id}.open", producer.tenant), open(id));
    let payload = payload.to_string();
    let reply = until("a decision", || async {
        let (within, headers) = (Duration::from_secs(10), [("Command-Id", id)]);
        let reply = producer.request_within(within, &subject, &headers, payload.as_bytes()).await?;
        again.fetch_add(usize::from(reply.status == 503), Relaxed);
        (reply.status != 503).then_some(reply)
    })
    .await;
    (began.elapsed(), again.into_inner(), reply)
}

/// Times of a tenant's requests.
pub struct Times {
    sorted: Vec<Duration>,
    /// Requests that were first answered `503`.
    repeated: usize,
}

impl Times {
    fn at(&self, percent: usize) -> Duration {
        self.sorted[(self.sorted.len() - 1) * percent / 100]
    }

    pub fn print(&self, when: &str) {
        let Self { sorted, repeated } = self;
        let (p50, p99, most) = (self.at(50), self.at(99), self.at(100));
        let count = sorted.len();
        figure(&format!(
            "{when}: {count} requests of t2, p50 {p50:.1?}, p99 {p99:.1?}, longest {most:.1?}, \
             {repeated} times 503 before"
        ));
    }

    pub fn compare(&self, quiet: &Self) {
        let ratio = |percent| self.at(percent).as_secs_f64() / quiet.at(percent).as_secs_f64();
        figure(&format!(
            "beside it to quiet: p50 x {:.2}, p99 x {:.2} (goal: p99 below 3)",
            ratio(50),
            ratio(99)
        ));
    }
}

/// Opens a cart of `t2` at the request door again and again until it is told to end.
async fn times(
    fleet: Arc<TestFleet>,
    name: &str,
    ready: oneshot::Sender<()>,
    mut end: watch::Receiver<bool>,
) -> Times {
    let producer = second(&fleet).await;
    // What is done at the first time only is not measured.
    for warm in 0..20 {
        asked(&producer, &format!("{name}-warm{warm}")).await;
    }
    ready.send(()).expect("it waits");
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asking = Vec::new();
    while !*end.borrow_and_update() {
        tick.tick().await;
        let (producer, id) = (producer.clone(), format!("{name}{}", asking.len()));
        asking.push(tokio::spawn(async move { asked(&producer, &id).await }));
    }
    let (mut sorted, mut repeated) = (Vec::new(), 0);
    for answered in join_all(asking).await {
        let (time, again, reply) = answered.expect("an answer");
        assert_eq!(reply.status, 201, "{}", reply.body());
        sorted.push(time);
        repeated += again;
    }
    sorted.sort();
    Times { sorted, repeated }
}

/// Times while nothing else is sent.
pub async fn quiet(fleet: &Arc<TestFleet>) -> Times {
    let long = Duration::from_secs(size("BRIGADE_TEST_QUIET_SECONDS", QUIET) as u64);
    let (times, ()) = beside(fleet, "quiet", sleep(long)).await;
    times.print("quiet");
    times
}

/// Times while something else goes on.
pub async fn beside<T>(
    fleet: &Arc<TestFleet>,
    name: &'static str,
    work: impl Future<Output = T>,
) -> (Times, T) {
    let ((ready, begun), (end, ended)) = (oneshot::channel(), watch::channel(false));
    let measured = client(fleet, Nice::Measured, move |fleet| times(fleet, name, ready, ended));
    let worked = async {
        begun.await.expect("it begins");
        let done = work.await;
        end.send(true).expect("it listens");
        done
    };
    tokio::join!(measured, worked)
}
