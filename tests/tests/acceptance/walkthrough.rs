//! S7-09: `docs/paying.md`, whose commands are run as they stand there.

use brigade_dev::simulated_gateway::{NAME, SimulatedGateway};
use brigade_tests::{TestFleet, gateway::Gateway, interop};
use tokio::process::Command;

use super::http::open_fleet;

const PAGE: &str = include_str!("../../../docs/paying.md");
const SECRET: &str = "whsec_of-the-page-on-paying";
/// What stands before a line that a command prints.
const PRINTED: &str = "#   ";

/// Returns the commands of the page, but for those that start the fleet, and what they print.
fn commands() -> (String, Vec<&'static str>) {
    let blocks =
        PAGE.split("\n```\n").skip(1).step_by(2).filter(|block| !block.contains("cargo run"));
    let lines = blocks.flat_map(str::lines);
    let (printed, lines): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with(PRINTED));
    let commands = lines.join("\n").replace("/v1/demo/", "/v1/t1/");
    let commands = commands.replace(r#""tenant":"demo""#, r#""tenant":"t1""#);
    (commands, printed.iter().map(|line| &line[PRINTED.len()..]).collect())
}

async fn play(fleet: &TestFleet, simulated: &SimulatedGateway) -> String {
    let mut shell = Command::new("bash");
    shell.args(["-eu", "-c", &commands().0]);
    shell.env("HTTP", fleet.http_url().await).env("GATEWAY", simulated.url());
    // The fleet is on this machine, whatever the environment says.
    shell.env("NO_PROXY", "127.0.0.1");
    interop::run(&mut shell).await.unwrap_or_else(|error| panic!("{error:#}"))
}

#[tokio::test]
async fn s7_09_the_page_on_paying_does_what_it_says() {
    let mut tools = Command::new("bash");
    tools.args(["-c", "curl --json '{}' --version && jq --version"]);
    let tools = interop::run(&mut tools).await;
    if interop::or_skip("curl 7.82 and jq", tools).is_none() {
        return;
    }
    let (fleet, http) = open_fleet().await;
    Gateway::register(&fleet, NAME, SECRET).await;
    let address = ([127, 0, 0, 1], 0).into();
    let simulated = SimulatedGateway::start(address, http.base.clone(), SECRET.to_owned()).await;
    let said = play(&fleet, &simulated.expect("a port")).await;
    let expected = commands().1;
    assert!(expected.len() > 20, "{expected:?}");
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    fleet.finish().await;
}
