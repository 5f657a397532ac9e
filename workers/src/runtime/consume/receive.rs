//! Receives messages from the sources, each in a task of its own.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    lane::Lane,
    limits::MAX_IN_HAND,
    pull::{PullConsumer, PullEnd, ensure_durable},
    source::Source,
    subscribe::{Sender, subscribe},
};
use crate::{
    infra::{Context, Intake, intake::IntakeKind},
    runtime::Delivery,
};

/// Most groups of messages on their way to the loop, each of messages that came together.
const GROUPS: usize = 16;
/// Pause before a consumer that could not be used is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A consumer that exists only at times is pulled from at least this often: if the one that it
/// overtakes delivers nothing any more, nothing reports a backlog.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a consumer that exists only at times was found to be gone.
const GONE_PAUSE: Duration = Duration::from_millis(100);
/// Silent pulls in a row after which the consumer is looked up.
const MAX_SILENT: u32 = 2;
/// The same after which it is away although its stream grows: a minute of them.
const MAX_SILENT_WHILE_GROWING: u32 = 80;

/// The silence of a consumer. A server that stores a burst may give no sign of life for seconds,
/// and is not away.
#[derive(Default)]
struct Silence {
    /// Silent pulls in a row.
    pulls: u32,
    /// The last sequence of the stream when the consumer was last looked up.
    reached: u64,
}

impl Silence {
    /// Records a silent pull. Returns whether the consumer is to be looked up.
    fn goes_on(&mut self) -> bool {
        self.pulls += 1;
        self.pulls >= MAX_SILENT
    }

    /// Records what was found when it was looked up. Returns whether it is away.
    fn is_away(&mut self, reached: u64) -> bool {
        let grows = std::mem::replace(&mut self.reached, reached) != reached;
        let most = if grows { MAX_SILENT_WHILE_GROWING } else { MAX_SILENT };
        self.pulls >= most
    }
}

/// The receiving end of all sources.
pub(super) struct Receivers {
    pub(super) messages: mpsc::Receiver<Vec<Delivery>>,
    /// Has one permit for each source that is open.
    pub(super) opened: Arc<Semaphore>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// One source on its way to the loop.
struct SourceReceiver {
    cx: Context,
    intake: Intake,
    /// The number of the source, which its messages carry.
    number: usize,
    sender: Sender,
    opened: Arc<Semaphore>,
}

/// Receives from all sources until the drain. Requests and stored messages come through a
/// connection each.
pub(super) fn spawn(cx: &Context, sources: &[Source]) -> Receivers {
    let (sender, messages) = mpsc::channel(GROUPS);
    let opened = Arc::new(Semaphore::new(0));
    let (mut requests, mut stored) = (None, None);
    let mut tasks = Vec::with_capacity(sources.len());
    for (number, source) in sources.iter().cloned().enumerate() {
        let kind = source.intake_kind();
        let intake = if kind == IntakeKind::Stored { &mut stored } else { &mut requests };
        let intake = intake.get_or_insert_with(|| cx.nats.intake(kind)).clone();
        let (cx, sender, opened) = (cx.clone(), sender.clone(), opened.clone());
        let receiver = SourceReceiver { cx, intake, number, sender, opened };
        tasks.push(AbortOnDropHandle::new(tokio::spawn(receiver.run(source))));
    }
    Receivers { messages, opened, _tasks: tasks }
}

impl SourceReceiver {
    async fn run(self, source: Source) {
        let kind = source.intake_kind();
        let received = match source {
            Source::Stream(stream) => {
                let lane = Arc::new(Lane::new(stream, self.cx.worker.as_str()));
                self.pull_from(lane).await
            }
            Source::Lane(lane) if lane.overtakes().is_some() => self.pull_at_times(lane).await,
            Source::Lane(lane) => self.pull_from(lane).await,
            Source::Requests(subject) => self.listen_to(subject).await,
        };
        if let Err(error) = received {
            // Without its sources the worker ends, and is started again.
            self.cx.health.away(kind.name(), &format!("{error:#}"));
        }
    }

    /// Pulls from the worker's durable consumer until the drain.
    async fn pull_from(&self, lane: Arc<Lane>) -> anyhow::Result<()> {
        let Self { cx, intake, .. } = self;
        let stream = lane.stream;
        let consumer = PullConsumer::open(cx, intake, lane, self.number).await?;
        let Some(mut consumer) = consumer else { return Ok(()) };
        let permits = Arc::new(Semaphore::new(MAX_IN_HAND));
        let (mut exists, mut is_open, mut silence) = (false, false, Silence::default());
        while !cx.drain.is_cancelled() {
            if !exists {
                match ensure_durable(cx, stream).await {
                    Ok(reached) if silence.is_away(reached) => {
                        cx.health.away("stream", &format!("{stream}: no sign of life"));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        // The stream may be gone, or the server.
                        cx.health.away("stream", &format!("{stream}: {error:#}"));
                        sleep(RETRY_PAUSE).await;
                        continue;
                    }
                }
            }
            exists = true;
            if !is_open {
                is_open = true;
                self.opened.add_permits(1);
            }
            match consumer.pull(&cx.drain, &self.sender, &permits).await? {
                PullEnd::Done => {
                    silence.pulls = 0;
                    cx.health.back("stream");
                    continue;
                }
                PullEnd::Silent if !silence.goes_on() => continue,
                PullEnd::Silent => {}
                PullEnd::Refused(why) => cx.health.away("stream", &format!("{stream}: {why}")),
            }
            exists = false;
            sleep(RETRY_PAUSE).await;
        }
        Ok(())
    }

    /// Pulls until the drain from a consumer that exists only at times: from when the one that it
    /// overtakes has a backlog, or delivers nothing any more, until it is gone.
    async fn pull_at_times(&self, lane: Arc<Lane>) -> anyhow::Result<()> {
        let Self { cx, intake, .. } = self;
        let consumer = PullConsumer::open(cx, intake, lane.clone(), self.number).await?;
        let Some(mut consumer) = consumer else { return Ok(()) };
        self.opened.add_permits(1);
        let permits = Arc::new(Semaphore::new(MAX_IN_HAND));
        while !cx.drain.is_cancelled() {
            if let Some(overtaken) = lane.overtakes() {
                tokio::select! {
                    () = overtaken.backlogged() => {}
                    () = sleep(PROBE_INTERVAL) => {}
                    () = cx.drain.cancelled() => return Ok(()),
                }
            }
            while !cx.drain.is_cancelled()
                && consumer.pull(&cx.drain, &self.sender, &permits).await? == PullEnd::Done
            {
            }
            lane.set_idle();
            sleep(GONE_PAUSE).await;
        }
        Ok(())
    }

    /// Listens to requests until the drain, then takes those that were already on their way.
    async fn listen_to(&self, subject: &'static str) -> anyhow::Result<()> {
        let Self { cx, intake, .. } = self;
        let group = Some(cx.worker.as_str());
        let Some(mut requests) = subscribe(cx, intake, subject, group).await? else {
            return Ok(());
        };
        self.opened.add_permits(1);
        let mut is_listening = true;
        loop {
            tokio::select! {
                received = requests.next() => match received {
                    Some(received) => {
                        let request = |message| Delivery::request(message, self.number);
                        self.sender.send(received.into_iter().map(request).collect()).await?;
                    }
                    None if is_listening => anyhow::bail!("the connection has died"),
                    None => return Ok(()),
                },
                () = cx.drain.cancelled(), if is_listening => {
                    is_listening = false;
                    requests.stop();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_is_silent_while_its_stream_grows_is_not_away_yet() {
        let mut silence = Silence::default();
        assert!(!silence.is_away(7), "it was never silent");
        assert!(!silence.goes_on() && silence.goes_on());
        assert!(!silence.is_away(8), "messages are stored");
        assert!(silence.goes_on() && silence.is_away(8), "nothing moves");
        silence.pulls = 0;
        let growing = (9..).take_while(|&reached| {
            silence.goes_on();
            !silence.is_away(reached)
        });
        let pulls = u32::try_from(growing.count()).unwrap();
        assert_eq!(pulls + 1, MAX_SILENT_WHILE_GROWING, "not for ever");
    }
}
