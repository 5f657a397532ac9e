use std::sync::Arc;

use super::lane::Lane;
use crate::infra::intake::IntakeKind;

/// A source of messages.
#[derive(Clone, Debug)]
pub enum Source {
    /// The worker's durable consumer of this stream.
    Stream(&'static str),
    /// The consumer of this lane.
    Lane(Arc<Lane>),
    /// Core requests, shared by all instances of the worker.
    Requests(&'static str),
}

impl Source {
    /// Returns the kind of intake that its messages come through.
    pub(super) fn intake_kind(&self) -> IntakeKind {
        match self {
            Self::Requests(_) => IntakeKind::Requests,
            Self::Stream(_) | Self::Lane(_) => IntakeKind::Stored,
        }
    }
}
