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
    #[cfg(feature = "dev")]
    /// Print the environment of the stack that `up` keeps running: eval "$(brigade env)"
    Env(brigade_dev::up::EnvArgs),
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
            #[cfg(feature = "dev")]
            CliCommand::Env(args) => brigade_dev::up::print_env(&args),
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
    use std::{fs, path::Path};

    use super::*;

    const PAGES: [&str; 2] =
        [include_str!("../../../docs/production.md"), include_str!("../../../docs/deploying.md")];
    /// The files that have settings and command lines, or folders with them.
    const FILES: [&str; 2] = ["docs/production", "deploy"];

    /// Reads a file, or those of a folder but for what `deploy/compose/prepare` makes there.
    fn read(path: &Path, texts: &mut Vec<String>) {
        if !path.is_dir() {
            texts.push(fs::read_to_string(path).unwrap());
        } else if !["secrets", "data"].iter().any(|made| path.ends_with(made)) {
            fs::read_dir(path).unwrap().for_each(|entry| read(&entry.unwrap().path(), texts));
        }
    }

    fn files() -> Vec<String> {
        let mut texts = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        FILES.iter().for_each(|folder| read(&root.join(folder), &mut texts));
        texts
    }

    /// The arguments of the program in lists such as `command: [run, edge]`.
    fn started(text: &str) -> impl Iterator<Item = Vec<&str>> {
        text.lines().filter_map(|line| {
            let (before, list) = line.split_once('[')?;
            let list = list.trim_end().strip_suffix(']')?;
            let words = list.split(", ").map(|word| word.trim_matches('"'));
            let of_program = before.ends_with("command: ") || before.ends_with("args: ");
            if of_program && !list.starts_with('-') {
                Some(words.collect())
            } else {
                let program = words.clone().position(|word| word == "/brigade")?;
                Some(words.skip(program + 1).collect())
            }
        })
    }

    fn is_understood(arguments: &[&str]) {
        if let Err(error) = Cli::try_parse_from(["brigade"].iter().chain(arguments)) {
            panic!("{arguments:?}: {error}");
        }
    }

    #[test]
    fn each_command_line_of_the_pages_is_understood() {
        // Both in blocks and within sentences.
        let quoted = PAGES.iter().flat_map(|page| page.split('`').skip(1).step_by(2));
        let lines = quoted.flat_map(str::lines).filter_map(|line| {
            let in_compose = "docker compose run --rm operator ";
            line.strip_prefix("brigade ").or_else(|| line.strip_prefix(in_compose))
        });
        let lines: Vec<_> = lines.collect();
        assert!(lines.len() > 10, "{lines:?}");
        for line in lines {
            let command = line.split('>').next().unwrap_or_default();
            is_understood(&command.split_whitespace().collect::<Vec<_>>());
        }
    }

    #[test]
    fn s8_08_each_command_line_of_the_files_is_understood() {
        let files = files();
        let lists: Vec<_> = files.iter().flat_map(|text| started(text)).collect();
        // Each worker in compose and on Kubernetes, the jobs, and the probes.
        assert!(lists.len() > 20, "{lists:?}");
        // The program of the image by itself.
        for list in lists.iter().filter(|list| !list.is_empty()) {
            is_understood(list);
        }
        assert!(Cli::try_parse_from(["brigade", "health", "--reedy"]).is_err());
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
    fn s8_08_each_setting_of_the_files_and_pages_exists() {
        let is_of_name = |c: char| c.is_ascii_uppercase() || c == '_';
        let files = files();
        let names: Vec<_> = PAGES
            .into_iter()
            .chain(files.iter().map(String::as_str))
            .flat_map(|text| text.split(|c| !is_of_name(c)))
            .filter(|word| word.starts_with("BRIGADE_"))
            // For compose itself.
            .filter(|word| *word != "BRIGADE_USER")
            .collect();
        assert!(names.len() > 60, "{names:?}");
        for name in names {
            assert!(is_known(name), "{name}");
        }
        assert!(!is_known("BRIGADE_NATS_CERTIFICATE") && !is_known("BRIGADE_HTTP_ADDRESS"));
    }
}
