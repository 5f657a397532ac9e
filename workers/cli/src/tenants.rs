mod args;

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use brigade::{
    fleet::config::{self, RunConfig},
    infra::postgres::operator_pool,
    operations::tenants::{
        self, Tenant,
        accounts::{AccountsFolder, Credential},
        reload::{self, Reached, reload, reload_until_known},
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
            check_reload(&folder.reload)?;
            let made = AccountsFolder::new(&folder.accounts).sync()?;
            print_credentials(None, &made, &output)?;
            reload_or_say(&folder.accounts, &folder.reload, None).await?;
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
            tenants::suspend(&postgres().await?, &tenants::parse(&tenant)?, &actor()).await?;
            eprintln!("brigade: {tenant} is suspended");
        }
        TenantsAction::Resume { tenant } => {
            tenants::resume(&postgres().await?, &tenants::parse(&tenant)?, &actor()).await?;
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
    operator_pool(RunConfig::from_env()?.database_url()?).await
}

/// Returns the operator's name, for the security log.
fn actor() -> String {
    config::user().unwrap_or_else(|| "operator".to_owned())
}

async fn add(tenant: &Token, folder: &Folder, restore: bool, output: &Output) -> Result<()> {
    let (postgres, actor) = (postgres().await?, actor());
    let Some(dir) = &folder.accounts else {
        let is_new = tenants::add(&postgres, tenant, restore, &actor).await?;
        ensure!(is_new, "{tenant} is registered already; --accounts makes its account");
        eprintln!(
            "brigade: {tenant} is registered, without an account on nats-server (--accounts)"
        );
        return print_credentials(Some(tenant), &[], output);
    };
    let accounts = AccountsFolder::new(dir);
    accounts.check()?;
    accounts.check_new(tenant)?;
    check_reload(&folder.reload)?;
    let is_new = tenants::add(&postgres, tenant, restore, &actor).await?;
    let made = if is_new {
        accounts.add(tenant)?
    } else {
        let change = tenants::begin_credentials(&postgres, tenant, &actor, "account_added").await?;
        let made = accounts.add(tenant)?;
        change.commit().await?;
        made
    };
    print_credentials(Some(tenant), &made, output)?;
    reload_or_say(dir, &folder.reload, probe(tenant, &made)).await
}

async fn rotate(
    tenant: &Token,
    folder: &RequiredFolder,
    finish: bool,
    output: &Output,
) -> Result<()> {
    check_reload(&folder.reload)?;
    let accounts = AccountsFolder::new(&folder.accounts);
    let action = if finish { "rotation_finished" } else { "rotated" };
    let change = tenants::begin_credentials(&postgres().await?, tenant, &actor(), action).await?;
    let mut made = Vec::new();
    if finish {
        let ended = accounts.finish(tenant)?;
        change.commit().await?;
        if output.json {
            line(format_args!("{}", json!({ "tenant": tenant, "ended": ended })))?;
        } else {
            eprintln!("brigade: ended {}", ended.join(", "));
        }
    } else {
        made = accounts.rotate(tenant)?;
        change.commit().await?;
        print_credentials(Some(tenant), &made, output)?;
    }
    reload_or_say(&folder.accounts, &folder.reload, probe(tenant, &made)).await
}

async fn remove(tenant: &Token, yes: bool, folder: &Folder) -> Result<()> {
    let stays = "its history stays in SQL: orders, payments, users, events";
    ensure!(yes, "this removes {tenant} and its credentials; {stays}. To do it: --yes");
    let accounts = folder.accounts.as_deref().map(|dir| (dir, AccountsFolder::new(dir)));
    if let Some((_, accounts)) = &accounts {
        accounts.check()?;
        check_reload(&folder.reload)?;
    }
    tenants::remove(&postgres().await?, tenant, &actor()).await?;
    if let Some((dir, accounts)) = &accounts
        && accounts.remove(tenant)?
    {
        eprintln!("brigade: {tenant} is removed, with its account; {stays}");
        return reload_or_say(dir, &folder.reload, None).await;
    }
    eprintln!("brigade: {tenant} is removed, no account was removed (--accounts); {stays}");
    Ok(())
}

/// Checks before anything is changed that the server can be told of it.
fn check_reload(args: &Reload) -> Result<()> {
    let Some(pid_file) = &args.reload_pid else { return Ok(()) };
    reload::check(pid_file).context("--reload-pid, nothing was changed")
}

/// A new credential, of which is seen whether it works.
type NewCredential<'a> = Option<(&'a Token, &'a Credential)>;

fn probe<'a>(tenant: &'a Token, made: &'a [Credential]) -> NewCredential<'a> {
    made.first().map(|credential| (tenant, credential))
}

async fn reload_or_say(dir: &Path, args: &Reload, probe: NewCredential<'_>) -> Result<()> {
    let Some(pid_file) = &args.reload_pid else {
        eprintln!(
            "brigade: nats-server does not know of it yet. On each server, twice, a second apart: \
             nats-server --signal reload=<pid>"
        );
        return Ok(());
    };
    reload_and_look(pid_file, probe).await.with_context(|| {
        format!(
            "the files are written, but nats-server has not read them. To finish it: `brigade \
             tenants sync --accounts {} --reload-pid {}`",
            dir.display(),
            pid_file.display()
        )
    })
}

/// Has nats-server read its configuration, and says how far a new credential works where the
/// operator's NATS URL is set.
async fn reload_and_look(pid_file: &Path, probe: NewCredential<'_>) -> Result<()> {
    let config = RunConfig::from_env()?;
    let (Some((tenant, credential)), Ok(url)) = (probe, config.nats_url()) else {
        return reload(pid_file).await;
    };
    let options = config.nats_options();
    let user = &credential.user;
    match reload_until_known(pid_file, url, &options, tenant, credential).await? {
        Reached::Edge => eprintln!("brigade: {user} is connected and answered"),
        Reached::Server => eprintln!(
            "brigade: nats-server takes {user}, but no edge has answered a query of it: does one run?"
        ),
        Reached::Nothing => bail!("no server of BRIGADE_NATS_URL takes {user} yet"),
    }
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
        "brigade: the passwords are not printed again, they stand in the folder of the accounts; \
         a NATS URL is nats://user:password@host"
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
