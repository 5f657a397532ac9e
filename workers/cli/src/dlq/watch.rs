//! Prints dead letters as they are stored: what nats-server republishes of their stream.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use brigade::infra::nats::OperatorConnection;
use brigade_contracts::Token;
use futures::StreamExt as _;
use serde_json::json;

use crate::{
    output::line,
    printable::{printable, printable_json},
};

pub(super) async fn run(
    operator: &OperatorConnection,
    worker: Option<&Token>,
    json: bool,
) -> Result<ExitCode> {
    let worker = worker.map_or("*", Token::as_str);
    let subject = format!("ops.dead_letters.{worker}.>");
    let mut stored = operator.client.subscribe(subject).await?;
    // What the server refuses is known when it has answered.
    operator.explain(operator.client.flush().await.context("NATS does not answer"))?;
    while let Some(message) = stored.next().await {
        let headers = message.headers.unwrap_or_default();
        let header = |name: &str| headers.get(name).map_or("", |value| value.as_str());
        let worker = message.subject.split('.').nth(2).unwrap_or_default();
        let (number, at) = (header("Nats-Sequence"), header("Dead-At"));
        let (subject, reason) = (header("Origin-Subject"), header("Dead-Reason"));
        if json {
            let letter = json!({
                "number": number, "at": at, "worker": worker, "subject": subject, "reason": reason,
            });
            line(format_args!("{}", printable_json(&letter)))?;
            continue;
        }
        let [number, at, worker, subject, reason] =
            [number, at, worker, subject, reason].map(printable);
        line(format_args!("{number:>8}  {at:<24}  {worker:<22}  {subject:<40}  {reason}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
