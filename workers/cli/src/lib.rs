//! The command line: one file a subcommand. Those of the feature `dev` stand in `brigade_dev`.

mod causes;
mod dlq;
mod doctor;
mod gateways;
mod health;
mod locks;
mod migrate;
mod output;
mod printable;
mod products;
mod provision;
mod rebuild;
mod run;
mod security_log;
mod status;
mod tenants;
mod trace;

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Result;
use brigade::fleet::config::{LogConfig, VARIABLES};
use clap::{Parser, Subcommand};
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

/// The worker fleet behind restaurants' ordering and payment.
#[derive(Parser)]
#[command(name = "brigade", version, about, after_help = VARIABLES)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    #[cfg(feature = "dev")]
    /// Bring everything up in a scratch folder, tell the story, keep every promise, go away
    Demo(brigade_dev::demo::DemoArgs),
    #[cfg(feature = "dev")]
    /// Keep the same stack running until Ctrl-C
    Up(brigade_dev::up::UpArgs),
    /// Run the named workers in this process, configured by the environment alone
    Run(run::RunArgs),
    /// Bring the SQL schema and the workers' roles up to date
    Migrate(migrate::MigrateArgs),
    #[cfg(feature = "dev")]
    /// Measure each path beside a raw ceiling, in one run
    Bench(brigade_dev::bench::BenchArgs),
    #[cfg(feature = "dev")]
    /// Break everything at random under load, and count what was lost
    Chaos(brigade_dev::chaos::ChaosArgs),
    /// Look at dead letters, mend, replay or drop them
    #[command(alias = "dead-letters")]
    Dlq(dlq::DlqArgs),
    /// Examine servers and settings, and say how to mend what is wrong
    Doctor(doctor::DoctorArgs),
    /// Say which payment gateways may tell of a restaurant's payments over HTTP
    Gateways(gateways::GatewaysArgs),
    /// Ask the process on this machine whether it lives, as the probe of a container
    Health(health::HealthArgs),
    /// Look at cart locks and their history
    Locks(locks::LocksArgs),
    /// Look at failed logins, changed roles, refunds and the like
    SecurityLog(security_log::SecurityLogArgs),
    /// Look at the price list of a restaurant, or import it from a file
    Products(products::ProductsArgs),
    /// Bring streams, buckets and consumers up to date, and name what differs
    Provision,
    /// Write buckets anew from SQL while the fleet runs
    Rebuild(rebuild::RebuildArgs),
    /// Say what is wrong with the fleet, worst first, and what to do
    Status(status::StatusArgs),
    /// Add, list, suspend, resume and remove restaurants, and rotate their credentials
    Tenants(tenants::TenantsArgs),
    /// Tell the way of a command: received, decided, relayed, projected, dead
    Trace(trace::TraceArgs),
}

/// The whole program, with the arguments and the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    run_with(std::env::args_os())
}

/// The whole program, with these arguments (the first is the program's name).
pub fn run_with(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _printed = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    start_log(&cli.command);
    let mut threads = match &cli.command {
        CliCommand::Run(args) if args.is_one_loop() => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = match threads.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("brigade: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result: Result<ExitCode> = runtime.block_on(async {
        match cli.command {
            #[cfg(feature = "dev")]
            CliCommand::Demo(args) => brigade_dev::demo::run(args).await,
            #[cfg(feature = "dev")]
            CliCommand::Up(args) => brigade_dev::up::run(args).await,
            CliCommand::Run(args) => run::run(args).await,
            #[cfg(feature = "dev")]
            CliCommand::Bench(args) => brigade_dev::bench::run(args).await,
            #[cfg(feature = "dev")]
            CliCommand::Chaos(args) => brigade_dev::chaos::run(args).await,
            CliCommand::Dlq(args) => dlq::run(args).await,
            CliCommand::Doctor(args) => doctor::run(args).await,
            CliCommand::Gateways(args) => gateways::run(args).await,
            CliCommand::Health(args) => health::run(&args).await,
            CliCommand::Locks(args) => locks::run(args).await,
            CliCommand::SecurityLog(args) => security_log::run(args).await,
            CliCommand::Products(args) => products::run(args).await,
            CliCommand::Migrate(args) => migrate::run(&args).await,
            CliCommand::Provision => provision::run().await,
            CliCommand::Rebuild(args) => rebuild::run(args).await,
            CliCommand::Status(args) => status::run(args).await,
            CliCommand::Tenants(args) => tenants::run(args).await,
            CliCommand::Trace(args) => trace::run(args).await,
        }
    });
    result.unwrap_or_else(|error| {
        if error.is::<output::Unread>() {
            return ExitCode::SUCCESS;
        }
        eprintln!("brigade: {}", causes::causes(&error));
        ExitCode::FAILURE
    })
}

/// Logs go to stderr: stdout belongs to what a command prints for programs. The demo tells its own
/// story and logs only what is wrong.
fn start_log(command: &CliCommand) {
    let config = LogConfig::from_env();
    let default = match command {
        #[cfg(feature = "dev")]
        CliCommand::Demo(_) | CliCommand::Chaos(_) => "off",
        // What its connector says of each attempt stands in the reason of the outage.
        _ => "info,async_nats=warn,async_nats::connector=off,sqlx=warn",
    };
    let filter = EnvFilter::new(config.filter.as_deref().unwrap_or(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let color = std::io::stderr().is_terminal();
    // An error says that a log exists already, as in tests.
    let _started =
        if config.json { log.json().try_init() } else { log.with_ansi(color).try_init() };
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/production.md");
    /// The files of the page that have settings.
    const FILES: [&str; 4] = [
        include_str!("../../../docs/production/brigade.env"),
        include_str!("../../../deploy/systemd/brigade@.service"),
        include_str!("../../../docs/production/edge.env"),
        include_str!("../../../docs/production/operator.env"),
    ];

    #[test]
    fn each_command_line_of_the_page_for_production_is_understood() {
        // Both in blocks and within sentences.
        let quoted = PAGE.split('`').skip(1).step_by(2).flat_map(str::lines);
        let lines: Vec<_> = quoted.filter(|line| line.starts_with("brigade ")).collect();
        assert!(lines.len() > 10, "{lines:?}");
        for line in lines {
            let command = line.split('>').next().unwrap_or_default();
            if let Err(error) = Cli::try_parse_from(command.split_whitespace()) {
                panic!("{line}: {error}");
            }
        }
    }

    /// Returns true if a setting is among those that `--help` lists.
    fn is_known(name: &str) -> bool {
        // Those that end alike are listed once.
        let name = name.trim_end_matches("_FILE").replace("_KEY", "_CERT");
        let listed = VARIABLES.split_whitespace().map(|word| word.trim_end_matches([',', '.']));
        listed.filter(|word| word.starts_with("BRIGADE_")).any(|word| match word.split_once('<') {
            Some((begin, _)) => name.strip_prefix(begin).is_some_and(|rest| !rest.is_empty()),
            None => name == word,
        })
    }

    #[test]
    fn each_setting_of_the_page_for_production_exists() {
        let is_of_name = |c: char| c.is_ascii_uppercase() || c == '_';
        let names: Vec<_> = std::iter::once(PAGE)
            .chain(FILES)
            .flat_map(|text| text.split(|c| !is_of_name(c)))
            .filter(|word| word.starts_with("BRIGADE_"))
            .collect();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert!(is_known(name), "{name}");
        }
        assert!(!is_known("BRIGADE_NATS_CERTIFICATE") && !is_known("BRIGADE_HTTP_ADDRESS"));
    }
}
