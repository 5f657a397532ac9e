use tokio::sync::mpsc;

use crate::{
    infra::{Context, Intake, intake::IntakeSubscription},
    runtime::Delivery,
};

/// The way of messages from a source to the loop, in groups of messages that came together.
pub(super) type Sender = mpsc::Sender<Vec<Delivery>>;

/// Subscribes; `None` if the drain comes first.
pub(super) async fn subscribe(
    cx: &Context,
    intake: &Intake,
    subject: &str,
    group: Option<&str>,
) -> anyhow::Result<Option<IntakeSubscription>> {
    tokio::select! {
        subscribed = intake.subscribe(subject, group) => subscribed.map(Some),
        () = cx.drain.cancelled() => Ok(None),
    }
}
