//! Queries with and without a matching ETag, beside a bare `SELECT` by key.

use anyhow::{Result, ensure};
use async_nats::{HeaderMap, Request};
use brigade_contracts::header;

use super::{Plan, load::closed, report::Report, stage::Stage};

pub async fn measure(stage: &mut Stage, plan: &Plan, report: &mut Report) -> Result<()> {
    if !plan.includes("query") {
        return Ok(());
    }
    let open = serde_json::json!({ "kind": "menu", "owner": "ada", "currency": "EUR" }).to_string();
    let mut headers = HeaderMap::new();
    headers.insert(header::COMMAND_ID, "query-cart");
    let request = Request::new().headers(headers).payload(open.into());
    stage.producer.send_request("req.bench.cart.query.open", request).await?;
    for lanes in [1, 64] {
        let sql = stage.sql.clone();
        let select = closed(lanes.min(8), plan.length / 4, move |_| {
            let sql = sql.clone();
            async move {
                sqlx::query(
                    "select version from brigade.carts where tenant = 'bench' and id = 'query'",
                )
                .fetch_one(&sql)
                .await?;
                Ok(())
            }
        });
        let select = select.await?;
        for (name, etag, status) in [("304", "\"1\"", "304"), ("200", "\"0\"", "200")] {
            let client = stage.producer.clone();
            let rate = closed(lanes, plan.length / 4, move |_| {
                let client = client.clone();
                async move {
                    let mut headers = HeaderMap::new();
                    headers.insert(header::IF_NONE_MATCH, etag);
                    let request = Request::new().headers(headers);
                    let reply = client.send_request("q.bench.view.cart.query", request).await?;
                    let found = reply.headers.as_ref().and_then(|h| h.get(header::STATUS));
                    ensure!(found.is_some_and(|found| found.as_str() == status), "{reply:?}");
                    Ok(())
                }
            });
            report.row(&format!("query {name}, {lanes} at once"), rate.await?, "queries/s", select);
        }
    }
    Ok(())
}
