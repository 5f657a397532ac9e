use std::ffi::OsString;

use super::*;

/// A machine that has nothing but what a test installs.
fn bare(root: &Path) -> StackConfig {
    StackConfig {
        nats_server: None,
        postgres_bin: None,
        pgbouncer: None,
        path: OsString::new(),
        places: Vec::new(),
        cache_dir: root.join("cache"),
    }
}

/// A shell writes the program: were it this process, a child that another test starts meanwhile
/// would hold it open for writing for a moment, and it could not be run.
fn install(program: &Path, version: &str) -> Result<()> {
    fs::create_dir_all(folder(program))?;
    let write = r##"printf '#!/bin/sh\necho "%s"\n' "$1" >"$0" && chmod 755 "$0""##;
    let mut shell = std::process::Command::new("/bin/sh");
    let status = shell.args(["-c", write]).arg(program).arg(version).status()?;
    anyhow::ensure!(status.success(), "cannot write {}", program.display());
    Ok(())
}

fn install_postgres(bin: &Path, version: &str) -> Result<()> {
    install(&bin.join("initdb"), "initdb")?;
    install(&bin.join("postgres"), &format!("postgres (PostgreSQL) {version}"))
}

#[test]
fn versions_are_read_as_the_servers_print_them() {
    let read = |text: &str| text.split_whitespace().find_map(Version::parse);
    assert_eq!(read("nats-server: v2.15.1"), Some(Version(2, 15, 1)));
    assert_eq!(read("nats-server: v2.15.0-RC.2"), Some(Version(2, 15, 0)));
    assert_eq!(
        read("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"),
        Some(Version(15, 14, 0))
    );
    assert_eq!(read("postgres (PostgreSQL) 18beta1"), Some(Version(18, 0, 0)));
    assert_eq!(read("command not found"), None);
    assert!(Version(2, 14, 3) < Version(2, 15, 0));
}

#[tokio::test]
async fn the_newest_of_a_place_comes_first_and_the_path_before_all() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let mut config = bare(root);
    config.places = vec![root.join("lib/*/bin")];
    for version in ["9", "16", "15"] {
        install_postgres(&root.join("lib").join(version).join("bin"), version)?;
    }
    let found = installed(&POSTGRES, &config).await?;
    assert_eq!(found, Some(root.join("lib/16/bin/postgres")));

    install_postgres(&root.join("path"), "15.1")?;
    config.path = root.join("path").into();
    let found = installed(&POSTGRES, &config).await?;
    assert_eq!(found, Some(root.join("path/postgres")));
    Ok(())
}

#[tokio::test]
async fn one_that_is_too_old_is_passed_over_unless_it_was_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let mut config = bare(root);
    install(&root.join("old/nats-server"), "nats-server: v2.14.2")?;
    install(&root.join("new/nats-server"), "nats-server: v2.14.3")?;
    config.path = env::join_paths([root.join("old"), root.join("new")])?;
    let found = installed(&NATS_SERVER, &config).await?;
    assert_eq!(found, Some(root.join("new/nats-server")));

    config.nats_server = Some(root.join("old/nats-server"));
    let refused = installed(&NATS_SERVER, &config).await.unwrap_err();
    let refused = format!("{refused:#}");
    assert!(refused.contains("BRIGADE_NATS_SERVER") && refused.contains("2.14.2"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_named_server_that_is_missing_is_an_error() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = bare(dir.path());
    config.postgres_bin = Some(dir.path().join("nowhere"));
    let refused = installed(&POSTGRES, &config).await.unwrap_err();
    assert!(format!("{refused:#}").contains("BRIGADE_POSTGRES_BIN"));
    Ok(())
}

#[tokio::test]
async fn a_link_to_postgres_alone_is_followed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().canonicalize()?;
    let mut config = bare(&root);
    install_postgres(&root.join("real"), "17.2")?;
    fs::create_dir(root.join("path"))?;
    std::os::unix::fs::symlink(root.join("real/postgres"), root.join("path/postgres"))?;
    config.path = root.join("path").into();
    let found = installed(&POSTGRES, &config).await?;
    assert_eq!(found, Some(root.join("real/postgres")));
    Ok(())
}

#[tokio::test]
async fn a_machine_with_nothing_has_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    assert_eq!(installed(&POSTGRES, &bare(dir.path())).await?, None);
    Ok(())
}
