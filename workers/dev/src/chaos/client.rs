//! A client that sends commands through every door under one Command-Id until they are decided, and
//! queries what it may know. Whatever it is answered stands in the history.

use std::{collections::HashMap, sync::Arc, time::Duration};

use brigade_contracts::{EraVersion, subject::is_secret};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    answers::{of_command, of_list, of_view},
    doors::Doors,
    history::{KeyVersion, Operation, OperationHistory, OperationResult, ReportedOutcome, Way},
    workload::GatewayFact,
};

/// A client gives a command up after this, and leaves it open what became of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same of a gateway's result, whose payment may never come.
const PATIENCE_OF_RESULTS: Duration = Duration::from_secs(3);
/// Versions that a client remembers for its next query.
const REMEMBERED: usize = 500;

/// One of the clients of a run.
pub struct ChaosClient {
    pub number: u32,
    pub tenant: Arc<str>,
    pub random: StdRng,
    pub stop: CancellationToken,
    pub doors: Doors,
    history: OperationHistory,
    /// The last version that it has been told, by key.
    seen: HashMap<String, EraVersion>,
    made: u64,
    children: u32,
}

/// A command of a client, under one id.
struct PendingCommand<'a> {
    id: Arc<str>,
    key: Arc<str>,
    verb: Arc<str>,
    payload: &'a Value,
    is_of_system: bool,
}

/// The verbs that a producer may not send.
const SYSTEM_VERBS: [&str; 3] = ["expire_lock", "reconcile", "rebuild_cache"];

impl ChaosClient {
    #[must_use]
    pub fn new(
        number: u32,
        tenant: &str,
        seed: u64,
        doors: Doors,
        history: OperationHistory,
        stop: CancellationToken,
    ) -> Self {
        let random = StdRng::seed_from_u64(seed ^ (u64::from(number) << 32));
        let (seen, tenant) = (HashMap::new(), tenant.into());
        Self { number, tenant, random, stop, doors, history, seen, made: 0, children: 0 }
    }

    /// Returns another client with the same connections, whose names begin with this one's.
    pub fn another(&mut self) -> Self {
        self.children += 1;
        Self {
            number: self.number + 1000 * self.children,
            tenant: self.tenant.clone(),
            random: StdRng::seed_from_u64(self.random.random()),
            stop: self.stop.clone(),
            doors: self.doors.clone(),
            history: self.history.clone(),
            seen: HashMap::new(),
            made: 0,
            children: 0,
        }
    }

    /// Returns a name that nobody else uses.
    pub fn name(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}{}-{}", self.number, self.made)
    }

    /// Sends a command until it is decided; returns the outcome, `None` if the client gave up. It
    /// often queries the aggregate right after. What a process of the fleet does not know is not sent.
    pub async fn command(
        &mut self,
        key: &str,
        verb: &str,
        payload: &Value,
    ) -> Option<ReportedOutcome> {
        self.doors.know(key, verb, payload).then_some(())?;
        let id = self.name("x");
        let command = PendingCommand {
            id: id.as_str().into(),
            key: key.into(),
            verb: verb.into(),
            payload,
            is_of_system: SYSTEM_VERBS.contains(&verb),
        };
        if let Some(fact) = GatewayFact::told_by(&self.tenant, &id, key, verb, payload) {
            self.history.fact(fact);
        }
        let outcome = self.until_decided(&command).await;
        if let Some(outcome) = &outcome
            && let Some(version) = outcome.version
        {
            self.remember(key, outcome.era.unwrap_or_default().at(version));
        }
        if outcome.is_some() && self.random.random_ratio(1, 4) {
            self.look_into_kv(key).await;
        }
        if self.random.random_ratio(1, 20) {
            // Whoever asks once more gets the same.
            let way = self.way(&command);
            self.attempt(way, &command).await;
        }
        if outcome.is_some() && self.random.random_ratio(1, 2) && !key.starts_with("user.") {
            self.view(key).await;
        }
        outcome
    }

    /// The same; returns true if it was done.
    pub async fn done(&mut self, key: &str, verb: &str, payload: Value) -> bool {
        self.command(key, verb, &payload).await.is_some_and(|outcome| outcome.status < 300)
    }

    async fn until_decided(&mut self, command: &PendingCommand<'_>) -> Option<ReportedOutcome> {
        let is_result = &*command.verb == "record_result";
        let until = Instant::now() + if is_result { PATIENCE_OF_RESULTS } else { PATIENCE };
        let mut pause = Duration::from_millis(20);
        // Some rely on a PubAck, and never send the command again.
        let (trusts, mut is_stored) = (self.random.random_ratio(1, 2), false);
        loop {
            let way = self.way(command);
            let answer_of_door = self.attempt(way, command).await;
            let mut answer = answer_of_door.clone();
            if matches!(answer, OperationResult::Stored { .. }) {
                answer = self.outcome(command).await;
            }
            if let OperationResult::Final(outcome) = answer {
                return Some(outcome);
            }
            is_stored |= matches!(answer_of_door, OperationResult::Stored { .. });
            if Instant::now() > until || self.stop.is_cancelled() || (trusts && is_stored) {
                return None;
            }
            sleep(pause.mul_f64(self.random.random_range(0.5..1.5))).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Draws a door: all lead to the same code and one name space of ids.
    fn way(&mut self, command: &PendingCommand<'_>) -> Way {
        if command.is_of_system {
            return Way::Request;
        }
        let aggregate = command.key.split('.').next().unwrap_or_default();
        match self.random.random_range(0..10) {
            // Over HTTP each stranger has a name space of his own.
            _ if is_secret(aggregate, &command.verb) => Way::Request,
            0..=4 => Way::Request,
            5..=7 => Way::Durable,
            _ => Way::Http,
        }
    }

    async fn attempt(&mut self, way: Way, command: &PendingCommand<'_>) -> OperationResult {
        let PendingCommand { id, key, verb, payload, is_of_system } = command;
        // Some are impatient.
        let patience = if self.random.random_ratio(1, 12) { 60 } else { 2500 };
        let patience = Duration::from_millis(patience);
        let what = format!("{key}.{verb}");
        let (begun, body) = (self.history.now(), payload.to_string());
        let answer = match way {
            Way::Durable => self.doors.store(&self.tenant, &what, id, body, patience).await,
            Way::Http => {
                let reply = self.doors.post(&self.tenant, &what, id, body, patience);
                of_command(reply.await, id)
            }
            _ => {
                let headers = [("Command-Id", &**id)];
                let subject = format!("req.{}.{what}", self.tenant);
                let reply = self.doors.ask(subject, &headers, body, *is_of_system, patience);
                of_command(reply.await, id)
            }
        };
        self.record(way, key, verb, Some(command), begun, answer)
    }

    /// Asks for the outcome of a stored command, for some seconds.
    async fn outcome(&mut self, command: &PendingCommand<'_>) -> OperationResult {
        let mut answer = OperationResult::Nothing;
        for _ in 0..3 {
            let begun = self.history.now();
            let subject = format!("q.{}.outcome.{}", self.tenant, command.id);
            let headers = [("Wait-Ms", "1500")];
            let patience = Duration::from_secs(3);
            let reply = self.doors.ask(subject, &headers, String::new(), false, patience).await;
            answer = of_command(reply, &command.id);
            let (key, verb) = (command.key.clone(), command.verb.clone());
            answer = self.record(Way::ReportedOutcome, &key, &verb, Some(command), begun, answer);
            if matches!(answer, OperationResult::Final(_)) || self.stop.is_cancelled() {
                break;
            }
        }
        answer
    }

    /// Queries a view over NATS or HTTP, with what it knows as its ETag.
    pub async fn view(&mut self, key: &str) {
        let way = if self.random.random_ratio(2, 3) { Way::View } else { Way::HttpView };
        let known = self.seen.get(key).copied().filter(|_| self.random.random_ratio(3, 4));
        let etag = known.map(EraVersion::etag);
        let begun = self.history.now();
        let patience = Duration::from_secs(3);
        let reply = if way == Way::View {
            let headers = etag.as_deref().map(|etag| ("If-None-Match", etag));
            let headers: Vec<_> = headers.into_iter().collect();
            let subject = format!("q.{}.view.{key}", self.tenant);
            self.doors.ask(subject, &headers, String::new(), false, patience).await
        } else {
            let path = key.replacen('.', "/", 1);
            self.doors.get(&self.tenant, &path, etag.as_deref(), patience).await
        };
        let answer = of_view(reply, key, known);
        if let OperationResult::Versions { of, .. } = &answer
            && let Some(KeyVersion { era: Some(era), version, .. }) = of.first()
        {
            self.remember(key, era.at(*version));
        }
        self.record(way, &key.into(), &"view".into(), None, begun, answer);
    }

    /// Reads the counter of an aggregate in KV, as nobody but an operator can.
    async fn look_into_kv(&mut self, key: &str) {
        let begun = self.history.now();
        let answer = match self.doors.counter(&self.tenant, key).await {
            Some(version) => {
                let of = vec![KeyVersion::new(key, version)];
                OperationResult::Versions { status: 200, of }
            }
            None => OperationResult::Nothing,
        };
        self.record(Way::Kv, &key.into(), &"kv".into(), None, begun, answer);
    }

    /// Queries the list of active orders.
    pub async fn list(&mut self) {
        let begun = self.history.now();
        let subject = format!("q.{}.active_orders", self.tenant);
        let patience = Duration::from_secs(3);
        let reply = self.doors.ask(subject, &[], String::new(), false, patience).await;
        let answer = of_list(reply);
        self.record(Way::List, &"list".into(), &"list".into(), None, begun, answer);
    }

    fn remember(&mut self, key: &str, version: EraVersion) {
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        self.seen.insert(key.to_owned(), version);
    }

    fn record(
        &self,
        way: Way,
        key: &Arc<str>,
        verb: &Arc<str>,
        command: Option<&PendingCommand<'_>>,
        begun: u64,
        answer: OperationResult,
    ) -> OperationResult {
        self.history.record(Operation {
            client: self.number,
            way,
            tenant: self.tenant.clone(),
            key: key.clone(),
            verb: verb.clone(),
            command_id: command.map(|command| command.id.clone()),
            token: command.and_then(|command| command.payload["token"].as_i64()),
            begun,
            ended: self.history.now(),
            answer: answer.clone(),
        });
        answer
    }

    /// Pauses as long as people do, who are quick here.
    pub async fn think(&mut self) {
        let pause = Duration::from_millis(self.random.random_range(0..30));
        sleep(pause).await;
    }
}
