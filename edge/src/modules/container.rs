//! A version of a module in a container of the device's Engine: a release whose script needs an environment is an image. It is
//! started, asked and ended as a process is, beside the version before it, and reached at ports of this machine alone.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use moorline_core::Digest;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

use super::{ModuleError, Version};
use crate::{
    containers::{Allowed, Engine, EngineError, Spec, Usage, body},
    desired::ReleaseImage,
    images,
    manifest::Module,
};

/// Where our scorer listens in its image.
const DATA: &str = "5001/tcp";
const ADMIN: &str = "5000/tcp";
const TMP: &str = "rw,nosuid,nodev,size=256m,mode=1777";
/// Lines of a log that are told with an end.
const LAST_LINES: usize = 40;
/// Until the Engine is asked again about one that it did not wait for.
const POLL: Duration = Duration::from_secs(1);
/// For one to end that was told to: longer than its requests are given.
const STOP_SECONDS: u64 = 45;

/// Where versions run that are images.
#[derive(Debug)]
pub struct ContainerHost {
    engine: Arc<Engine>,
    owner: String,
    /// Those that this run of the agent has started, and not ended. Held while one is being made.
    alive: Mutex<Vec<String>>,
}

impl ContainerHost {
    /// Of the agent whose other containers are those of `owner`.
    pub(crate) fn new(engine: Arc<Engine>, owner: &str) -> Self {
        // Others than those that a document describes, which run on without the agent.
        let owner = Digest::of(format!("{owner} releases").as_bytes()).hex()[..16].to_owned();
        Self { engine, owner, alive: Mutex::default() }
    }

    /// Removes what a run before this one left: nobody is led there any more.
    pub(super) async fn remove_strays(&self) -> Result<(), EngineError> {
        let alive = self.alive.lock().await;
        for found in self.engine.containers(&self.owner, None).await? {
            if !alive.contains(&found.id) {
                tracing::info!(module = found.module, "removes a container that a run before this one left");
                self.engine.remove(&found.id).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn log(&self, id: &str, lines: usize, bytes: usize) -> Result<String, EngineError> {
        self.engine.log(id, lines, bytes).await
    }

    pub(super) async fn usage(&self, id: &str) -> Option<Usage> {
        self.engine.usage(id).await
    }
}

/// A container that runs. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Container {
    host: Arc<ContainerHost>,
    id: String,
    gone: bool,
}

impl Container {
    pub(super) async fn start(
        name: &str,
        version: &Version,
        image: &ReleaseImage,
        environment: BTreeMap<String, String>,
        host: &Arc<ContainerHost>,
    ) -> Result<Self, ModuleError> {
        let spec = Spec {
            name: name.to_owned(),
            module: Module {
                image: images::name(&image.digest),
                create_options: options(image),
                ..Module::default()
            },
            credentials: None,
            environment,
            sockets: version.sockets.clone(),
            hub_name: version.hub_name.clone(),
        };
        let (mut body, revision) =
            body(&spec, &host.owner, &Allowed::default()).map_err(ModuleError::Options)?;
        // Under the module's name nobody may find a version that has not proved itself.
        body.networking_config = None;
        let mut alive = host.alive.lock().await;
        host.engine.network().await?;
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|_| ModuleError::Random)?;
        let own = format!("{name}-{}-{:08x}", &revision[..8], u32::from_ne_bytes(random));
        let id = host.engine.create(&own, body).await?;
        alive.push(id.clone());
        drop(alive);
        let container = Self { host: Arc::clone(host), id, gone: false };
        host.engine.start(&container.id).await?;
        Ok(container)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Where it takes requests and tells its metrics, once the Engine has published its ports.
    pub(super) async fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let seen = self.host.engine.inspect(&self.id).await.ok()?;
        let ports = seen.network_settings?.ports?;
        let address = |port: &str| {
            let bindings = ports.get(port)?.as_ref()?;
            let port = bindings.iter().find_map(|binding| binding.host_port.as_ref()?.parse::<u16>().ok())?;
            Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        Some((address(DATA)?, address(ADMIN)?))
    }

    /// How it ended, once it has. May be asked again.
    pub(super) async fn wait(&self) -> (String, Option<i32>) {
        loop {
            match self.host.engine.wait(&self.id).await {
                Ok(Some(code)) => {
                    let code = i32::try_from(code).unwrap_or(-1);
                    return (format!("exited with code {code}"), Some(code));
                }
                Ok(None) => return ("was removed".to_owned(), None),
                // The Engine is being started again, it may be: what became of the container is seen then.
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "could not wait for a container"
                    );
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }

    /// The end of its log, to be told with an error.
    pub(super) async fn last_words(&self, bytes: usize) -> String {
        self.host.log(&self.id, LAST_LINES, bytes).await.unwrap_or_default()
    }

    /// Lets it finish its requests, then removes it.
    pub(super) async fn end(mut self) {
        self.gone = true;
        let ended = async {
            self.host.engine.stop(&self.id).await?;
            self.host.engine.remove(&self.id).await
        };
        if let Err(error) = ended.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a container is not removed yet");
        }
        forget(&mut self.host.alive.lock().await, &self.id);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.gone {
            return;
        }
        let (host, id) = (Arc::clone(&self.host), std::mem::take(&mut self.id));
        runtime.spawn(async move {
            // One that stays is removed with what else nobody knows.
            let _ = host.engine.remove(&id).await;
            forget(&mut host.alive.lock().await, &id);
        });
    }
}

fn forget(alive: &mut MutexGuard<'_, Vec<String>>, id: &str) {
    alive.retain(|own| own != id);
}

/// What the Engine is told of the container, as our own container hosts are.
fn options(image: &ReleaseImage) -> serde_json::Map<String, serde_json::Value> {
    let published = json!([{ "HostIp": "127.0.0.1", "HostPort": "" }]);
    let mut host = json!({
        "PortBindings": { DATA: published, ADMIN: published },
        "ReadonlyRootfs": true,
        "CapDrop": ["ALL"],
        "Tmpfs": { "/tmp": TMP },
    });
    if let Some(memory) = image.memory_bytes {
        // No swap: what is over its memory is ended, not slowed down.
        (host["Memory"], host["MemorySwap"]) = (json!(memory), json!(memory));
    }
    if let Some(millis) = image.cpu_millis {
        host["NanoCpus"] = json!(u64::from(millis) * 1_000_000);
    }
    let options = json!({
        "ExposedPorts": { DATA: {}, ADMIN: {} },
        "HostConfig": host,
        "StopSignal": "SIGTERM",
        "StopTimeout": STOP_SECONDS,
    });
    options.as_object().cloned().unwrap_or_default()
}
