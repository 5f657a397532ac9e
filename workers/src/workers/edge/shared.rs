//! The parts of edge that both transports share.

use std::sync::Arc;

use super::{
    admission::RequestAdmission,
    metrics::EdgeMetrics,
    query::{Queries, QueryOptions},
    response_budget::ResponseBudget,
};
use crate::infra::Context;

/// The most lists and histories of the largest size that edge has in memory, on their way to
/// clients: 230 MB of them, a quarter of one tenant.
const MAX_LARGE_RESPONSES: usize = 256;

/// The queries, and the bounds on what is in flight.
#[derive(Clone)]
pub struct Edge {
    pub queries: Arc<Queries>,
    pub admission: RequestAdmission,
    pub budget: ResponseBudget,
}

impl Edge {
    /// Opens the queries.
    ///
    /// # Errors
    /// The errors of [`Queries::open`].
    pub async fn open(
        cx: &Context,
        options: &QueryOptions,
        metrics: &Arc<EdgeMetrics>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            queries: Arc::new(Queries::open(cx, options, metrics).await?),
            admission: RequestAdmission::default(),
            budget: ResponseBudget::new(MAX_LARGE_RESPONSES),
        })
    }
}
