//! Overtaking: what one tenant has put into `COMMANDS` is not what the others wait for.
//!
//! The stream has one consumer that everybody shares, first come, first served. While it has a
//! backlog, or so much waits there for its next try that it may soon deliver nothing new, another
//! consumer delivers the commands of all tenants but the **heavy** ones, who cause that backlog,
//! from about where the shared one is. If it gets a backlog of its own, a third one overtakes that,
//! and so on: each is a lane beside the one before it, and a batch takes equal shares of all lanes.
//!
//! What was decided ahead of its turn is delivered by the shared consumer later, found in the inbox
//! and acknowledged. The shared one alone says what is decided: what an overtaking lane has tried
//! in vain is left to it, with its last try and its dead letter.
//!
//! One command-handler makes and deletes the consumers, by a lease. It keeps nothing: who is
//! heavy stands in the consumer's metadata. A lane that is there when its time is over, missing, or
//! deleted by hand costs time alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use async_nats::jetstream::response::Response;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::tenants::Tenants;
use crate::{
    infra::{
        Context, Lease, Nats,
        lease::{self, Fitness},
    },
    runtime::consume::{BACKLOG, Lane},
};

const LEASE: &str = "command-handler.overtaking";
const STREAM: &str = "COMMANDS";
/// Most tenants that overtake, since the server compares all filters of a consumer with each other.
const MOST: usize = 500;
/// Deliveries that tell who is heavy; fewer tell nothing.
const SAMPLE: usize = 100;
/// A lane goes when there was nothing to overtake for so long.
const CALM: Duration = Duration::from_secs(2);
/// A lane is made again for tenants that are new, at most this often: it delivers again what it has
/// delivered already.
const RENEWED: Duration = Duration::from_secs(2);
/// A lane lasts so long before it is looked whether those are still heavy who were.
const RECONSIDERED: Duration = Duration::from_secs(30);
/// A lane begins so many messages before the one that the consumer before it has reached: they may
/// be in hand, or wait for their next try.
const IN_HAND: u64 = 4096;
/// A consumer that nobody uses is deleted by the server.
const INACTIVE: Duration = Duration::from_secs(30);
/// The key of the consumer's metadata that names the heavy tenants.
const HEAVY: &str = "overtaken";
/// `JSConsumerNotFoundErr` of nats-server.
const NOT_FOUND: u64 = 10014;

/// Makes and deletes the overtaking consumers, under the lease, until the drain.
pub async fn keep(cx: Context, lanes: Vec<Arc<Lane>>, tenants: Arc<Tenants>) {
    let mut tick = interval(lease::RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let duty = cx.health.duty("overtaking");
    let mut fitness = Fitness::default();
    let mut watched = vec![Watched::default(); lanes.len() - 1];
    let mut alert = true;
    loop {
        tokio::select! {
            _ = tick.tick() => alert = false,
            // At once when a backlog begins.
            () = lanes[0].backlogged(), if !alert => alert = true,
            () = cx.drain.cancelled() => return,
        }
        // Others tell of a Postgres that is away.
        duty.moved();
        if !Lease::hold(&cx, LEASE, &fitness).await.unwrap_or(false) {
            watched.fill(Watched::default());
            cx.metrics.overtaking.set(0);
            continue;
        }
        if let Err(error) = round(&cx, &lanes, &tenants, &mut watched).await {
            tracing::warn!(worker = %cx.worker, error = format!("{error:#}"), "nobody overtakes");
            fitness.fails();
        } else {
            fitness.works();
        }
        let there = watched.iter().filter(|watched| watched.is_there == Some(true)).count();
        cx.metrics.overtaking.set(i64::try_from(there).unwrap_or(i64::MAX));
    }
}

/// What the holder of the lease remembers of an overtaking consumer.
#[derive(Clone, Default)]
struct Watched {
    /// Whether it is there; a new holder cannot know.
    is_there: Option<bool>,
    /// Since when there is nothing to overtake.
    calm: Option<Instant>,
    /// When the consumer was made, and since when that one is known.
    known: Option<(String, Instant)>,
}

/// A consumer, as the server tells.
#[derive(Clone, Debug, Default)]
struct Seen {
    created: String,
    pending: u64,
    /// Those that are in hand or wait for their next try, and how many these may be.
    undone: u64,
    most_undone: u64,
    /// Everything up to that is done.
    floor: u64,
    /// The last one that it has delivered.
    delivered: u64,
    /// Those whose commands it delivers; none: everybody's.
    tenants: Option<BTreeSet<String>>,
    heavy: BTreeSet<String>,
}

/// What is done about a lane.
#[derive(Debug, PartialEq)]
enum Step {
    Leave,
    /// It is made, or made again, for these tenants, who overtake the heavy ones.
    Make {
        tenants: BTreeSet<String>,
        heavy: BTreeSet<String>,
    },
    Delete,
}

/// Looks at each lane once. A round ends with the first that it changes.
async fn round(
    cx: &Context,
    lanes: &[Arc<Lane>],
    tenants: &Tenants,
    watched: &mut [Watched],
) -> anyhow::Result<()> {
    let mut below = look(&cx.nats, lanes[0].durable).await?;
    let mut listed = None;
    for ((lane_below, lane), watched) in lanes.iter().zip(&lanes[1..]).zip(watched) {
        let backlog = below.take().filter(Seen::is_overtaken);
        let above = if backlog.is_some() || watched.is_there != Some(false) {
            look(&cx.nats, lane.durable).await?
        } else {
            None
        };
        watched.note(above.as_ref(), backlog.is_some());
        let step = match &backlog {
            Some(below) => {
                if listed.is_none() {
                    listed = Some(tenants.list(&cx.postgres, 2 * MOST).await?);
                }
                let listed = listed.as_deref().unwrap_or_default();
                let recent =
                    if below.is_stalled() { lane_below.again() } else { lane_below.recent() };
                step(below, above.as_ref(), watched.age(), &recent, listed)
            }
            None if above.is_some() && watched.is_calm() => Step::Delete,
            None => Step::Leave,
        };
        match step {
            Step::Leave => below = above,
            Step::Make { tenants, heavy } => {
                let start = backlog.map_or(1, |below| below.start());
                tracing::info!(
                    worker = %cx.worker, consumer = lane.durable, ?heavy, tenants = tenants.len(),
                    start, "a backlog is overtaken"
                );
                if above.is_some() {
                    delete(&cx.nats, lane.durable).await?;
                }
                watched.is_there = Some(true);
                return make(cx, lane.durable, &tenants, &heavy, start).await;
            }
            Step::Delete => {
                tracing::info!(
                    worker = %cx.worker, consumer = lane.durable, "nothing to overtake any more"
                );
                watched.is_there = None;
                return delete(&cx.nats, lane.durable).await;
            }
        }
    }
    Ok(())
}

impl Watched {
    fn note(&mut self, seen: Option<&Seen>, is_backlogged: bool) {
        self.is_there = Some(seen.is_some());
        self.calm = (!is_backlogged).then(|| self.calm.unwrap_or_else(Instant::now));
        self.known = seen.map(|seen| match self.known.take() {
            Some((created, since)) if created == seen.created => (created, since),
            _ => (seen.created.clone(), Instant::now()),
        });
    }

    fn is_calm(&self) -> bool {
        self.calm.is_some_and(|calm| calm.elapsed() >= CALM)
    }

    /// Returns for how long the consumer is known to be as it is.
    fn age(&self) -> Duration {
        self.known.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }
}

impl Seen {
    /// Returns where a lane begins that overtakes this consumer.
    fn start(&self) -> u64 {
        (self.floor + 1).max(self.delivered.saturating_sub(IN_HAND))
    }

    /// Tells whether others have to wait for it.
    fn is_overtaken(&self) -> bool {
        self.pending > BACKLOG || self.is_stalled()
    }

    /// Tells whether it delivers nothing new, or may do so soon: it is half full of what waits for
    /// its next try.
    fn is_stalled(&self) -> bool {
        self.undone * 2 >= self.most_undone
    }

    fn delivers(&self, tenant: &str) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }
}

/// Returns what is done about a lane whose consumer below is overtaken, of which `recent` were the
/// last deliveries, or, where it stalls, the last that came again; `above` is the consumer that
/// overtakes it and is so old.
fn step(
    below: &Seen,
    above: Option<&Seen>,
    age: Duration,
    recent: &[Box<str>],
    listed: &[String],
) -> Step {
    let others = |heavy: &BTreeSet<String>| -> BTreeSet<String> {
        let may = |tenant: &&String| below.delivers(tenant) && !heavy.contains(*tenant);
        listed.iter().filter(may).take(MOST).cloned().collect()
    };
    let make = |heavy: BTreeSet<String>| {
        let tenants = others(&heavy);
        let any = !heavy.is_empty() && !tenants.is_empty();
        any.then_some(Step::Make { tenants, heavy })
    };
    let Some(above) = above else { return make(heavy(recent)).unwrap_or(Step::Leave) };
    if age >= RECONSIDERED && recent.len() >= SAMPLE {
        let heavy = heavy(recent);
        if heavy.is_disjoint(&above.heavy) {
            return make(heavy).unwrap_or(Step::Delete);
        }
    }
    let tenants = others(&above.heavy);
    let delivers_all = tenants.iter().all(|tenant| above.delivers(tenant));
    let renewed = if tenants.len() < MOST { RENEWED } else { RECONSIDERED };
    if delivers_all || age < renewed {
        return Step::Leave;
    }
    Step::Make { tenants, heavy: above.heavy.clone() }
}

/// Returns who causes a backlog, by the tenants of its last deliveries: those who have at least an
/// equal share of them, and one in a hundred.
fn heavy(recent: &[Box<str>]) -> BTreeSet<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for tenant in recent {
        *counts.entry(tenant).or_default() += 1;
    }
    let (all, tenants) = (recent.len(), counts.len());
    let is_heavy = |count: usize| count * tenants >= all && count * 100 >= all;
    let heavy = counts.into_iter().filter(|(_, count)| all >= SAMPLE && is_heavy(*count));
    heavy.map(|(tenant, _)| tenant.to_owned()).collect()
}

/// Asks for a consumer. `None`: it is not there.
async fn look(nats: &Nats, durable: &str) -> anyhow::Result<Option<Seen>> {
    let subject = format!("CONSUMER.INFO.{STREAM}.{durable}");
    let info: Value = match nats.jetstream.request(subject, &json!({})).await? {
        Response::Ok(info) => info,
        Response::Err { error } if error.error_code().0 == NOT_FOUND => return Ok(None),
        Response::Err { error } => return Err(error.into()),
    };
    seen(&info).with_context(|| format!("the server tells too little of {durable}")).map(Some)
}

fn seen(info: &Value) -> Option<Seen> {
    let filters = info["config"]["filter_subjects"].as_array().cloned().unwrap_or_default();
    let tenants: BTreeSet<_> =
        filters.iter().filter_map(|filter| tenant(filter.as_str()?)).map(str::to_owned).collect();
    let heavy = info["config"]["metadata"][HEAVY].as_str().unwrap_or_default();
    Some(Seen {
        created: info["created"].as_str()?.to_owned(),
        pending: info["num_pending"].as_u64()?,
        undone: info["num_ack_pending"].as_u64()?,
        // Less than nothing: any number.
        most_undone: info["config"]["max_ack_pending"].as_u64().unwrap_or(u64::MAX),
        floor: info["ack_floor"]["stream_seq"].as_u64()?,
        delivered: info["delivered"]["stream_seq"].as_u64()?,
        tenants: (!tenants.is_empty()).then_some(tenants),
        heavy: heavy.split_whitespace().map(str::to_owned).collect(),
    })
}

fn filter(tenant: &str) -> String {
    format!("cmd.{tenant}.>")
}

fn tenant(filter: &str) -> Option<&str> {
    filter.strip_prefix("cmd.")?.strip_suffix(".>")
}

/// Makes a consumer like the shared one, which delivers the commands of these tenants from `start`
/// on. Its state is in memory: what is lost is made again.
async fn make(
    cx: &Context,
    durable: &str,
    tenants: &BTreeSet<String>,
    heavy: &BTreeSet<String>,
    start: u64,
) -> anyhow::Result<()> {
    let shared = cx.topology.consumer(STREAM, cx.worker.as_str()).context("no shared consumer")?;
    let heavy: Vec<_> = heavy.iter().map(String::as_str).collect();
    let config = json!({
        "name": durable,
        "durable_name": durable,
        "description": "There only while it overtakes what the tenants below flood the stream with",
        "metadata": { HEAVY: heavy.join(" ") },
        "filter_subjects": tenants.iter().map(|tenant| filter(tenant)).collect::<Vec<_>>(),
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start,
        "ack_policy": shared["ack_policy"],
        "ack_wait": shared["ack_wait"],
        "max_ack_pending": shared["max_ack_pending"],
        "inactive_threshold": INACTIVE.as_nanos(),
        "mem_storage": true,
    });
    let request = json!({ "stream_name": STREAM, "config": config, "action": "create" });
    ask(&cx.nats, format!("CONSUMER.CREATE.{STREAM}.{durable}"), &request).await
}

async fn delete(nats: &Nats, durable: &str) -> anyhow::Result<()> {
    ask(nats, format!("CONSUMER.DELETE.{STREAM}.{durable}"), &json!({})).await
}

async fn ask(nats: &Nats, subject: String, request: &Value) -> anyhow::Result<()> {
    match nats.jetstream.request(subject, request).await? {
        Response::Ok::<Value>(_) => Ok(()),
        Response::Err { error } => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(counts: &[(&str, usize)]) -> Vec<Box<str>> {
        let of = |(tenant, count): &(&str, usize)| vec![Box::from(*tenant); *count];
        counts.iter().flat_map(of).collect()
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn heavy_is_who_has_an_equal_share_or_more() {
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
    fn whoever_floods_is_heavy_and_who_has_a_hundredth_is_not_beside_him() {
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

    fn above(tenants: &[&str], heavy: &[&str]) -> Seen {
        Seen { tenants: Some(names(tenants)), heavy: names(heavy), ..Seen::default() }
    }

    fn make(tenants: &[&str], heavy: &[&str]) -> Step {
        Step::Make { tenants: names(tenants), heavy: names(heavy) }
    }

    #[test]
    fn a_lane_is_made_for_all_but_the_heavy_who_may_use_the_one_below() {
        let (shared, listed) = (Seen::default(), ["a", "b", "c"].map(str::to_owned));
        let flood = recent(&[("a", 1000)]);
        let step = |below, above, age, recent: &[Box<str>]| {
            super::step(below, above, age, recent, &listed)
        };
        assert_eq!(step(&shared, None, Duration::ZERO, &flood), make(&["b", "c"], &["a"]));
        assert_eq!(step(&shared, None, Duration::ZERO, &[]), Step::Leave);
        let first = above(&["b", "c"], &["a"]);
        let second = recent(&[("b", 1000)]);
        assert_eq!(step(&first, None, Duration::ZERO, &second), make(&["c"], &["b"]));
        let second = recent(&[("b", 500), ("c", 500)]);
        assert_eq!(step(&first, None, Duration::ZERO, &second), Step::Leave, "nobody is left");
    }

    #[test]
    fn a_lane_is_made_again_for_a_new_tenant_and_when_the_flood_is_anothers() {
        let (shared, listed) = (Seen::default(), ["a", "b", "c"].map(str::to_owned));
        let step = |above: &Seen, age, counts: &[(&str, usize)]| {
            super::step(&shared, Some(above), age, &recent(counts), &listed)
        };
        let (all, less) = (above(&["b", "c"], &["a"]), above(&["b"], &["a"]));
        let a = [("a", 1000)];
        assert_eq!(step(&all, RENEWED, &a), Step::Leave);
        assert_eq!(step(&less, Duration::ZERO, &a), Step::Leave, "not so soon");
        assert_eq!(step(&less, RENEWED, &a), make(&["b", "c"], &["a"]));
        let b = [("a", 100), ("b", 900)];
        assert_eq!(step(&all, RENEWED, &b), Step::Leave);
        assert_eq!(step(&all, RECONSIDERED, &b), make(&["a", "c"], &["b"]));
        assert_eq!(step(&all, RECONSIDERED, &a), Step::Leave);
        assert_eq!(step(&all, RECONSIDERED, &[]), Step::Leave, "nothing is known");
        let many: Vec<_> = (0..200).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), 1)).collect();
        assert_eq!(step(&all, RECONSIDERED, &many), Step::Delete, "nobody is heavy any more");
    }

    #[test]
    fn the_tenants_of_a_lane_are_bounded() {
        let listed: Vec<_> = (0..2 * MOST).map(|n| format!("t{n}")).collect();
        let flood = recent(&[("t0", 1000)]);
        let step = |above, age| step(&Seen::default(), above, age, &flood, &listed);
        let Step::Make { tenants, heavy } = step(None, Duration::ZERO) else { panic!("no lane") };
        assert_eq!((tenants.len(), heavy), (MOST, names(&["t0"])));
        assert!(tenants.contains("t1"), "the first of them are taken");
        let other = above(&["t1"], &["t0"]);
        assert_eq!(step(Some(&other), RENEWED), Step::Leave, "who is new is not known to wait");
        assert_ne!(step(Some(&other), RECONSIDERED), Step::Leave);
    }

    #[test]
    fn a_lane_begins_with_what_may_be_in_hand() {
        let start = |floor, delivered| Seen { floor, delivered, ..Seen::default() }.start();
        assert_eq!(start(0, 0), 1);
        assert_eq!(start(1000, 1700), 1001);
        assert_eq!(start(1000, 100_000), 100_000 - IN_HAND, "one message waits for long");
    }

    #[test]
    fn a_consumer_is_read_as_it_was_made() {
        let info = json!({
            "created": "now", "num_pending": 5, "num_ack_pending": 6,
            "ack_floor": {"stream_seq": 7}, "delivered": {"stream_seq": 9},
            "config": {
                "max_ack_pending": 12, "filter_subjects": [filter("b"), filter("c")],
                "metadata": { HEAVY: "a z", "_nats.ver": "2" },
            },
        });
        let read = seen(&info).unwrap();
        assert!(read.is_stalled(), "half of what may be pending is");
        assert!(!Seen { undone: 5, ..read.clone() }.is_overtaken());
        assert_eq!((read.tenants, read.heavy), (Some(names(&["b", "c"])), names(&["a", "z"])));
        assert_eq!((read.pending, read.floor, read.delivered), (5, 7, 9));
        let mut shared = info.clone();
        shared["config"]["filter_subjects"] = json!(["cmd.>"]);
        assert_eq!(seen(&shared).unwrap().tenants, None);
        assert!(seen(&json!({})).is_none());
    }
}
