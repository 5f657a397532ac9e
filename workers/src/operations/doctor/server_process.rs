//! What nats-server tells of itself on its monitoring port alone: when it syncs, and when its
//! certificate ends.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::timeout;

use super::{Finding, Severity, certificates, fine};
use crate::infra::plain_http;

const NATS: &str = "nats";
const LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn examine(monitoring: Option<&str>) -> Vec<Finding> {
    let Some(url) = monitoring else {
        let what = "whether it syncs what it acknowledges is not known: it tells that on its \
                    monitoring port alone";
        let mend = "`http: \"127.0.0.1:8222\"` in its configuration, and `brigade doctor \
                    --nats-monitoring http://127.0.0.1:8222` on its machine; or see that its \
                    configuration has `sync_interval: always`";
        return vec![Finding::new(Severity::Warning, NATS, what, mend)];
    };
    match timeout(LIMIT, variables(url)).await.context("no answer within 3 s").flatten() {
        Ok(variables) => judge(&variables),
        Err(error) => {
            let what = format!("its monitoring at {url} cannot be read: {error:#}");
            vec![Finding::new(Severity::Unreachable, NATS, what, "see whether the port is right")]
        }
    }
}

fn judge(variables: &Value) -> Vec<Finding> {
    let jetstream = &variables["jetstream"];
    let mut findings = vec![if jetstream["config"]["sync_always"] == true {
        fine(NATS, "it syncs what it acknowledges")
    } else {
        let interval = jetstream["config"]["sync_interval"].as_u64().unwrap_or_default();
        let what = format!(
            "sync_interval is {} s: a power cut takes commands that it has acknowledged",
            interval / 1_000_000_000
        );
        let mend = "`sync_interval: always` in `jetstream` of its configuration, then restart it";
        Finding::new(Severity::Error, NATS, what, mend)
    }];
    let (most, used) = (&jetstream["config"]["max_storage"], &jetstream["stats"]["storage"]);
    let (most, used) = (most.as_u64().unwrap_or_default(), used.as_u64().unwrap_or_default());
    if let Some(percent @ 50..) = (used * 100).checked_div(most) {
        let severity = if percent >= 90 { Severity::Error } else { Severity::Warning };
        let what = format!("JetStream holds {percent} % of its max_file_store");
        findings.push(Finding::new(severity, NATS, what, "a larger disk and `max_file_store`"));
    }
    let ends = variables["tls_cert_not_after"].as_str();
    if let Some(ends) = ends.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
        && ends.year() > 1
    {
        findings.push(certificates::judge("certificate of nats-server", ends));
    }
    findings
}

/// Reads `/varz`. The port speaks plain HTTP to the machine itself.
async fn variables(url: &str) -> Result<Value> {
    let address = url.strip_prefix("http://").context("it begins with http://")?;
    let (status, body) = plain_http::get(address.trim_end_matches('/'), "/varz").await?;
    ensure!(status == 200, "status {status}");
    Ok(serde_json::from_str(&body)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_synced_or_fills_or_ends_is_found() {
        let varz = |config: Value, used: u64, ends: &str| {
            let jetstream = json!({ "config": config, "stats": { "storage": used } });
            judge(&json!({ "jetstream": jetstream, "tls_cert_not_after": ends }))
        };
        let well = json!({ "sync_always": true, "max_storage": 100 });
        let found = varz(well.clone(), 10, "2999-01-01T00:00:00Z");
        assert!(found.iter().all(|finding| finding.severity == Severity::Fine), "{found:?}");
        let late = json!({ "sync_interval": 120_000_000_000_u64, "max_storage": 100 });
        let found = varz(late, 95, "2020-01-01T00:00:00Z");
        assert!(found.iter().all(|finding| finding.severity == Severity::Error), "{found:?}");
        assert!(found[0].what.starts_with("sync_interval is 120 s"), "{found:?}");
        assert_eq!(varz(well, 60, "0001-01-01T00:00:00Z").len(), 2);
    }
}
