//! `rebuild_cache`: what can be asked of an aggregate of any kind.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{MAX_NOTE, Part, Text};

pub const VERB: &str = "rebuild_cache";

/// Shows the aggregate's parts again; changes no version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rebuild {
    /// Only this part; without one, all of them.
    pub part: Option<Part>,
    /// The fault that was found.
    pub finding: Option<Text<MAX_NOTE>>,
}
