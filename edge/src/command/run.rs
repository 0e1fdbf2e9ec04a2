//! `moorline-edge run`: the agent.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use moorline_edge::{
    agent::{self, AgentConfig, BridgeConfig, GatewayConfig},
    containers::{Allowed, ContainersConfig},
    disk::QueueLimits,
    modules::ModulesConfig,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Of the agent's variables, those that a scorer needs to find its way on the machine.
const INHERITED: [&str; 9] =
    ["PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "ORT_DYLIB_PATH", "SSL_CERT_FILE"];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the device's state is kept
    #[arg(long, default_value = "/var/lib/moorline-edge")]
    folder: PathBuf,
    /// The program that serves releases
    #[arg(long, default_value = "/usr/bin/moorline-scorer")]
    scorer: PathBuf,
    /// Megabytes of disk for releases
    #[arg(long, default_value_t = 8192, value_name = "MB")]
    quota: u64,
    /// Kilobytes in a second for fetching releases; no bound without it
    #[arg(long, value_name = "KB")]
    bandwidth: Option<u64>,
    /// Where the device's own hub listens, for its modules' messages: 127.0.0.1:8883; it has none without this
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where the hub answers methods over HTTPS: 127.0.0.1:443
    #[arg(long, value_name = "ADDRESS", requires = "listen")]
    listen_https: Option<SocketAddr>,
    /// The name by which modules reach the hub
    #[arg(long, default_value = "localhost", requires = "listen")]
    host_name: String,
    /// Megabytes of messages that wait for the server; the oldest make space
    #[arg(long, default_value_t = 256, value_name = "MB", requires = "listen")]
    queue: u64,
    /// The socket of the device's Engine, for modules that are containers: /var/run/docker.sock; it runs none without this
    #[arg(long, value_name = "SOCKET")]
    engine: Option<PathBuf>,
    /// A folder of which containers may be given any part; may be said again
    #[arg(long, value_name = "FOLDER", requires = "engine")]
    allow_mount: Vec<PathBuf>,
    /// A device file that containers may be given; may be said again
    #[arg(long, value_name = "PATH", requires = "engine")]
    allow_device: Vec<PathBuf>,
    /// Containers may use GPUs
    #[arg(long, requires = "engine")]
    allow_gpus: bool,
    /// Containers may share the device's network
    #[arg(long, requires = "engine")]
    allow_host_network: bool,
    /// Containers may be privileged, and be given whatever the device has
    #[arg(long, requires = "engine")]
    allow_privileged: bool,
    /// Seconds between two messages with what the device and its modules measure
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    measure_every: u64,
    /// A file that names another broker, and what is carried from and to it
    #[arg(long, value_name = "FILE", requires = "listen")]
    bridge: Option<PathBuf>,
    /// Seconds for a version to become ready
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    start_timeout: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = std::path::absolute(&arguments.folder)
        .with_context(|| format!("could not find `{}`", arguments.folder.display()))?;
    let environment: BTreeMap<String, String> = INHERITED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?.into_string().ok()?)))
        .collect();
    let mut modules = ModulesConfig::new(arguments.scorer.clone(), folder.join("modules"), environment);
    modules.start_timeout = Duration::from_secs(arguments.start_timeout);
    let bridge = arguments.bridge.as_deref().map(BridgeConfig::read).transpose()?;
    let containers = arguments.engine.as_ref().map(|socket| {
        let allowed = Allowed {
            privileged: arguments.allow_privileged,
            host_network: arguments.allow_host_network,
            gpus: arguments.allow_gpus,
            mounts: arguments.allow_mount.clone(),
            devices: arguments.allow_device.clone(),
        };
        ContainersConfig::new(socket.clone(), allowed, &folder)
    });
    let config = AgentConfig {
        folder,
        modules,
        containers,
        quota: arguments.quota * 1_000_000,
        bandwidth: arguments.bandwidth.map(|kilobytes| kilobytes * 1000),
        gateway: arguments.listen.map(|mqtt| GatewayConfig {
            mqtt,
            https: arguments.listen_https,
            host_name: arguments.host_name.clone(),
            bridge: bridge.clone(),
            upstream: QueueLimits { max_bytes: arguments.queue * 1_000_000, ..QueueLimits::default() },
        }),
        renew_check: Duration::from_hours(1),
        measure_every: Duration::from_secs(arguments.measure_every),
    };
    // Small machines: two threads do for a connection and a few processes.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let end = CancellationToken::new();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let told = end.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.cancel();
        });
        Ok(agent::run(config, end).await?)
    })
}
