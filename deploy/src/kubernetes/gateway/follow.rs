//! The gateway's own side: its routes, and the pods that it sends requests to, as watches tell them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use moorline_core::{Backoff, ReplicaState};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{
    super::{
        cluster::Cluster,
        error::ClusterError,
        names::OWNER,
        watch::{Cache, OnEvent, watch_pods},
    },
    routes::{self, PublishedEndpoint, ROUTES},
};

/// Endpoints, and where the pods of each deployment take requests now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    pub endpoints: Vec<PublishedEndpoint>,
    places: Places,
}

/// The pods that are ready, by what the label says that they belong to.
type Places = Vec<(String, Vec<(String, IpAddr)>)>;

impl Followed {
    /// The pods with this label that take requests: their names and addresses.
    pub fn pods(&self, objects: &str, port: u16) -> Vec<(String, SocketAddr)> {
        let own = self.places.iter().find(|(own, _)| own == objects);
        let pods = own.into_iter().flat_map(|(_, pods)| pods);
        pods.map(|(name, ip)| (name.clone(), (*ip, port).into())).collect()
    }
}

/// Follows a gateway's routes and pods until it is dropped.
#[derive(Debug)]
pub struct Follower {
    followed: watch::Receiver<Followed>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Returns at once; there is nothing to see before the secret and the pods were read for the first time.
    pub fn begin(cluster: &Cluster, name: &str) -> Self {
        let (sender, followed) = watch::channel(Followed::default());
        let (cluster, name) = (cluster.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            let mut backoff = Backoff::default();
            // Watches heal by themselves; what ends them is refused, which may heal too.
            while let Err(error) = follow(&cluster, &name, &sender).await {
                tracing::warn!(gateway = name, %error, "the cluster does not say what there is; it is asked again");
                tokio::time::sleep(backoff.next_pause()).await;
            }
        });
        Self { followed, task }
    }

    /// What there is, as soon as it is another than when this was last called.
    pub async fn next(&mut self) -> Option<Followed> {
        self.followed.changed().await.ok()?;
        Some(self.followed.borrow_and_update().clone())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(cluster: &Cluster, name: &str, sender: &watch::Sender<Followed>) -> Result<(), ClusterError> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    // The role names the one secret that may be watched.
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut secrets = std::pin::pin!(watcher(secrets, config).default_backoff().applied_objects());
    let changed = Arc::new(Notify::new());
    let on_event: OnEvent = {
        let changed = Arc::clone(&changed);
        Arc::new(move |_| changed.notify_one())
    };
    let cache = Arc::new(Cache::default());
    let mut pods: Option<(String, Watch)> = None;
    let mut endpoints: Option<Vec<PublishedEndpoint>> = None;
    loop {
        tokio::select! {
            secret = secrets.next() => match secret {
                None => return Ok(()),
                Some(Err(error)) => tracing::warn!(%error, "the watch of the routes broke; it is taken up again"),
                Some(Ok(secret)) => {
                    let owner = secret.labels().get(OWNER).cloned().unwrap_or_default();
                    if pods.as_ref().is_none_or(|(known, _)| *known != owner) {
                        let task = watch_pods(cluster, &owner, &cache, &on_event).await?;
                        pods = Some((owner, Watch(task)));
                    }
                    let text = secret.data.and_then(|mut data| data.remove(ROUTES)).unwrap_or_default();
                    match routes::read(&text.0) {
                        Ok(routes) => endpoints = Some(routes.into_values().collect()),
                        Err(error) => tracing::error!(%error, "the routes cannot be read; those from before stay"),
                    }
                }
            },
            () = changed.notified() => {}
        }
        let Some(endpoints) = &endpoints else { continue };
        let followed = Followed { endpoints: endpoints.clone(), places: places(&cache, endpoints) };
        sender.send_if_modified(|known| {
            let news = *known != followed;
            *known = followed;
            news
        });
    }
}

struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn places(cache: &Cache, endpoints: &[PublishedEndpoint]) -> Places {
    let deployments = endpoints.iter().flat_map(|endpoint| endpoint.deployments.values());
    deployments
        .map(|deployment| {
            let pods = cache.pods(&deployment.objects);
            let ready = pods.into_iter().filter(|pod| pod.state() == ReplicaState::Ready);
            (deployment.objects.clone(), ready.filter_map(|pod| Some((pod.name, pod.ip?))).collect())
        })
        .collect()
}
