//! A typed handle of a KV bucket.
//!
//! Every write is a compare-and-set on the key's revision and never lowers a version. The revisions
//! of keys that this handle wrote or read are remembered, so that the usual write needs no read; a
//! remembered revision is only a guess that the server checks.

mod put;
mod stamp;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use async_nats::{
    HeaderMap,
    jetstream::{
        context::PublishErrorKind,
        message::PublishMessage,
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use brigade_contracts::{Era, key::Bucket, planted::PlantedBug};
use futures::future::join_all;
use moka::sync::Cache;
use serde::Deserialize;

use self::stamp::stamp;
pub use self::{
    put::{KvEntry, Put, PutResult, WhenAbsent},
    stamp::unstamp,
};
use crate::infra::Nats;

/// Keys whose revision is remembered, at most; about 100 bytes each.
const REMEMBERED: u64 = 100_000;
/// Rounds of reading and writing before a contended key is given up on.
const ROUNDS: usize = 6;

/// Acknowledgements of writes that are under way at once come out of order, by no more than this.
const IN_FLIGHT: u64 = 1_000;

/// A bucket, with what is known of its keys.
pub struct Kv {
    nats: Nats,
    era: Era,
    bucket: Bucket,
    stream: Stream<()>,
    known: Cache<String, RememberedKey>,
    /// The connection that `known` was learned on.
    connection: AtomicU64,
    /// The highest revision that a write of this handle was given.
    newest: AtomicU64,
    acknowledged: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct RememberedKey {
    revision: u64,
    version: u64,
    expires: bool,
}

/// The last message of a key.
enum LastMessage {
    Value(KvEntry),
    /// No value: never written (0), or a marker of a deletion or expiry at this revision.
    Nothing(u64),
}

enum WriteResult {
    At(u64),
    /// Another writer was first, or an acknowledgement was lost: the key has to be read.
    Unknown,
    Failed(String),
}

impl Kv {
    /// # Errors
    /// Never in practice: the name of the bucket's stream is valid.
    pub async fn open(nats: &Nats, era: Era, bucket: Bucket) -> anyhow::Result<Self> {
        Ok(Self {
            nats: nats.clone(),
            era,
            bucket,
            stream: nats.jetstream.get_stream_no_info(bucket.stream()).await?,
            known: Cache::new(REMEMBERED),
            connection: AtomicU64::new(nats.connections()),
            newest: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        })
    }

    #[must_use]
    pub fn bucket(&self) -> Bucket {
        self.bucket
    }

    /// Returns the number of writes that were acknowledged so far. A put that is
    /// [`PutResult::UpToDate`] may have needed none.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(SeqCst)
    }

    /// Reads a key from the leader, so that a write that was acknowledged is seen. A value of
    /// another era is none.
    ///
    /// # Errors
    /// If the bucket cannot be read.
    pub async fn get(&self, key: &str) -> anyhow::Result<Option<KvEntry>> {
        Ok(match self.last(key).await? {
            LastMessage::Value(entry) => {
                let is_ignored = PlantedBug::EraIgnored.is_planted();
                Some(entry).filter(|entry| entry.era == self.era || is_ignored)
            }
            LastMessage::Nothing(_) => None,
        })
    }

    /// Writes values, at most one a key: all of them are sent before the first acknowledgement is
    /// awaited. The results are in the order of `puts`.
    pub async fn put(&self, puts: &[Put], absent: WhenAbsent) -> Vec<PutResult> {
        self.forget_earlier_connections();
        let mut results: Vec<Option<PutResult>> = vec![None; puts.len()];
        let mut expected: Vec<Option<u64>> =
            puts.iter().map(|put| self.guess(put, absent)).collect();
        for (put, result) in puts.iter().zip(&mut results) {
            let known = self.known.get(&put.key);
            let covers = |known: RememberedKey| put.is_covered_by(known.version, known.expires);
            if !PlantedBug::WriteWithoutVersion.is_planted() && known.is_some_and(covers) {
                *result = Some(PutResult::UpToDate);
            }
        }
        for _ in 0..ROUNDS {
            self.read_unknown(puts, &mut expected, &mut results, absent).await;
            if results.iter().all(Option::is_some) {
                break;
            }
            self.write(puts, &mut expected, &mut results).await;
        }
        let gave_up = || PutResult::Failed("the key is contended".to_owned());
        results.into_iter().map(|result| result.unwrap_or_else(gave_up)).collect()
    }

    /// Reads the keys whose revision is not known, and sets the results of those that need no
    /// write.
    async fn read_unknown(
        &self,
        puts: &[Put],
        expected: &mut [Option<u64>],
        results: &mut [Option<PutResult>],
        absent: WhenAbsent,
    ) {
        let unknown: Vec<usize> =
            (0..puts.len()).filter(|&at| results[at].is_none() && expected[at].is_none()).collect();
        let read = join_all(unknown.iter().map(|&at| self.last(&puts[at].key))).await;
        for (at, last) in unknown.into_iter().zip(read) {
            match last {
                Ok(LastMessage::Value(entry)) if puts[at].is_covered_by_entry(self.era, &entry) => {
                    results[at] = Some(PutResult::UpToDate);
                }
                Ok(LastMessage::Value(entry)) => expected[at] = Some(entry.revision),
                Ok(LastMessage::Nothing(_))
                    if puts[at].version > 1 && absent == WhenAbsent::Ask =>
                {
                    results[at] = Some(PutResult::Absent);
                }
                Ok(LastMessage::Nothing(revision)) => expected[at] = Some(revision),
                Err(error) => results[at] = Some(PutResult::Failed(format!("{error:#}"))),
            }
        }
    }

    async fn write(
        &self,
        puts: &[Put],
        expected: &mut [Option<u64>],
        results: &mut [Option<PutResult>],
    ) {
        let mut sent = Vec::new();
        for (at, put) in puts.iter().enumerate() {
            if let (None, Some(revision)) = (&results[at], expected[at]) {
                let mut message = PublishMessage::build().payload(stamp(self.era, &put.value));
                if !PlantedBug::WriteWithoutVersion.is_planted() {
                    message = message.expected_last_subject_sequence(revision);
                }
                if let Some(ttl) = put.ttl {
                    message = message.ttl(ttl);
                }
                let options = self.nats.options();
                let subject = options.subject_of_put(self.bucket.subject(&put.key));
                let acknowledged = self.nats.jetstream.send_publish(subject, message).await;
                sent.push(async move {
                    match acknowledged {
                        Ok(acknowledged) => (at, written(acknowledged.await)),
                        Err(error) => (at, WriteResult::Failed(error.to_string())),
                    }
                });
            }
        }
        for (at, written) in join_all(sent).await {
            match written {
                WriteResult::At(revision) => {
                    self.acknowledged.fetch_add(1, SeqCst);
                    if self.newest.fetch_max(revision, SeqCst) > revision + IN_FLIGHT {
                        // The stream was made again and counts from 1: revisions of the old one
                        // may be given out again, to other values.
                        self.newest.store(revision, SeqCst);
                        self.forget();
                    }
                    let put = &puts[at];
                    let known = RememberedKey {
                        revision,
                        version: put.version,
                        expires: put.ttl.is_some(),
                    };
                    self.known.insert(puts[at].key.clone(), known);
                    results[at] = Some(PutResult::UpToDate);
                }
                WriteResult::Unknown => {
                    self.known.invalidate(&puts[at].key);
                    expected[at] = None;
                }
                WriteResult::Failed(why) => {
                    // Mostly there is no stream: it will count from 1 when it is made again.
                    self.forget();
                    results[at] = Some(PutResult::Failed(why));
                }
            }
        }
    }

    /// Returns the revision to expect: the remembered one; 0 for a first version, and if the caller
    /// knows that the key may be lost (one round for a bucket that is rebuilt); else it has to be
    /// read.
    fn guess(&self, put: &Put, absent: WhenAbsent) -> Option<u64> {
        match self.known.get(&put.key) {
            _ if PlantedBug::WriteWithoutVersion.is_planted() => Some(0),
            Some(known) => Some(known.revision),
            None => (put.version == 1 || absent == WhenAbsent::Write).then_some(0),
        }
    }

    /// Forgets the revision of a key, so that the next write reads it.
    pub fn forget_key(&self, key: &str) {
        self.known.invalidate(key);
    }

    /// Forgets the revisions of all keys, so that the next write reads them.
    pub fn forget(&self) {
        self.known.invalidate_all();
    }

    /// Forgets revisions after a reconnect: when a server crashes, lost revisions are assigned
    /// again, to other values.
    fn forget_earlier_connections(&self) {
        let now = self.nats.connections();
        if self.connection.swap(now, SeqCst) != now {
            self.forget();
        }
    }

    async fn last(&self, key: &str) -> anyhow::Result<LastMessage> {
        let subject = self.bucket.subject(key);
        match self.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) if is_marker(&message.headers) => {
                Ok(LastMessage::Nothing(message.sequence))
            }
            Ok(message) => {
                let (era, value) = unstamp(&message.payload);
                Ok(LastMessage::Value(KvEntry {
                    revision: message.sequence,
                    era,
                    version: version_in(&value),
                    expires: message.headers.get("Nats-TTL").is_some(),
                    value,
                }))
            }
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                Ok(LastMessage::Nothing(0))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn written(
    acknowledged: Result<
        async_nats::jetstream::publish::PublishAck,
        async_nats::jetstream::context::PublishError,
    >,
) -> WriteResult {
    match acknowledged {
        Ok(ack) => WriteResult::At(ack.sequence),
        Err(error) => match error.kind() {
            PublishErrorKind::WrongLastSequence | PublishErrorKind::TimedOut => {
                WriteResult::Unknown
            }
            // The server has a second code for the same conflict, which the client does not map.
            _ if error.to_string().contains("10164") => WriteResult::Unknown,
            _ => WriteResult::Failed(error.to_string()),
        },
    }
}

/// Returns true if a message says that the key has no value: deleted, purged or expired.
fn is_marker(headers: &HeaderMap) -> bool {
    headers.get("KV-Operation").is_some() || headers.get("Nats-Marker-Reason").is_some()
}

/// Returns the version inside a value; 0 if brigade did not write it, so that it is replaced.
fn version_in(value: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    serde_json::from_slice::<Versioned>(value).map_or(0, |value| value.version)
}
