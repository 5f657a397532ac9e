use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use brigade::{
    fleet::{
        Servers, Settings,
        config::api_options,
        process::{Listeners, Process},
        registry::parse,
    },
    operations::{gateways, tenants},
    runtime::http::HttpServer,
    store::gateway_secrets::GatewayFormat,
};
use brigade_contracts::{Token, WorkerName, permissions};
use brigade_servers::{Binaries, config::StackConfig};
use serde_json::{Map, Value, json};
use sqlx::PgPool;

use crate::{
    LocalStack, Ports,
    simulated_gateway::{self, SimulatedGateway},
};

#[derive(clap::Args)]
#[command(after_help = brigade_servers::config::VARIABLES)]
pub struct UpArgs {
    /// Folder of the data, made where it is missing; a later `up` on it finds the data again
    #[arg(long, default_value = ".brigade")]
    dir: PathBuf,
    /// A restaurant; may be given several times
    #[arg(long = "tenant", value_name = "T", default_value = "demo")]
    tenants: Vec<String>,
    /// Workers to run in this process: `all`, `none`, or names separated by commas
    #[arg(long, value_delimiter = ',', default_value = "all")]
    workers: Vec<String>,
    /// Port of nats-server; 0: any free one
    #[arg(long, default_value_t = 0)]
    nats_port: u16,
    /// Port of the API; 0: any free one
    #[arg(long, default_value_t = 0)]
    http_port: u16,
    /// Port of /livez, /readyz and /metrics; 0: any free one
    #[arg(long, default_value_t = 0)]
    admin_port: u16,
    /// Port of the simulated payment gateway; 0: any free one
    #[arg(long, default_value_t = 0)]
    gateway_port: u16,
    /// Port of Postgres; 0: any free one
    #[arg(long, default_value_t = 0)]
    postgres_port: u16,
    /// Trust whoever uses the API from this machine without a token
    #[arg(long)]
    open: bool,
}

pub async fn run(args: UpArgs) -> Result<ExitCode> {
    let workers = match args.workers.as_slice() {
        [none] if none == "none" => Vec::new(),
        names => parse(names)?,
    };
    let tenants =
        args.tenants.iter().map(|tenant| tenants::parse(tenant)).collect::<Result<_>>()?;
    let dir = std::path::absolute(&args.dir)?;
    let binaries = Binaries::find(&StackConfig::from_env()).await?;
    let ports = Ports { nats: args.nats_port, postgres: args.postgres_port };
    let mut stack = LocalStack::start(&binaries, &dir, tenants, ports).await?;
    let api = api_options(args.open)?;
    let servers = |worker| {
        let settings = Settings { http: api.clone(), ..Settings::default() };
        Servers { settings, ..stack.servers(worker) }
    };
    let servers = workers.iter().map(|worker| (*worker, servers(*worker))).collect();
    let listeners = Listeners {
        http: ([127, 0, 0, 1], args.http_port).into(),
        http_tls: None,
        admin: ([127, 0, 0, 1], args.admin_port).into(),
    };
    let process = Process::start(servers, listeners, None).await?;
    let gateway = match &process.api {
        Some(api) => Some(gateway(&stack, api, args.gateway_port).await?),
        None => None,
    };
    let ready_line = ready_line(&stack, &process, gateway.as_ref());
    let died = async {
        let (server, status) = tokio::select! {
            status = stack.nats.exited() => ("nats-server", status),
            status = stack.postgres.exited() => ("Postgres", status),
        };
        anyhow::anyhow!("{server} ended by itself ({status})")
    };
    let result = process.until_signal(|| println!("{ready_line}"), died).await;
    stack.stop().await;
    result
}

/// Starts a gateway to play with, which may tell of the payments of each restaurant.
async fn gateway(stack: &LocalStack, api: &HttpServer, port: u16) -> Result<SimulatedGateway> {
    let (name, secret) = (gateways::parse(simulated_gateway::NAME)?, stack.gateway_secret());
    let pool = PgPool::connect(&stack.superuser_url()).await?;
    for tenant in &stack.tenants {
        gateways::add(&pool, tenant, &name, GatewayFormat::Stripe, &secret, "up").await?;
    }
    pool.close().await;
    let brigade = format!("http://{}", api.address);
    SimulatedGateway::start(([127, 0, 0, 1], port).into(), brigade, secret).await
}

/// Returns what a program needs to join the stack, as one line of JSON.
fn ready_line(stack: &LocalStack, process: &Process, gateway: Option<&SimulatedGateway>) -> Value {
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
    });
    for worker in WorkerName::ALL {
        let servers = stack.servers(worker);
        env[format!("BRIGADE_NATS_URL_{}", worker.env_suffix())] = servers.nats_url.into();
        env[format!("BRIGADE_DATABASE_URL_{}", worker.env_suffix())] = servers.postgres_url.into();
    }
    json!({
        "ready": true,
        "tenant": first,
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
    let role = |name: &str| name.strip_prefix(&format!("{tenant}-")).unwrap_or(name).to_owned();
    users.map(|user| (role(&user.name), stack.nats_url(&user.name).into())).collect()
}
