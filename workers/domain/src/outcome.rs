//! The results of a decision.

use brigade_contracts::Refusal;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{json::raw, loaded::Missing};

pub(crate) type Result<T> = std::result::Result<T, NotDone>;

/// A field that an outcome's data has in addition to the parts.
pub(crate) type Extra = (&'static str, Box<RawValue>);

/// A command that is done.
#[derive(Debug)]
pub(crate) struct Done {
    pub status: u16,
    pub code: &'static str,
    pub extras: Vec<Extra>,
}

impl Done {
    pub fn ok() -> Self {
        Self::code("ok")
    }

    pub fn created() -> Self {
        Self { status: 201, ..Self::code("created") }
    }

    /// Returns a 200 with a code that says more than `ok`.
    pub fn code(code: &'static str) -> Self {
        Self { status: 200, code, extras: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Self {
        self.extras.push((name, raw(value)));
        self
    }
}

/// The reason why a command is not done.
#[derive(Debug)]
pub(crate) enum NotDone {
    /// With a field for the data of its outcome.
    Refused(Box<(Refusal, Option<Extra>)>),
    /// It has to be decided again in the next batch, which loads what is missing; `None`: it only
    /// waits for a command before it.
    Deferred(Option<Missing>),
}

impl From<Refusal> for NotDone {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new((refusal, None)))
    }
}

impl From<Missing> for NotDone {
    fn from(missing: Missing) -> Self {
        Self::Deferred(Some(missing))
    }
}
