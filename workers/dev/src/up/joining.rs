//! What programs and people need to join the stack: a line of JSON, a file of it in the stack's
//! folder, contexts of the `nats` CLI, and a few lines for people.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use brigade::{fleet::process::Process, runtime::http::HttpServer};
use brigade_contracts::{
    Token, WorkerName,
    permissions::{self, NatsUser},
};
use brigade_servers::secret_file::{private_folder, write_secret};
use serde_json::{Map, Value, json};

use crate::{LocalStack, simulated_gateway::SimulatedGateway};

/// The file of the ready line, in the folder of the stack.
const FILE: &str = "up.json";
/// The folder of the contexts, in the folder of the stack.
const CONTEXTS: &str = "contexts";
/// The name of a role and the variable that `brigade env` gives the role's context.
const VARIABLES: [(&str, &str); 3] =
    [("backend", "BACKEND"), ("till", "TILL"), ("screen", "SCREEN")];

/// Returns what a program needs to join the stack, as one line of JSON.
pub(super) fn ready_line(
    stack: &LocalStack,
    process: &Process,
    gateway: Option<&SimulatedGateway>,
) -> Value {
    let url = |server: &HttpServer| format!("http://{}", server.address);
    let tenants: Map<String, Value> =
        stack.tenants.iter().map(|t| (t.to_string(), credentials_of(stack, t).into())).collect();
    let first = &stack.tenants[0];
    let operator = stack.nats_url(&permissions::operator().name);
    let mut nats = credentials_of(stack, first);
    nats.insert("operator".to_owned(), operator.as_str().into());
    let mut env = json!({
        "BRIGADE_NATS_URL": operator,
        "BRIGADE_DATABASE_URL": stack.superuser_url(),
        "BRIGADE_NATS_MONITORING": stack.monitoring_url(),
    });
    for worker in WorkerName::ALL {
        let servers = stack.servers(worker);
        env[format!("BRIGADE_NATS_URL_{}", worker.env_suffix())] = servers.nats_url.into();
        env[format!("BRIGADE_DATABASE_URL_{}", worker.env_suffix())] = servers.postgres_url.into();
    }
    json!({
        "ready": true,
        "tenant": first,
        "dir": stack.dir,
        "http_url": process.api.as_ref().map(url),
        "admin_url": url(&process.admin),
        "gateway_url": gateway.map(SimulatedGateway::url),
        "postgres_url": stack.superuser_url(),
        "nats": nats,
        "nats_accounts": stack.accounts_dir(),
        "nats_pid_file": stack.dir.join("nats/nats-server.pid"),
        "tenants": tenants,
        "env": env,
    })
}

/// Returns the URLs of a tenant's users, by what stands behind the tenant in their names.
fn credentials_of(stack: &LocalStack, tenant: &Token) -> Map<String, Value> {
    let users = permissions::tenant_users(tenant).into_iter();
    users.map(|user| (role(tenant, &user), stack.nats_url(&user.name).into())).collect()
}

fn role(tenant: &Token, user: &NatsUser) -> String {
    user.name.strip_prefix(&format!("{tenant}-")).unwrap_or(&user.name).to_owned()
}

/// Writes a context of the `nats` CLI for the operator and each program of a restaurant into the
/// folder of the stack.
pub(super) fn write_contexts(stack: &LocalStack) -> Result<()> {
    private_folder(&stack.dir.join(CONTEXTS))?;
    let users = stack.tenants.iter().flat_map(permissions::tenant_users);
    for user in users.chain([permissions::operator()]) {
        let context = json!({
            "description": format!("brigade up: {}", user.name),
            "url": stack.nats_url(&user.name),
            "inbox_prefix": permissions::inbox_prefix(&user.name),
        });
        write_text(&context_file(&stack.dir, &user.name), &context.to_string())?;
    }
    Ok(())
}

/// Writes the ready line into the folder of the stack, for [`print_env`].
pub(super) fn write(dir: &Path, ready_line: &Value) -> Result<()> {
    write_text(&dir.join(FILE), &ready_line.to_string())
}

fn context_file(dir: &Path, user: &str) -> PathBuf {
    dir.join(CONTEXTS).join(format!("{user}.json"))
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    let fresh = write_secret(path, text)?;
    fs::rename(fresh, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Takes back what [`write`] says of a stack that runs.
pub(super) fn forget(dir: &Path) {
    let _absent = fs::remove_file(dir.join(FILE));
}

/// Returns what people read when the stack is ready.
pub(super) fn banner(ready_line: &Value) -> String {
    // As it was started: it need not be on the PATH.
    let program = std::env::args().next().unwrap_or_else(|| "brigade".to_owned());
    let text = |name: &str| ready_line[name].as_str().unwrap_or("not here: edge runs elsewhere");
    let nats = ready_line["nats"]["operator"].as_str().and_then(|url| url.rsplit('@').next());
    let (api, tenant, dir) = (text("http_url"), text("tenant"), text("dir"));
    format!(
        "\nbrigade is up, for the restaurant {tenant:?}\n\
         \n  API       {api}\
         \n  admin     {}   /livez /readyz /metrics\
         \n  gateway   {}   simulated\
         \n  NATS      {}\
         \n  data      {dir}   kept for the next `brigade up`\n\
         \nIn another terminal:\n\
         \n  eval \"$({program} env --dir {})\"\
         \n  curl \"$HTTP/v1/{tenant}/products\"\
         \n  nats --context \"$SCREEN\" sub 'live.*.{tenant}.>'\
         \n  {program} status\n\
         \nCtrl-C ends it.\n",
        text("admin_url"),
        ready_line["gateway_url"].as_str().unwrap_or("none: edge runs elsewhere"),
        nats.unwrap_or_default(),
        quoted(dir),
    )
}

#[derive(clap::Args)]
pub struct EnvArgs {
    /// Folder that `brigade up` runs on
    #[arg(long, default_value = ".brigade")]
    dir: PathBuf,
}

/// Prints the environment of a stack that runs, for `eval` in a shell.
///
/// # Errors
/// Where none runs on the folder.
pub fn print_env(args: &EnvArgs) -> Result<ExitCode> {
    let dir = std::path::absolute(&args.dir)?;
    let path = dir.join(FILE);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("no `brigade up` runs on {}", dir.display()))?;
    let line: Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what `brigade up` wrote", path.display()))?;
    // It may have been killed, so that the file was left.
    let admin = line["admin_url"].as_str().and_then(|url| url.strip_prefix("http://"));
    let admin: SocketAddr = admin.unwrap_or_default().parse().context("no address")?;
    if TcpStream::connect_timeout(&admin, Duration::from_secs(2)).is_err() {
        bail!("no `brigade up` runs on {} any more", dir.display());
    }
    for (name, value) in environment(&dir, &line) {
        println!("export {name}={}", quoted(&value));
    }
    Ok(ExitCode::SUCCESS)
}

fn environment(dir: &Path, line: &Value) -> Vec<(String, String)> {
    let env = line["env"].as_object().into_iter().flatten();
    let urls = [("HTTP", "http_url"), ("ADMIN", "admin_url"), ("GATEWAY", "gateway_url")];
    let urls = urls.map(|(name, of)| (name.to_owned(), &line[of]));
    let values = env.map(|(name, value)| (name.clone(), value)).chain(urls);
    let values = values.filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())));
    let context = |user: &str| context_file(dir, user).display().to_string();
    let tenant = line["tenant"].as_str().unwrap_or_default();
    let programs =
        VARIABLES.map(|(role, name)| (name.to_owned(), context(&format!("{tenant}-{role}"))));
    let operator = ("NATS_CONTEXT".to_owned(), context(&permissions::operator().name));
    values.chain(programs).chain([operator]).collect()
}

/// Returns a word of the shell that is the text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_one_word_of_a_shell() {
        assert_eq!(quoted("a b$c"), "'a b$c'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
