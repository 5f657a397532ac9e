//! What a reply says for certain.

use bytes::Bytes;
use serde_json::Value;

use super::history::{OperationResult, ReportedOutcome};

/// A reply over NATS or HTTP.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
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
    let effects = body["effects"].as_array().into_iter().flatten();
    OperationResult::Final(ReportedOutcome {
        status,
        code,
        version: body["version"].as_u64(),
        effects: effects.filter_map(|effect| Some(effect.as_str()?.to_owned())).collect(),
        token: body["data"]["token"].as_i64(),
        amount: body["data"]["amount"].as_i64(),
        core: body["data"]["core"]["version"].as_u64(),
    })
}

/// Reads the reply to the query of a view, which was sent with this version as its ETag.
#[must_use]
pub fn of_view(reply: Option<Reply>, key: &str, known: Option<u64>) -> OperationResult {
    let Some(reply) = reply else { return OperationResult::Nothing };
    let body = reply.json();
    let code = body["code"].as_str().unwrap_or_default();
    let version = match (reply.status, known) {
        (200, _) => body["version"].as_u64(),
        (304, known) => known,
        (404, _) if code == "not_found" => Some(0),
        _ => None,
    };
    match version {
        Some(version) => {
            OperationResult::Versions { status: reply.status, of: vec![(key.to_owned(), version)] }
        }
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
        Some((format!("order.{}#core", row["order"].as_str()?), row["version"].as_u64()?))
    };
    let status = if body["more"] == true { 206 } else { 200 };
    OperationResult::Versions { status, of: rows.iter().filter_map(row).collect() }
}
