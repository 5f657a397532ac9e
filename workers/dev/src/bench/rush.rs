//! The standard mix, sent through either door.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use async_nats::{HeaderMap, Request, jetstream};
use brigade_contracts::{Door, header};
use futures::future::try_join_all;

use super::{
    fleet::{BenchFleet, connect, patient},
    load::{self, ScheduledSend},
    mix::{Mix, MixCommand},
    times::Times,
    waiters::Waiters,
};

/// Senders at once that keep a door busy.
pub const LANES: usize = 512;
/// Commands a second, before any were measured.
const GUESS: u64 = 4000;

/// A connection, and what it hears of outcomes.
struct TenantSender {
    jetstream: jetstream::Context,
    outcomes: Waiters,
}

impl TenantSender {
    async fn new(jetstream: jetstream::Context, outcomes: &str) -> Result<Self> {
        let outcomes = Waiters::listen(&jetstream.client(), outcomes).await?;
        Ok(Self { jetstream, outcomes })
    }
}

/// Sends commands, and sees to it that each gets the outcome it must have.
#[derive(Clone)]
pub struct Rush {
    pub mix: Arc<Mix>,
    /// One for all tenants, or one for each.
    senders: Arc<[TenantSender]>,
    /// Commands that were answered.
    answered: Arc<AtomicU64>,
    /// The rate of the last measurement, commands a second.
    rate: Arc<AtomicU64>,
}

impl Rush {
    /// Opens the carts. The workers run.
    ///
    /// # Errors
    /// If an outcome is not as expected; so everywhere here.
    pub async fn open(fleet: &BenchFleet, carts: usize) -> Result<Self> {
        let rush = Self {
            mix: Arc::new(Mix::new(carts)),
            senders: Arc::new([TenantSender::new(fleet.operator.clone(), "outcome.>").await?]),
            answered: Arc::default(),
            rate: Arc::new(AtomicU64::new(GUESS)),
        };
        let number = Arc::new(AtomicU64::new(0));
        rush.all(move |mix| {
            let cart = usize::try_from(number.fetch_add(1, Ordering::Relaxed)).ok()?;
            (cart < mix.carts()).then(|| mix.opening(cart).to_vec())
        })
        .await?;
        Ok(rush)
    }

    /// The same mix, each tenant's commands sent by a program of its own account.
    ///
    /// # Errors
    /// If a connection fails.
    pub async fn through_accounts(&self, fleet: &BenchFleet) -> Result<Self> {
        let senders = fleet.stack.tenants.iter().map(async |tenant| {
            let client = connect(&fleet.stack.nats_url(&format!("{tenant}-backend"))).await?;
            TenantSender::new(patient(client), &format!("outcome.{tenant}.>")).await
        });
        Ok(Self { senders: try_join_all(senders).await?.into(), ..self.clone() })
    }

    /// Commands a second, with as many at once as keep the door busy.
    pub async fn closed(&self, door: Door, length: Duration) -> Result<f64> {
        self.stock(length).await?;
        self.closed_as_stocked(door, length).await
    }

    /// The same, without joining members for the commitments beforehand.
    pub async fn closed_as_stocked(&self, door: Door, length: Duration) -> Result<f64> {
        let rush = self.clone();
        let next = move |_| {
            let rush = rush.clone();
            async move { rush.send(door, rush.mix.next()).await }
        };
        let rate = load::closed(LANES, length, next).await?;
        self.rate.store(rate as u64, Ordering::Relaxed);
        Ok(rate)
    }

    /// The mix at a constant rate; the time of each command to its outcome.
    pub async fn at_rate(&self, door: Door, rate: f64, length: Duration) -> Result<Times> {
        let times = Times::new();
        load::open(rate, length, |_, moment: ScheduledSend| {
            let (rush, times) = (self.clone(), times.clone());
            async move {
                rush.send(door, rush.mix.next()).await?;
                moment.done(&times);
                Ok(())
            }
        })
        .await?;
        Ok(times)
    }

    /// Joins the members that a measurement of this length will need.
    pub async fn stock(&self, length: Duration) -> Result<()> {
        let rate = self.rate.load(Ordering::Relaxed).max(GUESS) as f64;
        // A tenth of the commands, of the warm-up too, and some more.
        let needed = (rate * length.as_secs_f64() * 0.15) as usize;
        let missing = needed.saturating_sub(self.mix.members());
        let left = AtomicU64::new(missing as u64);
        self.all(move |mix| {
            let one_less = |left: u64| left.checked_sub(1);
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).ok()?;
            Some(vec![mix.joining()])
        })
        .await
    }

    /// Brings all orders to their end.
    pub async fn finish(&self) -> Result<()> {
        self.all(|mix| mix.ending().map(|step| vec![step])).await
    }

    /// Commands that were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Sends what `next` gives, each run of commands one by one, until it gives nothing.
    async fn all<F>(&self, next: F) -> Result<()>
    where
        F: Fn(&Mix) -> Option<Vec<MixCommand>> + Send + Sync + 'static,
    {
        let next = Arc::new(next);
        let lanes = (0..LANES).map(|_| {
            let (rush, next) = (self.clone(), next.clone());
            tokio::spawn(async move {
                while let Some(commands) = next(&rush.mix) {
                    for command in commands {
                        rush.send(Door::Request, command).await?;
                    }
                }
                anyhow::Ok(())
            })
        });
        for lane in try_join_all(lanes).await? {
            lane?;
        }
        Ok(())
    }

    pub async fn send(&self, door: Door, command: MixCommand) -> Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert(header::COMMAND_ID, command.id.as_str());
        let MixCommand { tenant, what, payload, .. } = &command;
        let subject = format!("{}.t{tenant}.{what}", door.prefix());
        let TenantSender { jetstream, outcomes } = &self.senders[tenant % self.senders.len()];
        let outcome = match door {
            Door::Request => {
                let request = Request::new().headers(headers).payload(payload.clone());
                let request = request.timeout(Some(Duration::from_secs(30)));
                jetstream.client().send_request(subject, request).await?
            }
            Door::Durable => {
                let outcome = outcomes.next(format!("outcome.t{tenant}.{}", command.id));
                let payload = payload.clone();
                jetstream.publish_with_headers(subject, headers, payload).await?.await?;
                outcome.await?
            }
        };
        let status = outcome.headers.as_ref().and_then(|headers| headers.get(header::STATUS));
        let status = status.map(|status| status.as_str().to_owned()).unwrap_or_default();
        self.settle(command, &status)
    }

    /// Takes in a command that was answered.
    pub fn settle(&self, command: MixCommand, status: &str) -> Result<()> {
        ensure!(status == command.status, "{}: {status}", command.what);
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.mix.done(command);
        Ok(())
    }
}
