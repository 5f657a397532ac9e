//! Verbs as they are declared, read and written, with the payloads that several of them share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{MAX_NOTE, Refusal, Text};

/// The payload of a verb that ends something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    pub reason: Text<MAX_NOTE>,
}

/// The payload of a verb that says everything by its name: `{}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// One JSON object of exactly this shape.
pub(crate) fn decode_payload<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    // A struct would also be read from an array; the contract says object.
    if payload.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Refusal::new(400, "malformed", "expected a JSON object"));
    }
    serde_json::from_slice(payload).map_err(|error| Refusal::of_payload::<T>(payload, &error))
}

pub(crate) fn encode_payload<T: Serialize>(payload: &T) -> Vec<u8> {
    // Payloads are plain structs with string keys, for which serde_json has no error.
    serde_json::to_vec(payload).expect("payloads serialise")
}

/// A payload that can be written for sending. One that holds a secret is not `Serialize`, so that
/// nobody writes it by accident, and implements this by itself.
pub(crate) trait Encode {
    fn encode(&self) -> Vec<u8>;
}

impl<T: Serialize> Encode for T {
    fn encode(&self) -> Vec<u8> {
        encode_payload(self)
    }
}

/// A verb as it is declared.
pub struct Declared {
    pub name: &'static str,
    /// The description in one sentence or a few.
    pub about: &'static str,
    /// The schema of its payload.
    pub payload: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

/// Declares the verbs of an aggregate: an enum with one variant a verb, its decoder and
/// its encoder. The payload types refuse unknown fields and hold only valid values.
macro_rules! verbs {
    ($(#[$doc:meta])* $vis:vis enum $name:ident {
        $($(#[doc = $verb_doc:literal])* $verb:literal => $variant:ident($payload:ty),)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        $vis enum $name {
            $($(#[doc = $verb_doc])* $variant($payload),)*
        }

        impl $name {
            pub const NAMES: &[&str] = &[$($verb),*];

            pub const DECLARED: &[$crate::verb::Declared] = &[$($crate::verb::Declared {
                name: $verb,
                about: concat!($($verb_doc),*),
                payload: <$payload as schemars::JsonSchema>::json_schema,
            }),*];

            /// `None` for an unknown verb.
            ///
            /// # Errors
            /// 400 for a malformed payload, 422 for an impossible one.
            pub fn decode(verb: &str, payload: &[u8]) -> Result<Option<Self>, $crate::Refusal> {
                match verb {
                    $($verb => $crate::verb::decode_payload(payload)
                        .map(|payload| Some(Self::$variant(payload))),)*
                    _ => Ok(None),
                }
            }

            /// The verb and the payload, for sending.
            #[must_use]
            pub fn encode(&self) -> (&'static str, Vec<u8>) {
                match self {
                    $(Self::$variant(payload) => ($verb, $crate::verb::Encode::encode(payload)),)*
                }
            }
        }
    };
}
pub(crate) use verbs;
