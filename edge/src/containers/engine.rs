//! The few things that are asked of an Engine.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    auth::DockerCredentials,
    errors::Error as Bollard,
    models::{ContainerCreateBody, ContainerInspectResponse, NetworkCreateRequest},
    query_parameters::{
        CreateContainerOptions, CreateImageOptions, ImportImageOptions, ListContainersOptions,
        ListImagesOptions, LogsOptions, RemoveContainerOptions, RemoveImageOptions, StatsOptions,
        StopContainerOptions, WaitContainerOptions,
    },
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use thiserror::Error;
use tokio::{sync::Mutex, time::timeout};

use super::{NETWORK, options::label};
use crate::manifest::Registry;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Until an answer begins: stopping takes as long as the container is given.
const ANSWER_WITHIN: u64 = 180;
/// A pull that moves nothing for so long is given up, and goes on with the layers that it has.
const STALLED: Duration = Duration::from_mins(5);
/// Images that are asked for their layers, the newest first.
const MOST_ASKED: usize = 100;

/// Why an Engine did not do what it was asked.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error("the Engine at `{}` cannot be reached", .0.display())]
    Unreachable(PathBuf, #[source] Box<Bollard>),
    #[error("the Engine at `{}` did not answer in time", .0.display())]
    Silent(PathBuf),
    #[error("{what}")]
    Refused { what: String, source: Box<Bollard> },
    #[error("the image `{0}` could not be fetched: nothing came for five minutes")]
    Stalled(String),
    #[error("the image `{0}` is not on the device, and imagePullPolicy is `never`")]
    NoImage(String),
}

fn refused(what: impl Into<String>) -> impl FnOnce(Bollard) -> EngineError {
    let what = what.into();
    move |source| EngineError::Refused { what, source: Box::new(source) }
}

/// A container of ours.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) module: String,
    pub(crate) revision: String,
    pub(crate) created: i64,
}

/// What a container takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub memory_bytes: f64,
}

/// An Engine of this device, which may start after its agent, and go away in between.
#[derive(Debug)]
pub(crate) struct Engine {
    socket: PathBuf,
    connected: Mutex<Option<Docker>>,
}

impl Engine {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, connected: Mutex::new(None) }
    }

    async fn docker(&self) -> Result<Docker, EngineError> {
        let mut connected = self.connected.lock().await;
        if let Some(docker) = &*connected {
            return Ok(docker.clone());
        }
        let unreachable = |error| EngineError::Unreachable(self.socket.clone(), Box::new(error));
        let client =
            Docker::connect_with_unix(&self.socket.to_string_lossy(), ANSWER_WITHIN, API_DEFAULT_VERSION)
                .map_err(unreachable)?;
        let agreed = timeout(CONNECT_WITHIN, client.negotiate_version()).await;
        let docker = agreed.map_err(|_| EngineError::Silent(self.socket.clone()))?.map_err(unreachable)?;
        *connected = Some(docker.clone());
        Ok(docker)
    }

    /// The containers of this owner; of one module alone if it is named.
    pub(crate) async fn containers(
        &self,
        owner: &str,
        module: Option<&str>,
    ) -> Result<Vec<Found>, EngineError> {
        let docker = self.docker().await?;
        let mut labels = vec![format!("{}={owner}", label("owner"))];
        labels.extend(module.map(|module| format!("{}={module}", label("module"))));
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let asked = timeout(CONNECT_WITHIN, docker.list_containers(Some(options))).await;
        let listed = asked.map_err(|_| EngineError::Silent(self.socket.clone()))?;
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                // It may be another one behind the same socket afterwards.
                *self.connected.lock().await = None;
                return Err(EngineError::Unreachable(self.socket.clone(), Box::new(error)));
            }
        };
        let found = listed.into_iter().filter_map(|container| {
            let labels = container.labels.unwrap_or_default();
            Some(Found {
                id: container.id?,
                module: labels.get(&label("module"))?.clone(),
                revision: labels.get(&label("revision"))?.clone(),
                created: container.created.unwrap_or_default(),
            })
        });
        Ok(found.collect())
    }

    pub(crate) async fn inspect(&self, id: &str) -> Result<ContainerInspectResponse, EngineError> {
        let docker = self.docker().await?;
        docker.inspect_container(id, None).await.map_err(refused("a container cannot be looked at"))
    }

    /// Whether the Engine has the image.
    pub(crate) async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        match self.docker().await?.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(Bollard::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(refused(format!("the Engine does not say whether it has `{image}`"))(error)),
        }
    }

    pub(crate) async fn pull(&self, image: &str, registry: Option<&Registry>) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        let credentials = registry.map(|registry| DockerCredentials {
            username: Some(registry.username.clone()),
            password: Some(registry.password.clone()),
            serveraddress: Some(registry.address.clone()),
            ..DockerCredentials::default()
        });
        // Without a tag, all of them would be fetched.
        let last = image.rsplit('/').next().unwrap_or(image);
        let tag = (!last.contains([':', '@'])).then(|| "latest".to_owned());
        let options =
            CreateImageOptions { from_image: Some(image.to_owned()), tag, ..CreateImageOptions::default() };
        let mut answers = std::pin::pin!(docker.create_image(Some(options), None, credentials));
        let stalled = |_| EngineError::Stalled(image.to_owned());
        while let Some(answer) = timeout(STALLED, answers.next()).await.map_err(stalled)? {
            answer.map_err(refused(format!("the image `{image}` could not be fetched")))?;
        }
        Ok(())
    }

    /// Loads what `docker save` would have written.
    pub(crate) async fn load(
        &self,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static,
    ) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let mut answers = std::pin::pin!(docker.import_image_stream(options, archive, None));
        let stalled = |_| EngineError::Silent(self.socket.clone());
        while let Some(answer) = timeout(STALLED, answers.next()).await.map_err(stalled)? {
            answer.map_err(refused("the image could not be loaded"))?;
        }
        Ok(())
    }

    /// How many of these layers some image of the Engine's begins with: it knows a layer by all that are below it. None,
    /// where it does not say.
    pub(crate) async fn leading_layers(&self, wanted: &[String]) -> usize {
        let Ok(docker) = self.docker().await else { return 0 };
        let listed = docker.list_images(None::<ListImagesOptions>).await.unwrap_or_default();
        let mut most = 0;
        for image in listed.iter().take(MOST_ASKED) {
            let Ok(found) = docker.inspect_image(&image.id).await else { continue };
            let layers = found.root_fs.and_then(|root| root.layers).unwrap_or_default();
            most = most.max(wanted.iter().zip(&layers).take_while(|(own, other)| own == other).count());
        }
        most
    }

    /// The names of the images of this repository.
    pub(crate) async fn names_of(&self, repository: &str) -> Result<Vec<String>, EngineError> {
        let filters = HashMap::from([("reference".to_owned(), vec![repository.to_owned()])]);
        let options = ListImagesOptions { filters: Some(filters), ..ListImagesOptions::default() };
        let listed = self.docker().await?.list_images(Some(options)).await;
        let listed = listed.map_err(refused("the Engine does not say which images it has"))?;
        let begin = format!("{repository}:");
        let names = listed.into_iter().flat_map(|image| image.repo_tags);
        Ok(names.filter(|name| name.starts_with(&begin)).collect())
    }

    /// Forgets a name of an image, and the image if it has no other. One that is in use stays.
    pub(crate) async fn forget_image(&self, name: &str) -> Result<(), EngineError> {
        match self.docker().await?.remove_image(name, None::<RemoveImageOptions>, None).await {
            Err(Bollard::DockerResponseServerError { status_code: 404 | 409, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(refused(format!("the image `{name}` could not be removed"))(error)),
        }
    }

    /// The code with which a container ends, once it has; `None` if there is no such container.
    pub(crate) async fn wait(&self, id: &str) -> Result<Option<i64>, EngineError> {
        let docker = self.docker().await?;
        let mut answers = std::pin::pin!(docker.wait_container(id, None::<WaitContainerOptions>));
        match answers.next().await {
            Some(Ok(answer)) => Ok(Some(answer.status_code)),
            Some(Err(Bollard::DockerContainerWaitError { code, .. })) => Ok(Some(code)),
            Some(Err(Bollard::DockerResponseServerError { status_code: 404, .. })) => Ok(None),
            Some(Err(error)) => Err(refused("a container cannot be waited for")(error)),
            None => Err(EngineError::Silent(self.socket.clone())),
        }
    }

    /// Makes the modules' network, if there is none.
    pub(crate) async fn network(&self) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        if docker.inspect_network(NETWORK, None).await.is_ok() {
            return Ok(());
        }
        let request = NetworkCreateRequest { name: NETWORK.to_owned(), ..NetworkCreateRequest::default() };
        match docker.create_network(request).await {
            Ok(_) => Ok(()),
            // Another module was first.
            Err(_) if docker.inspect_network(NETWORK, None).await.is_ok() => Ok(()),
            Err(error) => Err(refused("the modules' network could not be made")(error)),
        }
    }

    pub(crate) async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String, EngineError> {
        let docker = self.docker().await?;
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        let created = docker.create_container(Some(options), body).await;
        created.map(|created| created.id).map_err(refused("the container could not be made"))
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), EngineError> {
        let started = self.docker().await?.start_container(id, None).await;
        started.map_err(refused("the container could not be started"))
    }

    /// As the container itself says, or the Engine: with its signal and its time. One that does not run is as good.
    pub(crate) async fn stop(&self, id: &str) -> Result<(), EngineError> {
        match self.docker().await?.stop_container(id, None::<StopContainerOptions>).await {
            Err(Bollard::DockerResponseServerError { status_code: 304 | 404, .. }) | Ok(()) => Ok(()),
            Err(error) => Err(refused("the container could not be stopped")(error)),
        }
    }

    /// With its volumes that have no name. One that is gone is as good.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        match self.docker().await?.remove_container(id, Some(options)).await {
            Err(Bollard::DockerResponseServerError { status_code: 404 | 409, .. }) | Ok(()) => Ok(()),
            Err(error) => Err(refused("the container could not be removed")(error)),
        }
    }

    /// The end of its log.
    pub(crate) async fn log(&self, id: &str, lines: usize, bytes: usize) -> Result<String, EngineError> {
        let docker = self.docker().await?;
        let options =
            LogsOptions { stdout: true, stderr: true, tail: lines.to_string(), ..LogsOptions::default() };
        let mut pieces = std::pin::pin!(docker.logs(id, Some(options)));
        let mut log = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(refused("a container's log cannot be read"))?;
            log.extend_from_slice(&piece.into_bytes());
            if log.len() > 4 * bytes {
                log.drain(..log.len() - bytes);
            }
        }
        Ok(String::from_utf8_lossy(&log[log.len().saturating_sub(bytes)..]).into_owned())
    }

    pub(crate) async fn usage(&self, id: &str) -> Option<Usage> {
        let docker = self.docker().await.ok()?;
        let options = StatsOptions { stream: false, one_shot: true };
        let mut answers = std::pin::pin!(docker.stats(id, Some(options)));
        let stats = timeout(CONNECT_WITHIN, answers.next()).await.ok()??.ok()?;
        let nanoseconds = stats.cpu_stats?.cpu_usage?.total_usage?;
        let memory = stats.memory_stats?;
        let files = memory.stats.as_ref().and_then(|stats| stats.get("inactive_file")).copied().unwrap_or(0);
        Some(Usage {
            cpu_seconds: nanoseconds as f64 / 1e9,
            memory_bytes: memory.usage?.saturating_sub(files) as f64,
        })
    }
}
