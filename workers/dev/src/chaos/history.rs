//! What was asked and what was answered, each with its times: all that the checkers believe besides
//! SQL, streams and KV.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result};
use brigade_contracts::{Era, EraVersion};
use serde::Serialize;

use super::workload::GatewayFact;

/// Microseconds since the history began, on the monotonic clock.
pub type Micros = u64;

/// The way that an operation took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `req.…`
    Request,
    /// `cmd.…`, answered by a PubAck.
    Durable,
    /// `POST /v1/…`
    Http,
    /// `q.….outcome.…`
    ReportedOutcome,
    /// `q.….view.…`
    View,
    /// `GET /v1/…`
    HttpView,
    /// The list of active orders.
    List,
    /// A key of the bucket `versions`, read by an operator.
    Kv,
    /// A push on `live.versions.…`; begun and answered at once.
    Push,
    /// An event of a stream over HTTP; begun and answered at once.
    Stream,
}

impl Way {
    #[must_use]
    pub fn is_command(self) -> bool {
        matches!(self, Self::Request | Self::Durable | Self::Http)
    }

    /// Returns true if it tells versions of what is there now.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(self, Self::View | Self::HttpView | Self::List)
    }
}

/// The answer to a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReportedOutcome {
    pub status: u16,
    pub code: String,
    /// The era of all versions in it; a refusal does not tell it.
    pub era: Option<Era>,
    pub version: Option<u64>,
    /// `<kind>.<id>@<version>`
    pub effects: Vec<String>,
    /// The fencing token that it gave.
    pub token: Option<i64>,
    /// The amount that a payment asks for.
    pub amount: Option<i64>,
    /// The version of the part `core`.
    pub core: Option<u64>,
    /// It says how long to wait; on the request door it is not stored, so it is not final there.
    pub waits: bool,
}

/// A version of `<aggregate>.<id>`, as a query or a push tells it. 0: not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyVersion {
    pub key: String,
    /// None where the answer does not tell it.
    pub era: Option<Era>,
    pub version: u64,
}

impl KeyVersion {
    #[must_use]
    pub fn new(key: &str, EraVersion { era, version }: EraVersion) -> Self {
        Self { key: key.to_owned(), era: Some(era), version }
    }
}

/// The end of an operation, as far as its client knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationResult {
    /// Nothing came in time.
    Nothing,
    /// An answer that says nothing about the effect: 503 and the like.
    NotSure(u16, String),
    /// Stored in a stream at this sequence.
    Stored {
        stream: String,
        sequence: u64,
    },
    /// The final outcome of a command.
    Final(ReportedOutcome),
    Versions {
        status: u16,
        of: Vec<KeyVersion>,
    },
}

/// One attempt of a client.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    pub client: u32,
    pub way: Way,
    pub tenant: Arc<str>,
    /// `<aggregate>.<id>`
    pub key: Arc<str>,
    /// The verb of a command.
    pub verb: Arc<str>,
    /// The Command-Id, if the operation is a command.
    pub command_id: Option<Arc<str>>,
    /// The fencing token that the command showed.
    pub token: Option<i64>,
    pub begun: Micros,
    /// When the answer came, or the client gave up.
    pub ended: Micros,
    pub answer: OperationResult,
}

impl Operation {
    #[must_use]
    pub fn outcome(&self) -> Option<&ReportedOutcome> {
        match &self.answer {
            OperationResult::Final(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Returns true if the answer says something about the effect or the state.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        !matches!(self.answer, OperationResult::Nothing | OperationResult::NotSure(..))
    }

    /// Returns one line of a finding.
    #[must_use]
    pub fn describe(&self) -> String {
        let seconds = |micros: Micros| micros as f64 / 1e6;
        let Self { client, way, tenant, key, verb, answer, .. } = self;
        let id = self.command_id.as_deref().unwrap_or("-");
        format!(
            "{:>9.4} to {:>9.4} s  client {client:<3} {way:?} {tenant}.{key} {verb} {id}: {answer:?}",
            seconds(self.begun),
            seconds(self.ended),
        )
    }
}

/// All operations of a run; shared by all clients.
#[derive(Clone)]
pub struct OperationHistory(Arc<Inner>);

struct Inner {
    began: Instant,
    operations: Mutex<Vec<Operation>>,
    facts: Mutex<Vec<GatewayFact>>,
    lines: Mutex<Option<BufWriter<File>>>,
}

impl OperationHistory {
    /// Begins now; also written to a file, a line an operation, where there is one.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn begin(file: Option<&Path>) -> Result<Self> {
        let file = file.map(|path| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        });
        let lines = Mutex::new(file.transpose()?.map(BufWriter::new));
        let (operations, facts) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { began: Instant::now(), operations, facts, lines })))
    }

    #[must_use]
    pub fn now(&self) -> Micros {
        u64::try_from(self.0.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn record(&self, operation: Operation) {
        if let Some(lines) = lock(&self.0.lines).as_mut() {
            // A full disk is no reason to stop checking.
            let _written = serde_json::to_writer(&mut *lines, &operation);
            let _ended = lines.write_all(b"\n");
        }
        lock(&self.0.operations).push(operation);
    }

    /// Notes what a gateway is about to tell.
    pub fn fact(&self, fact: GatewayFact) {
        lock(&self.0.facts).push(fact);
    }

    /// Takes what gateways told.
    #[must_use]
    pub fn take_facts(&self) -> Vec<GatewayFact> {
        std::mem::take(&mut *lock(&self.0.facts))
    }

    /// Takes all operations, in the order of their ends, and ends the file.
    #[must_use]
    pub fn take(&self) -> Vec<Operation> {
        if let Some(lines) = lock(&self.0.lines).as_mut() {
            let _flushed = lines.flush();
        }
        let mut operations = std::mem::take(&mut *lock(&self.0.operations));
        operations.sort_by_key(|operation| operation.ended);
        operations
    }

    /// Returns the number of definite answers so far.
    #[must_use]
    pub fn definite(&self) -> usize {
        lock(&self.0.operations).iter().filter(|operation| operation.is_definite()).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Operations by their tenant and something else of them.
pub type ByKey<'a> = HashMap<(&'a str, &'a str), Vec<&'a Operation>>;

/// Returns the operations by tenant and Command-Id.
#[must_use]
pub fn by_command(operations: &[Operation]) -> ByKey<'_> {
    let mut found: ByKey<'_> = HashMap::new();
    for operation in operations {
        if let Some(id) = operation.command_id.as_deref() {
            found.entry((&operation.tenant, id)).or_default().push(operation);
        }
    }
    found
}
