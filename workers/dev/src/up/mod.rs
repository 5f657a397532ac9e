//! `brigade up`: the whole stack on this machine, until Ctrl-C.

mod joining;
mod sample;

use std::{
    io::{IsTerminal, stdout},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::ExitCode,
};

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
use brigade_servers::{Binaries, config::StackConfig, port::free_port};
use sqlx::PgPool;

pub use self::joining::{EnvArgs, print_env};

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
    /// Port of nats-server; 0: any free one. By default 4222 if it is free
    #[arg(long)]
    nats_port: Option<u16>,
    /// Port of the API; 0: any free one. By default 8080 if it is free
    #[arg(long)]
    http_port: Option<u16>,
    /// Port of /livez, /readyz and /metrics; 0: any free one. By default 9100 if it is free
    #[arg(long)]
    admin_port: Option<u16>,
    /// Port of the simulated payment gateway; 0: any free one. By default 8081 if it is free
    #[arg(long)]
    gateway_port: Option<u16>,
    /// Port of Postgres; 0: any free one. By default 5433 if it is free
    #[arg(long)]
    postgres_port: Option<u16>,
    /// Trust whoever uses the API from this machine without a token
    #[arg(long)]
    open: bool,
    /// Fill the first restaurant with products, tables and users, and let so many parties a minute
    /// come, order and pay
    #[arg(long, value_name = "PARTIES", num_args = 0..=1, default_missing_value = "20")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=600))]
    sample: Option<u32>,
}

/// Returns the port that was asked for, else the usual one where it is free, else 0: any.
fn port(asked: Option<u16>, usual: u16) -> u16 {
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    asked.unwrap_or_else(|| if is_free(usual) { usual } else { 0 })
}

fn listeners(args: &UpArgs) -> Listeners {
    Listeners {
        http: ([127, 0, 0, 1], port(args.http_port, 8080)).into(),
        http_tls: None,
        admin: ([127, 0, 0, 1], port(args.admin_port, 9100)).into(),
    }
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
    let ports = Ports {
        nats: port(args.nats_port, 4222),
        postgres: port(args.postgres_port, 5433),
        // For `brigade doctor`.
        monitoring: Some(free_port()?),
    };
    let mut stack = LocalStack::start(&binaries, &dir, tenants, ports).await?;
    let api = api_options(args.open)?;
    let servers = |worker| {
        let settings = Settings { http: api.clone(), ..Settings::default() };
        Servers { settings, ..stack.servers(worker) }
    };
    let servers = workers.iter().map(|worker| (*worker, servers(*worker))).collect();
    let process = Process::start(servers, listeners(&args), None).await?;
    let gateway = match &process.api {
        Some(api) => Some(gateway(&stack, api, port(args.gateway_port, 8081)).await?),
        None => None,
    };
    joining::write_contexts(&stack)?;
    let ready_line = joining::ready_line(&stack, &process, gateway.as_ref());
    let (is_ready, ready) = tokio::sync::oneshot::channel();
    let parties = match args.sample {
        Some(a_minute) => Some((sample::client(&stack).await?, a_minute)),
        None => None,
    };
    let sample = async {
        if let (Ok(()), Some((client, a_minute))) = (ready.await, parties)
            && let Err(error) = sample::play(&client, a_minute).await
        {
            tracing::error!("the sample has ended: {error:#}");
        }
        std::future::pending().await
    };
    let died = async {
        let (server, status) = tokio::select! {
            never = sample => never,
            status = stack.nats.exited() => ("nats-server", status),
            status = stack.postgres.exited() => ("Postgres", status),
        };
        anyhow::anyhow!("{server} ended by itself ({status})")
    };
    let tell = || {
        if let Err(error) = joining::write(&dir, &ready_line) {
            tracing::error!("`brigade env` will not know of it: {error:#}");
        }
        eprintln!("{}", joining::banner(&ready_line));
        if args.sample.is_some() {
            eprintln!("{}", sample::banner());
        }
        // Programs read it; it holds passwords, and people have the file.
        if !stdout().is_terminal() {
            println!("{ready_line}");
        }
        let _nobody_waits = is_ready.send(());
    };
    let result = process.until_signal(tell, died).await;
    joining::forget(&dir);
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
