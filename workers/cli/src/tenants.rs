mod args;

use std::{path::Path, process::ExitCode};

use anyhow::{Result, ensure};
use brigade::{
    fleet::config::RunConfig,
    operations::tenants::{
        self, Tenant,
        accounts::{AccountsFolder, Credential},
        reload::reload,
    },
};
use brigade_contracts::{Timestamp, Token};
use serde_json::{Value, json};
use sqlx::PgPool;

pub use self::args::TenantsArgs;
use self::args::{Folder, Output, Reload, RequiredFolder, TenantsAction};
use super::output::line;

pub async fn run(args: TenantsArgs) -> Result<ExitCode> {
    match args.action {
        TenantsAction::Sync { folder, output } => {
            let made = AccountsFolder::new(&folder.accounts).sync()?;
            print_credentials(None, &made, &output)?;
            reload_or_say(&folder.reload).await?;
        }
        TenantsAction::Add { tenant, folder, restore, output } => {
            add(&tenants::parse(&tenant)?, &folder, restore, &output).await?;
        }
        TenantsAction::Ls { all, output } => list(all, &output).await?,
        TenantsAction::Show { tenant, accounts, output } => {
            show(&tenants::parse(&tenant)?, accounts.as_deref(), &output).await?;
        }
        TenantsAction::Rotate { tenant, folder, finish, output } => {
            rotate(&tenants::parse(&tenant)?, &folder, finish, &output).await?;
        }
        TenantsAction::Suspend { tenant } => {
            tenants::suspend(&postgres().await?, &tenants::parse(&tenant)?).await?;
            eprintln!("brigade: {tenant} is suspended");
        }
        TenantsAction::Resume { tenant } => {
            tenants::resume(&postgres().await?, &tenants::parse(&tenant)?).await?;
            eprintln!(
                "brigade: {tenant} is active. Durable commands that came meanwhile: \
                 brigade dlq replay --matching --tenant {tenant} --reason tenant_suspended"
            );
        }
        TenantsAction::Rm { tenant, yes, folder } => {
            remove(&tenants::parse(&tenant)?, yes, &folder).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn postgres() -> Result<PgPool> {
    Ok(PgPool::connect(RunConfig::from_env()?.database_url()?).await?)
}

async fn add(tenant: &Token, folder: &Folder, restore: bool, output: &Output) -> Result<()> {
    let is_new = tenants::add(&postgres().await?, tenant, restore).await?;
    let Some(accounts) = &folder.accounts else {
        ensure!(is_new, "{tenant} is registered already; --accounts makes its account");
        eprintln!(
            "brigade: {tenant} is registered, without an account on nats-server (--accounts)"
        );
        return print_credentials(Some(tenant), &[], output);
    };
    let made = AccountsFolder::new(accounts).add(tenant)?;
    print_credentials(Some(tenant), &made, output)?;
    reload_or_say(&folder.reload).await
}

async fn rotate(
    tenant: &Token,
    folder: &RequiredFolder,
    finish: bool,
    output: &Output,
) -> Result<()> {
    let accounts = AccountsFolder::new(&folder.accounts);
    if finish {
        let ended = accounts.finish(tenant)?;
        if output.json {
            line(format_args!("{}", json!({ "tenant": tenant, "ended": ended })))?;
        } else {
            eprintln!("brigade: ended {}", ended.join(", "));
        }
    } else {
        print_credentials(Some(tenant), &accounts.rotate(tenant)?, output)?;
    }
    reload_or_say(&folder.reload).await
}

async fn remove(tenant: &Token, yes: bool, folder: &Folder) -> Result<()> {
    let stays = "its history stays in SQL: orders, payments, users, events";
    ensure!(yes, "this removes {tenant} and its credentials; {stays}. To do it: --yes");
    tenants::remove(&postgres().await?, tenant).await?;
    let removed = match &folder.accounts {
        Some(accounts) => AccountsFolder::new(accounts).remove(tenant)?,
        None => false,
    };
    let account = if removed { "with its account" } else { "no account was removed (--accounts)" };
    eprintln!("brigade: {tenant} is removed, {account}; {stays}");
    if removed { reload_or_say(&folder.reload).await } else { Ok(()) }
}

async fn reload_or_say(args: &Reload) -> Result<()> {
    if let Some(pid_file) = &args.reload_pid {
        return reload(pid_file).await;
    }
    eprintln!(
        "brigade: nats-server does not know of it yet. On each server, twice, a second apart: \
         nats-server --signal reload=<pid>"
    );
    Ok(())
}

/// Prints credentials, which no other command does again.
fn print_credentials(tenant: Option<&Token>, made: &[Credential], output: &Output) -> Result<()> {
    if output.json {
        let users: Vec<_> = made.iter().map(credential_as_json).collect();
        return line(format_args!("{}", json!({ "tenant": tenant, "users": users })));
    }
    if made.is_empty() {
        return Ok(());
    }
    let header = ["user", "password", "inbox prefix"];
    line(format_args!("{:<32}  {:<33}  {}", header[0], header[1], header[2]))?;
    for Credential { user, password, inbox_prefix } in made {
        line(format_args!("{user:<32}  {password:<33}  {inbox_prefix}"))?;
    }
    eprintln!(
        "brigade: the passwords are not printed again; a NATS URL is nats://user:password@host"
    );
    Ok(())
}

fn credential_as_json(credential: &Credential) -> Value {
    let Credential { user, password, inbox_prefix } = credential;
    json!({ "user": user, "password": password, "inbox_prefix": inbox_prefix })
}

async fn list(all: bool, output: &Output) -> Result<()> {
    let tenants = tenants::list(&postgres().await?).await?;
    if !output.json {
        line(format_args!("{:<32}  {:<10}  {:<24}  since", "tenant", "state", "created"))?;
    }
    for tenant in tenants.iter().filter(|tenant| all || tenant.state != "removed") {
        if output.json {
            line(format_args!("{}", as_json(tenant)))?;
            continue;
        }
        let (created, since) = (Timestamp::from(tenant.created_at), since(tenant));
        let since = since.unwrap_or_default();
        line(format_args!("{:<32}  {:<10}  {created:<24}  {since}", tenant.tenant, tenant.state))?;
    }
    Ok(())
}

async fn show(tenant: &Token, accounts: Option<&Path>, output: &Output) -> Result<()> {
    let found = tenants::get(&postgres().await?, tenant).await?;
    let users = accounts.map(|dir| AccountsFolder::new(dir).users(tenant)).transpose()?;
    let mut shown = as_json(&found);
    if let Some(users) = &users {
        shown["users"] = json!(users);
    }
    if output.json {
        return line(format_args!("{shown}"));
    }
    for (name, value) in shown.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::String(text) => line(format_args!("{name:<13}  {text}"))?,
            other => line(format_args!("{name:<13}  {other}"))?,
        }
    }
    Ok(())
}

/// Returns the time since when a tenant is not active.
fn since(tenant: &Tenant) -> Option<String> {
    let since = tenant.removed_at.or(tenant.suspended_at)?;
    Some(Timestamp::from(since).to_string())
}

fn as_json(tenant: &Tenant) -> Value {
    let text = |at: time::OffsetDateTime| Timestamp::from(at).to_string();
    json!({
        "tenant": tenant.tenant,
        "state": tenant.state,
        "created_at": text(tenant.created_at),
        "suspended_at": tenant.suspended_at.map(text),
        "removed_at": tenant.removed_at.map(text),
    })
}
