//! `brigade gateways`: the gateways that may tell of payments over HTTP.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use brigade::{
    fleet::config::{self, RunConfig},
    infra::{postgres::operator_pool, secret},
    operations::{
        gateways::{self, Ended},
        tenants,
    },
    store::gateway_secrets::{GatewayFormat, ListedSecret},
};
use brigade_contracts::Timestamp;
use serde_json::json;

use super::output::line;

/// A payment gateway tells of a restaurant's payments by `POST /v1/<tenant>/gateways/<name>`. Each
/// message is signed with a secret, which is given here from a file and never shown again.
///
/// A secret is replaced without a gap: `add` the next one beside it (two are good at once), let the
/// gateway sign with it, and end the older one by `rm --secret`.
///
/// Reads SQL by BRIGADE_DATABASE_URL, the database owner's.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct GatewaysArgs {
    #[command(subcommand)]
    action: GatewaysAction,
}

#[derive(clap::Subcommand)]
enum GatewaysAction {
    /// Add a gateway, or a second secret of one
    Add {
        /// The restaurant
        tenant: String,
        /// The last piece of the path: 1 to 32 of A-Z a-z 0-9 _ -
        name: String,
        /// The format of its messages
        #[arg(long, default_value = "stripe", value_parser = format)]
        format: GatewayFormat,
        /// The file that holds the secret; space around it is no part of it
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
    },
    /// List the secrets of gateways, by their fingerprints
    Ls {
        /// Only those of this restaurant
        #[arg(long)]
        tenant: Option<String>,
        /// One JSON object a line, for programs
        #[arg(long)]
        json: bool,
    },
    /// End a secret of a gateway, or the gateway
    Rm {
        tenant: String,
        name: String,
        /// The fingerprint of the secret, as `ls` shows it
        #[arg(long, value_name = "FINGERPRINT")]
        secret: Option<String>,
        /// Really the gateway: all its secrets, or the last one
        #[arg(long)]
        yes: bool,
    },
}

fn format(text: &str) -> Result<GatewayFormat, String> {
    GatewayFormat::parse(text).ok_or_else(|| {
        let known = GatewayFormat::ALL.map(GatewayFormat::as_str).join(", ");
        format!("there are: {known}")
    })
}

pub async fn run(args: GatewaysArgs) -> Result<ExitCode> {
    let postgres = operator_pool(RunConfig::from_env()?.database_url()?).await?;
    let actor = config::user().unwrap_or_else(|| "operator".to_owned());
    match args.action {
        GatewaysAction::Add { tenant, name, format, secret_file } => {
            let (tenant, gateway) = (tenants::parse(&tenant)?, gateways::parse(&name)?);
            let secret = secret::read(&secret_file)?;
            let added = gateways::add(&postgres, &tenant, &gateway, format, &secret, &actor);
            let fingerprint = added.await?;
            eprintln!("brigade: POST /v1/{tenant}/gateways/{gateway} takes what is signed with it");
            line(format_args!("{fingerprint}"))?;
        }
        GatewaysAction::Ls { tenant, json } => {
            let all = gateways::list(&postgres).await?;
            let of = |secret: &&ListedSecret| tenant.as_ref().is_none_or(|t| secret.tenant == *t);
            list(all.iter().filter(of), json)?;
        }
        GatewaysAction::Rm { tenant, name, secret, yes } => {
            let (tenant, gateway) = (tenants::parse(&tenant)?, gateways::parse(&name)?);
            let ended = match secret.as_deref() {
                Some(secret) if yes => Ended::AnySecret(secret),
                Some(secret) => Ended::Secret(secret),
                None if yes => Ended::Gateway,
                None => bail!(
                    "this ends {gateway} of {tenant}: nothing that it tells is taken any more. To \
                     do it: --yes; to end one secret alone: --secret"
                ),
            };
            let ended = gateways::remove(&postgres, &tenant, &gateway, ended, &actor).await?;
            eprintln!("brigade: {ended} of {gateway} ended");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list<'a>(secrets: impl Iterator<Item = &'a ListedSecret>, json: bool) -> Result<()> {
    if !json {
        line(format_args!(
            "{:<32}  {:<32}  {:<8}  {:<16}  since",
            "tenant", "gateway", "format", "secret"
        ))?;
    }
    for ListedSecret { tenant, gateway, fingerprint, format, created_at } in secrets {
        let since = Timestamp::from(*created_at);
        if json {
            let shown = json!({
                "tenant": tenant, "gateway": gateway, "format": format, "secret": fingerprint,
                "created_at": since,
            });
            line(format_args!("{shown}"))?;
            continue;
        }
        line(format_args!("{tenant:<32}  {gateway:<32}  {format:<8}  {fingerprint:<16}  {since}"))?;
    }
    Ok(())
}
