//! What the files say of each other, of the program and of the servers.

use std::collections::BTreeSet;

use brigade_contracts::WorkerName;
use brigade_tests::deploy::{document, documents, of_image, read, words};
use serde_json::{Value, json};

const NAME: &str = "app.kubernetes.io/name";
const PART_OF: &str = "app.kubernetes.io/part-of";

/// The one of these documents that is of a kind.
fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Option<&'a Value> {
    documents.iter().find(|document| document["kind"] == kind)
}

fn all_workers() -> BTreeSet<&'static str> {
    WorkerName::ALL.map(WorkerName::as_str).into()
}

#[test]
fn s8_08_compose_has_a_service_for_each_worker_and_no_other() {
    let compose = document("deploy/compose/compose.yaml");
    let services = compose["services"].as_object().expect("services");
    let runs = services.iter().filter(|(_, service)| service["command"][0] == "run");
    let mut found = BTreeSet::new();
    for (name, service) in runs {
        found.insert(name.as_str());
        assert_eq!(service["command"], json!(["run", name]));
        // Of its own secrets, and of no other's.
        let folder = format!("./secrets/brigade/{name}:/etc/brigade:ro");
        assert_eq!(service["volumes"], json!([folder]), "{name}");
        let after = &service["depends_on"]["provision"]["condition"];
        assert_eq!(after, "service_completed_successfully", "{name}");
        for (what, is) in [("read_only", json!(true)), ("cap_drop", json!(["ALL"]))] {
            assert_eq!(service[what], is, "{name}");
        }
        assert_eq!(service["image"], "brigade", "{name}");
        assert_eq!(service["stop_grace_period"], "15s", "{name}");
    }
    assert_eq!(found, all_workers());
    for job in ["migrate", "provision"] {
        assert_eq!(services[job]["command"], json!([job]));
    }
    let prepare = read("deploy/compose/prepare");
    let (_, list) = prepare.split_once("workers=(").expect("a list");
    let list = list.split(')').next().expect("its end");
    assert_eq!(list.split_whitespace().collect::<BTreeSet<_>>(), all_workers());
}

#[test]
fn s8_08_the_nodes_of_compose_are_those_of_the_page() {
    let compose = document("deploy/compose/compose.yaml");
    let configuration = read("docs/production/nats-server.conf");
    for number in 1..=3 {
        let name = format!("nats-{number}");
        let node = &compose["services"][&name];
        let inside = format!("{name}.internal");
        assert!(configuration.contains(&format!("nats-route://{inside}:6222")));
        assert_eq!(node["networks"]["fleet"]["aliases"], json!([inside]));
        let command = words(&node["command"]);
        let advertised = format!("{inside}:4222");
        assert_eq!(
            command[1..],
            ["/etc/nats/server.conf", "--name", &*name, "--client_advertise", &advertised]
        );
        let mounted = words(&node["volumes"]);
        for (file, at) in [
            ("../../docs/production/nats-server.conf", "/etc/nats/server.conf:ro"),
            ("./secrets/accounts", "/etc/nats/accounts:ro"),
            (&*format!("./secrets/{name}"), "/etc/nats/tls:ro"),
            (&*format!("./data/{name}"), "/var/lib/nats"),
        ] {
            assert!(mounted.contains(&&*format!("{file}:{at}")), "{name}: {mounted:?}");
        }
    }
}

#[test]
fn s8_08_kubernetes_has_a_deployment_for_each_worker_as_compose_starts_it() {
    let compose = document("deploy/compose/compose.yaml");
    let list = document("deploy/kubernetes/kustomization.yaml");
    let listed = words(&list["resources"]).into_iter();
    let listed: BTreeSet<_> =
        listed.filter_map(|file| file.strip_prefix("workers/")?.strip_suffix(".yaml")).collect();
    assert_eq!(listed, all_workers());
    for worker in WorkerName::ALL {
        let name = worker.as_str();
        let of_worker = documents(&format!("deploy/kubernetes/workers/{name}.yaml"));
        let deployment = of_kind(&of_worker, "Deployment").expect("a Deployment");
        let template = &deployment["spec"]["template"];
        let labels = json!({ NAME: name, PART_OF: "brigade" });
        assert_eq!(deployment["metadata"]["name"], name);
        // By its own name an upgrade applies it alone.
        assert_eq!(deployment["metadata"]["labels"], labels);
        assert_eq!(template["metadata"]["labels"], labels);
        let container = &template["spec"]["containers"][0];
        // The patch for all finds it by this name.
        assert_eq!(container["name"], "worker");
        assert_eq!(container["args"], compose["services"][name]["command"], "{name}");
        assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
        let sources = &template["spec"]["volumes"][0]["projected"]["sources"];
        assert_eq!(sources[0]["secret"]["name"], format!("brigade-{name}"));
        let budget = of_kind(&of_worker, "PodDisruptionBudget").expect("a budget");
        for of in [deployment, budget] {
            assert_eq!(of["spec"]["selector"]["matchLabels"], json!({ NAME: name }));
        }
        scales_by_the_figure(worker, of_kind(&of_worker, "ScaledObject"));
    }
    for job in ["migrate", "provision"] {
        let of_job = document(&format!("deploy/kubernetes/jobs/{job}.yaml"));
        let container = &of_job["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["args"], compose["services"][job]["command"]);
    }
}

#[test]
fn s8_08_urls_that_name_a_pgbouncer_of_the_machine_are_moved_to_postgres() {
    let (page, setup) = (read("docs/deploying.md"), read("docs/production.md"));
    let (_, moved) = page.split_once("sed -i 's|@").expect("a command");
    let (from, moved) = moved.split_once("$|").expect("what is replaced");
    let (to, _) = moved.split_once("|'").expect("what it is replaced by");
    // `&` alone is for sed what it has found.
    assert!(to.matches('&').count() == to.matches("\\&").count(), "{to}");
    let row = setup.lines().find(|line| line.contains("/etc/brigade/<worker>/database-url"));
    let row = row.expect("a row");
    assert!(row.contains(&format!("`postgres://edge:…@{from}`")), "{row}");
    assert!(row.contains(&format!("`postgres://edge:…{}`", to.replace("\\&", "&"))), "{row}");
    let compose = read("deploy/compose/prepare");
    assert!(compose.contains("sslmode=verify-full&sslrootcert=/etc/brigade/ca.pem"));
}

#[test]
fn s8_08_an_upgrade_on_kubernetes_begins_each_worker_and_runs_no_job() {
    let page = read("docs/deploying.md");
    let (_, upgrade) = page.split_once("**A new version.**").expect("an upgrade");
    let (_, list) = upgrade.split_once("for worker in ").expect("a loop");
    let (list, _) = list.split_once("; do").expect("its workers");
    let list: Vec<_> = list.split_whitespace().filter(|word| *word != "\\").collect();
    assert_eq!(list.iter().copied().collect::<BTreeSet<_>>(), all_workers());
    assert_eq!((list.first(), list.last()), (Some(&"command-handler"), Some(&"edge")));
    assert!(!upgrade.contains("deploy/kubernetes/jobs"));
}

/// What the reference says of the worker, and that its metrics are there.
fn scales_by_the_figure(worker: WorkerName, scaled: Option<&Value>) {
    let topology = brigade_contracts::topology::Topology::compiled_in();
    let consumes = topology.consumers.values().any(|of| of.contains_key(worker.as_str()));
    let Some(scaled) = scaled else {
        // A second one only takes the lease over.
        assert_eq!(worker, WorkerName::TableStatusReconciler);
        assert!(!consumes);
        return;
    };
    assert_eq!(scaled["spec"]["scaleTargetRef"]["name"], worker.as_str());
    assert!(scaled["spec"]["minReplicaCount"].as_u64() >= Some(2), "{worker}");
    let trigger = &scaled["spec"]["triggers"][0];
    if worker == WorkerName::Edge {
        assert_eq!(trigger["type"], "cpu");
        return;
    }
    let query = trigger["metadata"]["query"].as_str().expect("a query");
    let query = query.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = read("docs/reference/metrics.md");
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    // The page has those of command-handler and of outbox-relay.
    let of_page = query.replace(worker.as_str(), "command-handler");
    let threshold = if worker == WorkerName::OutboxRelay { "1000" } else { "256" };
    assert!(page.contains(&of_page), "{query}");
    assert_eq!(trigger["metadata"]["threshold"], threshold);
    assert_eq!(consumes, worker != WorkerName::OutboxRelay);
    assert_eq!(trigger["metadata"]["ignoreNullValues"], "false");
    assert_eq!(scaled["spec"]["fallback"]["behavior"], "currentReplicas");
}

#[test]
fn s8_08_addresses_and_ports_agree() {
    let image = of_image();
    let (_, admin) = image["BRIGADE_ADMIN_ADDR"].rsplit_once(':').expect("a port");
    let admin: u16 = admin.parse().expect("a number");
    assert!(read("deploy/Dockerfile").contains(&format!("EXPOSE {admin} 8443\n")));
    let settings = document("deploy/kubernetes/settings.yaml");
    assert_eq!(settings["data"]["BRIGADE_ADMIN_ADDR"], image["BRIGADE_ADMIN_ADDR"].as_str());
    let patch = document("deploy/kubernetes/worker.yaml");
    let container = &patch["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"], json!([{ "name": "admin", "containerPort": admin }]));
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"], json!({ "path": path, "port": "admin" }));
    }
    let network = documents("deploy/kubernetes/network.yaml");
    let port_of = |name: &str| {
        let policy = network.iter().find(|policy| policy["metadata"]["name"] == name);
        policy.expect("a policy")["spec"]["ingress"][0]["ports"][0]["port"].clone()
    };
    let services = documents("deploy/kubernetes/services.yaml");
    let target = |service: &Value| service["spec"]["ports"][0]["targetPort"].clone();
    let compose = document("deploy/compose/compose.yaml");
    let edge = &compose["services"]["edge"];
    assert_eq!(edge["environment"]["BRIGADE_HTTP_ADDR"], "0.0.0.0:8443");
    assert_eq!(edge["ports"], json!(["127.0.0.1:8443:8443"]));
    assert_eq!((port_of("api"), target(&services[0])), (json!(8443), json!(8443)));
    assert_eq!((port_of("monitoring"), target(&services[1])), (json!(admin), json!(admin)));
    let prometheus = document("deploy/prometheus/prometheus.yml");
    let found = &prometheus["scrape_configs"][0]["dns_sd_configs"][0];
    assert_eq!(words(&found["names"]).into_iter().collect::<BTreeSet<_>>(), all_workers());
    assert_eq!(found["port"], admin);
}

#[test]
fn s8_08_paths_that_the_files_name_are_there() {
    let compose = document("deploy/compose/compose.yaml");
    for (name, service) in compose["services"].as_object().expect("services") {
        let mounted = service["volumes"].as_array().into_iter().flatten();
        let files = mounted.filter_map(|volume| volume.as_str()?.split(':').next());
        let files = files.chain(service["env_file"].as_str());
        // What `prepare` makes comes later; volumes of docker have no path.
        let is_kept = |file: &&str| {
            let is_made = ["./secrets", "./data"].iter().any(|made| file.starts_with(made));
            file.starts_with('.') && !is_made
        };
        for file in files.filter(is_kept) {
            let path = brigade_tests::deploy::path("deploy/compose").join(file);
            assert!(path.exists(), "{name}: there is no {file}");
        }
    }
    for folder in ["deploy/kubernetes", "deploy/kubernetes/jobs"] {
        let list = document(&format!("{folder}/kustomization.yaml"));
        for file in words(&list["resources"]) {
            assert!(brigade_tests::deploy::path(folder).join(file).exists(), "{folder}/{file}");
        }
    }
    // What the program is compiled of is sent to the builder.
    let sent = read(".dockerignore");
    for what in ["contracts", "migrations", "nats", "workers", ".sqlx", "Cargo.lock"] {
        assert!(sent.lines().any(|line| line == format!("!{what}")), "{what}");
    }
}
