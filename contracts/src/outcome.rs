use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use crate::{Command, Era, EraVersion, Refusal, subject};

/// The one final answer to a command.
///
/// `data` stays as it was written, so that a repeated command gets the same bytes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// Null only where the message had none that could be used.
    pub command_id: Option<String>,
    pub status: u16,
    pub code: Cow<'static, str>,
    pub message: Cow<'static, str>,
    pub aggregate: String,
    pub id: String,
    /// After the change; of a refusal the present one, or null where there is none.
    pub version: Option<u64>,
    /// `"11"` with its quotation marks, in a later era `"11-<era>"`; null of a refusal.
    pub etag: Option<String>,
    /// Every aggregate that the transaction changed, as `cart.c1@11`.
    pub effects: Vec<String>,
    /// The parts of the subject's aggregate after the change, and what the verb adds.
    #[schemars(with = "Map<String, Value>")]
    pub data: Box<RawValue>,
    pub retry_after_ms: Option<u64>,
    /// The field of the payload or the header that is wrong, in a refusal; absent where it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<Cow<'static, str>>,
}

impl Outcome {
    /// The outcome of a command that changes nothing. `version` is the present one.
    #[must_use]
    pub fn refused(command: &Command, refusal: Refusal, version: Option<u64>) -> Self {
        Self {
            command_id: Some(command.command_id.to_string()),
            aggregate: command.aggregate().to_owned(),
            id: command.id().to_owned(),
            version,
            ..Self::unaddressed("", refusal)
        }
    }

    /// The answer to a message that cannot carry an outcome: it has no usable Command-Id, or no
    /// tenant in its subject.
    #[must_use]
    pub fn unaddressed(subject: &str, refusal: Refusal) -> Self {
        let raw = subject::parse_command(subject);
        Self {
            command_id: None,
            status: refusal.status,
            code: refusal.code,
            message: refusal.message,
            aggregate: raw.map(|raw| raw.aggregate.to_owned()).unwrap_or_default(),
            id: raw.map(|raw| raw.id.to_owned()).unwrap_or_default(),
            version: None,
            etag: None,
            effects: Vec::new(),
            data: empty_object(),
            retry_after_ms: refusal.retry_after_ms,
            param: refusal.param,
        }
    }

    /// Returns the answer to the sender: the outcome, which itself holds no secret and may be
    /// stored, with `told` in its data. It is to be sent, and never to be kept or printed.
    ///
    /// # Panics
    /// Never: an outcome and its data are JSON objects.
    #[must_use]
    pub fn telling(&self, told: impl IntoIterator<Item = (&'static str, Value)>) -> String {
        let data: Map<String, Value> =
            serde_json::from_str(self.data.get()).expect("the data is an object");
        let told = told.into_iter().map(|(name, value)| (name.to_owned(), value));
        let data: Map<_, _> = data.into_iter().chain(told).collect();
        let data = to_raw_value(&data).expect("a map serialises");
        let answer = Self { data, ..self.clone() };
        serde_json::to_string(&answer).expect("an outcome serialises")
    }

    /// Returns the version with its era. Of a refusal only that of the first era is known.
    #[must_use]
    pub fn era_version(&self) -> Option<EraVersion> {
        let of_etag = self.etag.as_deref().map(EraVersion::of_etag);
        of_etag.unwrap_or_else(|| self.version.map(|version| Era::FIRST.at(version)))
    }
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}
