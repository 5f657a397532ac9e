//! A process with workers in it: its HTTP servers, signals, drain.

use std::{future::Future, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use brigade_contracts::WorkerName;
use futures::future::join_all;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use crate::{
    fleet::{Instance, Servers},
    infra::{FailPoints, Metrics},
    runtime::http::{
        ApiOptions, HttpServer, ProcessStatus, RouterMount, TlsFiles, serve_admin, serve_api,
    },
};

/// A drain that takes longer is cut off: the process has promised to be gone within 10 s.
const DRAIN_LIMIT: Duration = Duration::from_millis(9500);

/// The addresses on which a process listens.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// The address of the API; it is used where edge is among the workers.
    pub http: SocketAddr,
    pub http_tls: Option<TlsFiles>,
    /// The address of `/livez`, `/readyz` and `/metrics`.
    pub admin: SocketAddr,
}

/// Workers that run in this process.
pub struct Process {
    /// The server of `/livez`, `/readyz` and `/metrics`.
    pub admin: HttpServer,
    /// The server of the API, if edge is among the workers.
    pub api: Option<HttpServer>,
    instances: Vec<Instance>,
    terminate: Signal,
    interrupt: Signal,
}

impl Process {
    /// Starts workers and listens. Workers connect on their own time: a server that is not there
    /// yet makes them unready, nothing else.
    ///
    /// # Errors
    /// If an address is taken, or the certificate cannot be used.
    pub async fn start(
        workers: Vec<(WorkerName, Servers)>,
        listeners: Listeners,
        fail_point: Option<&str>,
    ) -> Result<Self> {
        // Listened to before anything starts, so that no signal is lost.
        let (terminate, interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let metrics = Arc::new(Metrics::new());
        let fail = fail_points(fail_point);
        let mount = RouterMount::default();
        let edge = workers.iter().find(|(worker, _)| *worker == WorkerName::Edge);
        let api = edge.map(|(_, servers)| ApiOptions {
            mount: mount.clone(),
            ..servers.settings.http.clone()
        });
        let instances: Vec<_> = workers
            .into_iter()
            .map(|(worker, mut servers)| {
                servers.settings.http.mount = mount.clone();
                Instance::start(worker, servers, metrics.clone(), fail.clone())
            })
            .collect();
        let workers = instances.iter().map(|instance| instance.health.clone()).collect();
        let admin = serve_admin(listeners.admin, ProcessStatus { metrics, workers }).await?;
        let api = match api {
            Some(api) => Some(serve_api(listeners.http, listeners.http_tls, &api).await?),
            None => None,
        };
        Ok(Self { admin, api, instances, terminate, interrupt })
    }

    /// Runs until SIGTERM or SIGINT, then drains; a second signal ends the process at once. Calls
    /// `when_ready` once all workers are. Also ends, with failure, when `broken` tells why it
    /// cannot go on.
    ///
    /// # Errors
    /// If `broken` resolves.
    pub async fn until_signal(
        mut self,
        when_ready: impl FnOnce(),
        broken: impl Future<Output = anyhow::Error>,
    ) -> Result<ExitCode> {
        let mut when_ready = Some(when_ready);
        tokio::pin!(broken);
        let broken = loop {
            tokio::select! {
                _ = self.terminate.recv() => break None,
                _ = self.interrupt.recv() => break None,
                error = &mut broken => break Some(error),
                () = all_ready(&self.instances), if when_ready.is_some() => {
                    if let Some(when_ready) = when_ready.take() {
                        when_ready();
                    }
                }
            }
        };
        let instances = std::mem::take(&mut self.instances);
        tracing::info!("draining");
        let drain = async {
            join_all(instances.into_iter().map(Instance::stop)).await;
            if let Some(api) = self.api {
                api.stop().await;
            }
            self.admin.stop().await;
        };
        let drained = tokio::select! {
            drained = timeout(DRAIN_LIMIT, drain) => drained.is_ok(),
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
        };
        match broken {
            Some(error) => Err(error),
            None if drained => Ok(ExitCode::SUCCESS),
            None => anyhow::bail!("stopped before the drain was over"),
        }
    }
}

async fn all_ready(instances: &[Instance]) {
    while instances.iter().any(|instance| instance.health.ready().is_err()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(feature = "fail-points")]
fn fail_points(point: Option<&str>) -> FailPoints {
    FailPoints::of_process(point)
}

#[cfg(not(feature = "fail-points"))]
fn fail_points(_point: Option<&str>) -> FailPoints {
    FailPoints
}
