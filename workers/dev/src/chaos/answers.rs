//! What a reply says for certain.

use brigade_contracts::EraVersion;
use bytes::Bytes;
use serde_json::Value;

use super::history::{KeyVersion, OperationResult, ReportedOutcome};

/// A reply over NATS or HTTP.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub etag: Option<String>,
    pub body: Bytes,
}

/// Codes that say nothing about the effect, whatever their status.
const NOT_FINAL: [&str; 7] = [
    "too_many",
    "unknown_tenant",
    "tenant_suspended",
    "command_id_reused",
    "missing_command_id",
    "internal",
    "too_slow",
];

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Reads the reply to a command, or to the query of its outcome.
#[must_use]
pub fn of_command(reply: Option<Reply>, id: &str) -> OperationResult {
    let Some(reply) = reply else { return OperationResult::Nothing };
    let body = reply.json();
    let code = body["code"].as_str().unwrap_or_default().to_owned();
    let Some(status) = body["status"].as_u64().and_then(|status| u16::try_from(status).ok()) else {
        return OperationResult::NotSure(reply.status, code);
    };
    if status == 503 || NOT_FINAL.contains(&code.as_str()) || body["command_id"] != id {
        return OperationResult::NotSure(status, code);
    }
    OperationResult::Final(reported(&body))
}

/// Reads an outcome as it is answered and stored.
#[must_use]
pub fn reported(outcome: &Value) -> ReportedOutcome {
    let effects = outcome["effects"].as_array().into_iter().flatten();
    let etag = outcome["etag"].as_str().and_then(EraVersion::of_etag);
    ReportedOutcome {
        status: outcome["status"].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or_default(),
        code: outcome["code"].as_str().unwrap_or_default().to_owned(),
        era: etag.map(|etag| etag.era),
        version: outcome["version"].as_u64(),
        effects: effects.filter_map(|effect| Some(effect.as_str()?.to_owned())).collect(),
        token: outcome["data"]["token"].as_i64(),
        amount: outcome["data"]["amount"].as_i64(),
        core: outcome["data"]["core"]["version"].as_u64(),
        waits: outcome["retry_after_ms"].is_u64(),
    }
}

/// Reads the reply to the query of a view, which was sent with this version as its ETag.
#[must_use]
pub fn of_view(reply: Option<Reply>, key: &str, known: Option<EraVersion>) -> OperationResult {
    let Some(reply) = reply else { return OperationResult::Nothing };
    let body = reply.json();
    let code = body["code"].as_str().unwrap_or_default();
    let told = |version: EraVersion| KeyVersion::new(key, version);
    let found = match (reply.status, known) {
        // A number alone is of the first era.
        (200, _) => reply.etag.as_deref().and_then(EraVersion::of_etag).map(told),
        (304, known) => known.map(told),
        (404, _) if code == "not_found" => {
            Some(KeyVersion { key: key.to_owned(), era: None, version: 0 })
        }
        _ => None,
    };
    match found {
        Some(found) => OperationResult::Versions { status: reply.status, of: vec![found] },
        None => OperationResult::NotSure(reply.status, code.to_owned()),
    }
}

/// Reads the list of active orders: the versions of the rows' part `core`. A list that was cut
/// says nothing about what is not in it.
#[must_use]
pub fn of_list(reply: Option<Reply>) -> OperationResult {
    let Some(reply) = reply else { return OperationResult::Nothing };
    let body = reply.json();
    let Some(rows) = body["rows"].as_array().filter(|_| reply.status == 200) else {
        return OperationResult::NotSure(
            reply.status,
            body["code"].as_str().unwrap_or_default().to_owned(),
        );
    };
    let row = |row: &Value| {
        let key = format!("order.{}#core", row["order"].as_str()?);
        Some(KeyVersion { key, era: None, version: row["version"].as_u64()? })
    };
    let status = if body["more"] == true { 206 } else { 200 };
    OperationResult::Versions { status, of: rows.iter().filter_map(row).collect() }
}
