//! What operators do while all runs, and poison.

use std::time::Duration;

use anyhow::{Context, Result};
use brigade::operations::{migrate, provision, tenants};
use brigade_contracts::{Token, permissions};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::{ChaosFault, Mend, Strike};
use crate::chaos::{
    fleet::{ChaosFleet, TENANTS, connect},
    workload::poison,
};

/// The name under which all of this is done.
pub const NAME: &str = "chaos";

/// Does what an operator does while all runs, or what a program should never send.
///
/// # Errors
/// If a server refuses it.
pub async fn strike(fault: ChaosFault, fleet: &ChaosFleet, random: &mut StdRng) -> Result<Strike> {
    match fault {
        ChaosFault::Suspend => {
            // Not the one that is probed.
            let tenant = Token::new(TENANTS[1..].choose(random).context("a tenant")?)?;
            let lasts = Duration::from_millis(random.random_range(1000..3000));
            tenants::suspend(&fleet.sql, &tenant, NAME).await?;
            let detail = format!("{tenant} for {:.1} s", lasts.as_secs_f64());
            Ok(Strike::lasting(detail, Mend::Resume(tenant), lasts))
        }
        ChaosFault::Provision => {
            let url = fleet.stack.nats_url(&permissions::operator().name);
            let report = provision::run(&url, fleet.stack.replicas()).await?;
            let (created, drift) = (report.created.len(), report.drift.len());
            Ok(Strike::over(format!("{created} created, {drift} drifted")))
        }
        ChaosFault::Migrate => {
            migrate::run(&fleet.stack.superuser_url(), "", |_| None).await?;
            Ok(Strike::over(""))
        }
        _ => {
            let tenant = TENANTS.choose(random).copied().unwrap_or(TENANTS[0]);
            let user = permissions::producer(&Token::new(tenant)?).name;
            let client = connect(&fleet.stack, &user).await?;
            let sent = poison(&client, tenant, random.random()).await?;
            Ok(Strike::over(format!("{sent} messages of {tenant}")))
        }
    }
}
