//! `brigade products`: the price list of a restaurant, and its import from a file.

mod file;
mod remote;

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use brigade::{
    fleet::config::{self, RunConfig},
    infra::{nats::OperatorConnection, postgres::operator_pool},
    operations::tenants,
};
use brigade_contracts::{
    Outcome, Token,
    product::{ListedProduct, SetProduct},
};
use futures::{StreamExt, stream};

use self::{
    file::{FileProduct, read},
    remote::PriceList,
};
use super::{
    causes::causes,
    output::{line, progress},
    printable::printable,
};

/// Products that are set at once.
const AT_ONCE: usize = 16;

/// Asks edge and command-handler by BRIGADE_NATS_URL, the operator's.
#[derive(clap::Args)]
pub struct ProductsArgs {
    #[command(subcommand)]
    action: ProductsAction,
}

#[derive(clap::Subcommand)]
enum ProductsAction {
    /// List what the restaurant sells
    Ls {
        #[command(flatten)]
        tenant: TenantArg,
        /// One JSON object a line, for programs
        #[arg(long)]
        json: bool,
    },
    /// Set the products of a CSV file
    ///
    /// The first line names the columns: sku, name, unit_price (in the smallest unit of its currency:
    /// 450 for 4.50), currency, and if you like category and available (true or false). Of a file
    /// with a bad line nothing is imported. What is the same already is left alone, and so are
    /// products that are not in the file. May be repeated at any time.
    Import {
        file: PathBuf,
        #[command(flatten)]
        tenant: TenantArg,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(clap::Args)]
struct TenantArg {
    /// The restaurant; may be left out where there is but one (read by BRIGADE_DATABASE_URL)
    #[arg(long)]
    tenant: Option<String>,
}

pub async fn run(args: ProductsArgs) -> Result<ExitCode> {
    match args.action {
        ProductsAction::Ls { tenant, json } => {
            let products = open(tenant).await?.products().await?;
            list(products.into_values(), json)?;
            Ok(ExitCode::SUCCESS)
        }
        ProductsAction::Import { file, tenant, dry_run } => {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let products = match read(&text) {
                Ok(products) => products,
                Err(errors) => {
                    for error in &errors {
                        eprintln!("{}", printable(error));
                    }
                    bail!("{} bad lines, nothing was imported", errors.len());
                }
            };
            import(&open(tenant).await?, &products, dry_run).await
        }
    }
}

async fn open(tenant: TenantArg) -> Result<PriceList> {
    let config = RunConfig::from_env()?;
    let tenant = match tenant.tenant {
        Some(tenant) => tenants::parse(&tenant)?,
        None => only_tenant(&config).await?,
    };
    let options = config.nats_options();
    let operator = OperatorConnection::open(config.nats_url()?, &options, "products").await?;
    Ok(PriceList::new(operator, tenant))
}

async fn only_tenant(config: &RunConfig) -> Result<Token> {
    let postgres = operator_pool(config.database_url()?).await?;
    let tenants = tenants::list(&postgres).await?;
    let mut served = tenants.iter().filter(|tenant| tenant.state != "removed");
    match (served.next(), served.next()) {
        (Some(tenant), None) => tenants::parse(&tenant.tenant),
        (None, _) => bail!("there is no restaurant yet: brigade tenants add"),
        (Some(_), Some(_)) => bail!("there are several restaurants: name one by --tenant"),
    }
}

fn list(products: impl Iterator<Item = ListedProduct>, json: bool) -> Result<()> {
    if !json {
        line(format_args!(
            "{:<24}  {:>12}  {:<8}  {:<16}  name",
            "sku", "unit price", "", "category"
        ))?;
    }
    for product in products {
        if json {
            line(format_args!("{}", serde_json::to_string(&product)?))?;
            continue;
        }
        let ListedProduct { sku, name, unit_price, currency, category, available, .. } = product;
        let price = format!("{} {}", unit_price.minor_units(), currency.as_str());
        let category = category.map(|text| printable(text.as_str())).unwrap_or_default();
        let sold_out = if available { "" } else { "sold out" };
        let (sku, name) = (sku.as_str(), printable(name.as_str()));
        line(format_args!("{sku:<24}  {price:>12}  {sold_out:<8}  {category:<16}  {name}"))?;
    }
    Ok(())
}

/// Sets what differs from the list, and says what it does. Whatever fails is told, and the rest is
/// done all the same.
async fn import(list: &PriceList, products: &[FileProduct], dry_run: bool) -> Result<ExitCode> {
    let present = list.products().await?;
    let others = present.keys().filter(|sku| products.iter().all(|p| p.sku != **sku)).count();
    let changes: Vec<_> = products.iter().filter(|p| is_change(&present, p)).collect();
    let same = products.len() - changes.len();
    let actor = config::user().and_then(|user| Token::new(&user).ok());
    let actor = actor.map_or_else(|| Token::new("operator"), Ok)?;
    let (mut done, mut failed) = (0_usize, 0_usize);
    if dry_run {
        for product in &changes {
            progress(format_args!("would be set: {}", told(&present, product)))?;
        }
    } else {
        let actor = &actor;
        let sent = changes.iter().copied().map(|product| async move {
            (product, list.set(&product.sku, &product.set, actor).await)
        });
        let mut results = stream::iter(sent).buffered(AT_ONCE);
        while let Some((product, result)) = results.next().await {
            match why_not(result) {
                None => {
                    done += 1;
                    progress(format_args!(
                        "[{}/{}] set {}",
                        done + failed,
                        changes.len(),
                        told(&present, product)
                    ))?;
                }
                Some(why) => {
                    failed += 1;
                    eprintln!(
                        "line {}: {} is not set: {}",
                        product.line,
                        product.sku,
                        printable(&why)
                    );
                }
            }
        }
    }
    let changed =
        if dry_run { format!("{} would be set", changes.len()) } else { format!("{done} set") };
    eprintln!(
        "brigade: {changed}, {failed} failed, {same} the same already, {others} of the list are not in \
         the file and stay"
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn why_not(result: Result<Outcome>) -> Option<String> {
    match result {
        Ok(outcome) if outcome.status < 300 => None,
        Ok(outcome) => Some(format!("{} {}: {}", outcome.status, outcome.code, outcome.message)),
        Err(error) => Some(causes(&error)),
    }
}

fn is_change(present: &BTreeMap<Token, ListedProduct>, product: &FileProduct) -> bool {
    present.get(&product.sku).is_none_or(|listed| as_set(listed) != product.set)
}

fn as_set(listed: &ListedProduct) -> SetProduct {
    SetProduct {
        name: listed.name.clone(),
        unit_price: listed.unit_price,
        currency: listed.currency,
        category: listed.category.clone(),
        available: Some(listed.available),
    }
}

/// Returns what becomes of a product, in a line.
fn told(present: &BTreeMap<Token, ListedProduct>, product: &FileProduct) -> String {
    let after = describe(&product.set);
    match present.get(&product.sku) {
        None => format!("{}: {after} (new)", product.sku),
        Some(listed) => format!("{}: {after} (was {})", product.sku, describe(&as_set(listed))),
    }
}

fn describe(set: &SetProduct) -> String {
    let SetProduct { name, unit_price, currency, category, available } = set;
    let category = category.as_ref().map(|text| format!(" in {}", text.as_str()));
    let sold_out = if *available == Some(false) { ", sold out" } else { "" };
    let (price, currency) = (unit_price.minor_units(), currency.as_str());
    let text =
        format!("{} {price} {currency}{}{sold_out}", name.as_str(), category.unwrap_or_default());
    printable(&text)
}
