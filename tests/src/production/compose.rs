//! The processes of `deploy/compose`, on the servers of the page: each with the command line, the
//! settings and the folders of its service.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::Command;

use super::{Production, setting};
use crate::{
    deploy,
    process::{Process, brigade},
};

impl Production {
    /// Starts the process of a service.
    #[must_use]
    pub fn start_service(&self, service: &Value) -> Process {
        Process::begin(self.command_of(service, &deploy::words(&service["command"])))
    }

    /// Runs the process of a service that ends, and returns how it ended.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn run_service(&self, service: &Value) -> Output {
        let command = self.command_of(service, &deploy::words(&service["command"]));
        output(command).await
    }

    /// Runs the probe of a service, of a process that serves at this address.
    ///
    /// # Panics
    /// Where the service has no probe of the program itself.
    pub async fn probe(&self, service: &Value, admin: &str) -> Output {
        let test = deploy::words(&service["healthcheck"]["test"]);
        let ["CMD", "/brigade", words @ ..] = &test[..] else { panic!("{test:?}") };
        let mut command = self.command_of(service, words);
        command.env("BRIGADE_ADMIN_ADDR", admin.trim_start_matches("http://"));
        output(command).await
    }

    /// Returns the command of a container: the image's settings, then those of the file, then those
    /// of the service.
    fn command_of(&self, service: &Value, words: &[&str]) -> Command {
        let inside = |text: &str| self.inside(service, text);
        let mut command = brigade(&inside(&words.join(" ")));
        command.envs(deploy::of_image().iter().map(|(name, value)| (name, inside(value))));
        let file = service["env_file"].as_str().expect("a file with settings");
        let text = deploy::read(&format!("deploy/compose/{file}"));
        let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(setting);
        command.envs(lines.map(|(name, value)| (name, inside(&value))));
        let own = service["environment"].as_object().into_iter().flatten();
        command.envs(own.map(|(name, value)| (name, inside(value.as_str().expect("text")))));
        command
    }

    /// Replaces the folders that a container sees by those of here, and its ports by free ones.
    fn inside(&self, service: &Value, text: &str) -> String {
        let mut text = text.to_owned();
        for volume in deploy::words(&service["volumes"]) {
            let mut parts = volume.split(':');
            let (Some(outside), Some(inside)) = (parts.next(), parts.next()) else {
                panic!("{volume}")
            };
            let secrets = outside.strip_prefix("./secrets/").expect("a folder of `prepare`");
            let here = match secrets {
                "accounts" => "/etc/nats/accounts".to_owned(),
                of_brigade => format!("/etc/{of_brigade}"),
            };
            text = text.replace(inside, &self.path(&here).display().to_string());
        }
        text.replace("0.0.0.0:9100", "127.0.0.1:0").replace("0.0.0.0:8443", "127.0.0.1:0")
    }
}

async fn output(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).output().await.expect("it runs")
}
