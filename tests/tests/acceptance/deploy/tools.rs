//! Each file is given to its own tool, where this machine has it: on the PATH, or in the cache
//! folder, where `.ci/deploy-tools` puts them.

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path};

use brigade_tests::{
    deploy::{accepted, path, read, tool},
    process::launch,
};
use tokio::process::Command;

#[tokio::test]
async fn s8_08_hadolint_accepts_the_image() {
    let Some(hadolint) = tool("hadolint") else { return };
    accepted(Command::new(hadolint).arg(path("deploy/Dockerfile"))).await;
}

#[tokio::test]
async fn s8_08_the_loader_of_compose_accepts_its_file() {
    let Some(compose) = tool("compose-spec") else { return };
    let mut command = Command::new(compose);
    // This program of the loader's sees no variables of its environment.
    command.args(["--no-interpolation", "--format", "json", "compose.yaml"]);
    let loaded = accepted(command.current_dir(path("deploy/compose"))).await;
    let loaded: serde_json::Value = serde_json::from_str(&loaded).expect("JSON");
    // What is anchored for all workers is merged in, and settings are those of the page's file.
    let edge = &loaded["services"]["edge"];
    assert_eq!(edge["environment"]["BRIGADE_NATS_URL_FILE"], "/etc/brigade/nats-url");
    let settings = edge["env_file"][0]["path"].as_str().expect("a path");
    assert_eq!(fs::read_to_string(settings).expect("there"), read("docs/production/brigade.env"));
}

#[tokio::test]
async fn s8_08_prepare_makes_what_programs_on_this_machine_show_and_says_what_is_to_be_done() {
    if [tool("bash"), tool("openssl"), tool("jq")].iter().any(Option::is_none) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |file: &str| folder.path().join(file);
    fs::create_dir(at("compose")).expect("made");
    fs::copy(path("deploy/compose/prepare"), at("compose/prepare")).expect("copied");
    fs::write(at("brigade"), brigade_script()).expect("written");
    fs::set_permissions(at("brigade"), fs::Permissions::from_mode(0o755)).expect("executable");
    let prepare = || {
        let mut command = Command::new("bash");
        command.arg("compose/prepare").env("BRIGADE", "./brigade").current_dir(folder.path());
        command
    };
    let output = prepare().output().await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "");
    assert_eq!(accepted(&mut prepare()).await.lines().count(), 2, "nodes may run by now");
    let secrets = at("compose/secrets");
    for (certificate, authority, purpose, name) in [
        ("nats-1/server-cert.pem", "program/ca.pem", "sslserver", "localhost"),
        ("program/client-cert.pem", "nats-1/ca.pem", "sslclient", "program"),
    ] {
        let mut verify = Command::new("openssl");
        verify.args(["verify", "-CAfile", authority, "-purpose", purpose]);
        verify.args(["-verify_hostname", name, certificate]);
        accepted(verify.current_dir(&secrets)).await;
    }
    fs::remove_file(secrets.join("brigade/edge/nats-url")).expect("removed");
    let output = prepare().output().await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("docker compose down --volumes"), "{said}");
}

/// A script that is the program: what the hidden test prints around the JSON is left out.
fn brigade_script() -> String {
    let (arguments, variables) = launch("$*");
    let arguments: Vec<_> = arguments.iter().map(|word| word.display().to_string()).collect();
    let (name, _) = &variables[0];
    let program = env::current_exe().expect("this program");
    let (program, arguments) = (program.display(), arguments.join(" "));
    format!("#!/bin/sh\n{name}=\"$*\" '{program}' {arguments} | grep '^{{'\n")
}

#[tokio::test]
async fn s8_08_the_schemas_of_kubernetes_accept_what_kustomize_makes() {
    let (Some(kubectl), Some(validate)) = (tool("kubectl"), tool("kubernetes-validate")) else {
        return;
    };
    for (folder, kinds) in [("deploy/kubernetes", 8), ("deploy/kubernetes/jobs", 0)] {
        let made = accepted(Command::new(&kubectl).arg("kustomize").arg(path(folder))).await;
        // The patch for all has reached each worker, and nothing else.
        assert_eq!(made.matches("image: brigade:latest").count(), kinds.max(2), "{made}");
        assert_eq!(made.matches("startupProbe:").count(), kinds, "{made}");
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
        fs::write(file.path(), made).expect("written");
        // The scalers are of a kind of their own, of which Kubernetes has no schema.
        let strict = ["--strict", "--kubernetes-version", "1.30", "--no-warn"];
        accepted(Command::new(&validate).args(strict).arg(file.path())).await;
    }
}

/// Writes the units into a folder, with programs that are there.
fn units(folder: &Path) {
    let program = folder.join("program");
    fs::write(&program, "").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    for unit in ["brigade@.service", "nats.service"] {
        let text = read(&format!("deploy/systemd/{unit}"));
        let here = program.display().to_string();
        let text = text.replace("/usr/local/bin/brigade", &here);
        let text = text.replace("/usr/local/bin/nats-server", &here);
        fs::write(folder.join(unit), text).expect("written");
    }
}

#[tokio::test]
async fn s8_08_systemd_accepts_the_units_and_their_hardening() {
    let Some(analyze) = tool("systemd-analyze") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    units(dir.path());
    let verify = || {
        let mut command = Command::new(&analyze);
        command.args(["verify", "--man=no"]);
        command.args(["brigade@edge.service", "nats.service"].map(|unit| dir.path().join(unit)));
        command
    };
    assert_eq!(accepted(&mut verify()).await, "", "without the drop-ins");
    for (drop_in, of) in [
        ("credentials.conf", "brigade@.service.d"),
        ("credentials-edge.conf", "brigade@edge.service.d"),
    ] {
        fs::create_dir_all(dir.path().join(of)).expect("made");
        let to = dir.path().join(of).join("credentials.conf");
        fs::copy(path(&format!("deploy/systemd/{drop_in}")), to).expect("copied");
    }
    let mut with_drop_ins = verify();
    with_drop_ins.env("SYSTEMD_UNIT_PATH", format!("{}:", dir.path().display()));
    assert_eq!(accepted(&mut with_drop_ins).await, "", "with the drop-ins");
    for unit in ["brigade@.service", "nats.service"] {
        let mut security = Command::new(&analyze);
        // Of 100: below 20 is what systemd calls OK.
        security.args(["security", "--offline=true", "--no-pager", "--threshold=20"]);
        accepted(security.arg(dir.path().join(unit))).await;
    }
}

#[tokio::test]
async fn s8_08_the_shell_accepts_the_scripts() {
    let scripts = ["deploy/release", "deploy/compose/prepare", "deploy/compose/postgres-init.sh"];
    for script in scripts {
        assert_eq!(accepted(Command::new("bash").arg("-n").arg(path(script))).await, "");
    }
    let Some(shellcheck) = tool("shellcheck") else { return };
    accepted(Command::new(shellcheck).args(scripts.map(path))).await;
}
