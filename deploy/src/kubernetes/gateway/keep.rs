//! The server's side of a namespace's gateway: its objects and its routes are kept as they should be, and what it counts is
//! asked for.

use std::{
    collections::HashSet,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    future::{BoxFuture, join_all},
    stream::{FuturesUnordered, StreamExt},
};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, ResourceExt};
use moorline_core::{Backoff, DeploymentId, ErrorClass, Name, ReplicaState, TargetError};
use serde_json::Value;
use tokio::{sync::Notify, task::JoinHandle, time::sleep};

use super::super::{
    error::ClusterError,
    names::{self, OWNER},
    served::Kind,
    target::Context,
    write::{Writer, identity},
};
use super::{
    ADMIN_PORT,
    objects::{self, GatewaySettings},
    report::{DeploymentReport, GatewayReport, Reports},
    routes::{self, PublishedEndpoint, ROUTES, Routes},
};
use crate::{local::OnChange, probe};

/// Between two looks at what no watch spoke of.
const RESYNC: Duration = Duration::from_mins(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Between two questions to the gateways, which is how long a request for what sleeps waits at most before it is noticed.
const ASKED_EVERY: Duration = Duration::from_secs(1);
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// Of one report.
const MOST_BYTES: usize = 16 << 20;

/// Makes the gateway's image, or finds it made, where the cluster can pull it; its reference.
pub type ImageSupply = Arc<dyn Fn() -> BoxFuture<'static, Result<String, TargetError>> + Send + Sync>;

/// What a gateway's keeper asks of whoever wires it.
#[derive(Clone)]
pub struct GatewayHooks {
    pub image: ImageSupply,
    /// Told of deployments for which requests wait at a gateway; again and again.
    pub waited_for: OnChange,
}

impl fmt::Debug for GatewayHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayHooks").finish_non_exhaustive()
    }
}

/// The gateway of one namespace. It is there while it has a route.
#[derive(Debug)]
pub(in super::super) struct NamespaceGateway {
    context: Arc<Context>,
    settings: GatewaySettings,
    hooks: GatewayHooks,
    state: Mutex<State>,
    /// Held by who writes to the cluster.
    writing: tokio::sync::Mutex<()>,
    wake: Arc<Notify>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    routes: Routes,
    image: Option<String>,
    reports: Reports,
}

impl NamespaceGateway {
    /// Takes up what is there: its routes stay until they are published anew or not known any more.
    pub(in super::super) async fn open(
        context: Arc<Context>,
        settings: GatewaySettings,
        hooks: GatewayHooks,
        wake: Arc<Notify>,
    ) -> Result<Arc<Self>, ClusterError> {
        let routes = if context.cache.object(&settings.name, Kind::Secret, &settings.name).is_some() {
            present_routes(&context, &settings.name).await?
        } else {
            Routes::new()
        };
        let own = Arc::new(Self {
            context,
            settings,
            hooks,
            state: Mutex::new(State { routes, ..State::default() }),
            writing: tokio::sync::Mutex::default(),
            wake,
            tasks: Mutex::default(),
        });
        let tasks = vec![tokio::spawn(Arc::clone(&own).run()), tokio::spawn(Arc::clone(&own).ask())];
        *own.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(own)
    }

    /// Says what an endpoint's route is now.
    pub(in super::super) fn publish(&self, route: PublishedEndpoint) {
        let key = (route.workspace.clone(), route.name.clone());
        let before = self.state().routes.insert(key, route.clone());
        if before.as_ref() != Some(&route) {
            self.wake.notify_one();
        }
    }

    pub(in super::super) fn withdraw(&self, workspace: &Name, endpoint: &Name) {
        if self.state().routes.remove(&(workspace.clone(), endpoint.clone())).is_some() {
            self.wake.notify_one();
        }
    }

    /// Withdraws what none of these deployments is of.
    pub(in super::super) fn settle(&self, known: &[DeploymentId]) {
        let mut state = self.state();
        state.routes.retain(|(workspace, endpoint), _| {
            known.iter().any(|id| id.workspace == *workspace && id.endpoint == *endpoint)
        });
        state.reports.retain(|id| known.contains(id));
        drop(state);
        self.wake.notify_one();
    }

    /// Refuses what would keep the gateway from running, before anything needs it.
    pub(in super::super) async fn admit(&self) -> Result<(), TargetError> {
        objects::objects(&self.context.look, &self.settings, "", b"[]")?;
        self.check().await
    }

    /// What its pods count of a deployment, together.
    pub(in super::super) fn report(&self, id: &DeploymentId) -> DeploymentReport {
        self.state().reports.of(id)
    }

    pub(in super::super) fn leave(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|task| task.abort());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> Writer<'_> {
        Writer { context: &self.context, name: &self.settings.name }
    }

    async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        loop {
            let pause = match Box::pin(self.round()).await {
                Ok(()) => {
                    backoff.forget();
                    RESYNC
                }
                Err(error) => {
                    tracing::warn!(
                        gateway = self.settings.name,
                        error = crate::chain(&error),
                        "could not look after a gateway; it is tried again"
                    );
                    backoff.next_pause().min(LONGEST_PAUSE)
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    async fn round(&self) -> Result<(), TargetError> {
        let _turn = self.writing.lock().await;
        let text = {
            let state = self.state();
            (!state.routes.is_empty()).then(|| routes::write(&state.routes))
        };
        let Some(text) = text else { return Ok(self.remove(&[]).await?) };
        let image = self.image().await?;
        let wanted = objects::objects(&self.context.look, &self.settings, &image, &text)?;
        if self.context.cache.names(&self.settings.name).is_empty() {
            self.check().await?;
        }
        self.writer().write(&wanted).await?;
        Ok(self.remove(&wanted).await?)
    }

    /// Removes what is there and not wanted, pods first.
    async fn remove(&self, wanted: &[Value]) -> Result<(), ClusterError> {
        let wanted: HashSet<_> = wanted.iter().filter_map(identity).collect();
        for (kind, name) in self.context.cache.names(&self.settings.name).into_iter().rev() {
            let live = self.context.cache.object(&self.settings.name, kind, &name);
            let ending = live.is_some_and(|live| !live["metadata"]["deletionTimestamp"].is_null());
            if !ending && !wanted.contains(&(kind, name.clone())) {
                self.writer().delete(kind, &name).await?;
            }
        }
        Ok(())
    }

    async fn image(&self) -> Result<String, TargetError> {
        if let Some(image) = self.state().image.clone() {
            return Ok(image);
        }
        let image = (self.hooks.image)().await?;
        self.state().image = Some(image.clone());
        Ok(image)
    }

    /// Its account has to be there, and its name must not be another's.
    async fn check(&self) -> Result<(), TargetError> {
        let (name, namespace) = (&self.settings.name, &self.context.look.namespace);
        let failed = |error| ClusterError::of(format!("could not look for the gateway `{name}`"), error);
        let client = &self.context.cluster.client;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        if accounts.get_opt(name).await.map_err(failed)?.is_none() {
            return Err(TargetError::new(
                ErrorClass::InvalidInput,
                format!(
                    "the compute has a gateway, and the namespace `{namespace}` has no ServiceAccount `{name}` for it: apply what `moorline kubernetes rbac --namespace {namespace} --gateway {name}` prints"
                ),
            ));
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let found = secrets.get_metadata_opt(name).await.map_err(failed)?;
        let owner = names::owner_label(&self.context.look.owner);
        if found.is_some_and(|found| found.labels().get(OWNER) != Some(&owner)) {
            return Err(TargetError::new(
                ErrorClass::Conflict,
                format!(
                    "the namespace `{namespace}` has something called `{name}` that is not this compute's: give the compute's gateway another `name`"
                ),
            ));
        }
        Ok(())
    }

    /// Asks every gateway what it has counted, again and again.
    async fn ask(self: Arc<Self>) {
        loop {
            sleep(ASKED_EVERY).await;
            let pods = self.context.cache.pods(&self.settings.name);
            let there: HashSet<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
            let ready = pods.iter().filter(|pod| pod.state() == ReplicaState::Ready);
            let addressed: Vec<(&str, SocketAddr)> = ready
                .filter_map(|pod| {
                    let address = match &self.context.forwards {
                        Some(forwards) => forwards.address(&pod.name, ADMIN_PORT)?,
                        None => (pod.ip?, ADMIN_PORT).into(),
                    };
                    Some((pod.name.as_str(), address))
                })
                .collect();
            let asked = addressed.iter().map(|(pod, address)| async move { (*pod, report(*address).await) });
            let mut answers: FuturesUnordered<_> = asked.collect();
            while let Some((pod, answer)) = answers.next().await {
                match answer {
                    Ok(report) => self.state().reports.take(pod, report),
                    // One that is slow or about to go is asked again.
                    Err(error) => tracing::debug!(pod, %error, "a gateway did not say what it has counted"),
                }
            }
            self.state().reports.keep(&there);
            let waited_for = self.state().reports.waited_for();
            for id in waited_for {
                (self.hooks.waited_for)(id);
            }
        }
    }
}

impl Drop for NamespaceGateway {
    fn drop(&mut self) {
        self.leave();
    }
}

async fn report(address: SocketAddr) -> std::io::Result<GatewayReport> {
    let body = probe::read(address, "/report", ANSWERED_WITHIN, MOST_BYTES).await?;
    serde_json::from_slice(&body).map_err(std::io::Error::other)
}

async fn present_routes(context: &Context, name: &str) -> Result<Routes, ClusterError> {
    let secrets: Api<Secret> = Api::namespaced(context.cluster.client.clone(), &context.look.namespace);
    let what = || format!("could not read the routes of the gateway `{name}`");
    let found = secrets.get_opt(name).await.map_err(|error| ClusterError::of(what(), error))?;
    let text = found.and_then(|secret| secret.data).and_then(|mut data| data.remove(ROUTES));
    let Some(text) = text else { return Ok(Routes::new()) };
    routes::read(&text.0).or_else(|error| {
        // The endpoints are published anew soon.
        tracing::warn!(gateway = name, %error, "the routes of a gateway cannot be read");
        Ok(Routes::new())
    })
}

/// Removes gateways of this owner that no compute asks for any more.
pub(in super::super) async fn remove_others(context: &Context, own: Option<&str>) {
    let others: Vec<String> =
        context.cache.groups().into_iter().filter(|group| Some(group.as_str()) != own).collect();
    let gone = others.iter().map(|group| async move {
        let writer = Writer { context, name: group };
        let mut kinds = context.cache.names(group);
        // They are watched only where a gateway is asked for.
        kinds.extend(Kind::WAYS_IN.map(|kind| (kind, group.clone())));
        for (kind, name) in kinds.into_iter().rev() {
            match writer.delete(kind, &name).await {
                Ok(()) => {}
                // What we may not remove we may not have made.
                Err(error) if error.class() == ErrorClass::Forbidden => {}
                Err(error) => {
                    tracing::warn!(gateway = group, %error, "could not remove a gateway that nobody asks for");
                }
            }
        }
    });
    join_all(gone).await;
}
