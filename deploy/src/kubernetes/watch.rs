//! What a cluster has of ours, as its watches tell it: every kind is listed once and watched from there on, so that
//! nothing is asked for again. A watch that breaks is taken up by the library, by another list where it has to be.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, StreamExt, future::try_join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource,
    core::{DynamicObject, ObjectMeta, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use moorline_core::DeploymentId;
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    cluster::Cluster,
    error::ClusterError,
    names::{self, DEPLOYMENT, OWNER},
    pods::SeenPod,
    served::Kind,
};

/// Objects of one answer to a list.
const PAGE: u32 = 500;

/// What happened to whom: the name of a deployment's objects.
pub(super) type OnEvent = Arc<dyn Fn(&str) + Send + Sync>;

/// The objects and pods of one owner, by the name that its deployment's objects have.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<String, Known>>);

#[derive(Default)]
struct Known {
    id: Option<DeploymentId>,
    objects: BTreeMap<(Kind, String), Object>,
    pods: BTreeMap<String, (u64, SeenPod)>,
}

/// As text: most of the time nobody looks at it, and a tree of values is ten times as large.
struct Object {
    version: u64,
    text: Box<[u8]>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

/// Something of a deployment that was seen.
pub(super) struct Sight {
    deployment: String,
    id: Option<DeploymentId>,
    name: String,
    version: u64,
    body: Body,
}

enum Body {
    Object(Kind, Box<[u8]>),
    Pod(Box<SeenPod>),
}

impl Sight {
    /// Of an answer of the API server or a word of a watch.
    pub(super) fn of(kind: Kind, owner: &str, mut object: Value) -> Option<Self> {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        if kind == Kind::Secret {
            // Of a secret nothing has to be known but that it is there.
            for values in ["data", "stringData"] {
                object.as_object_mut()?.remove(values);
            }
        }
        let meta: ObjectMeta = serde_json::from_value(object["metadata"].clone()).ok()?;
        let text = serde_json::to_vec(&object).ok()?.into_boxed_slice();
        Self::new(owner, &meta, Body::Object(kind, text))
    }

    fn new(owner: &str, meta: &ObjectMeta, body: Body) -> Option<Self> {
        Some(Self {
            deployment: meta.labels.as_ref()?.get(DEPLOYMENT)?.clone(),
            id: meta.annotations.as_ref().and_then(|annotations| names::deployment_of(owner, annotations)),
            name: meta.name.clone()?,
            // Grows with every change (Kubernetes says so since 1.35, and etcd has always done it).
            version: meta
                .resource_version
                .as_ref()
                .and_then(|version| version.parse().ok())
                .unwrap_or(u64::MAX),
            body,
        })
    }
}

impl Cache {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was seen, unless something newer is known. Gives the deployment where it was news.
    pub(super) fn take(&self, sight: Sight) -> Option<String> {
        let mut all = self.lock();
        let known = all.entry(sight.deployment.clone()).or_default();
        if sight.id.is_some() {
            known.id = sight.id;
        }
        let news = match sight.body {
            Body::Object(kind, text) => {
                let object = Object { version: sight.version, text };
                let place = known.objects.entry((kind, sight.name));
                match place {
                    std::collections::btree_map::Entry::Occupied(known)
                        if known.get().version >= sight.version =>
                    {
                        false
                    }
                    std::collections::btree_map::Entry::Occupied(mut known) => {
                        known.insert(object);
                        true
                    }
                    std::collections::btree_map::Entry::Vacant(place) => {
                        place.insert(object);
                        true
                    }
                }
            }
            Body::Pod(pod) => {
                let newer = known.pods.get(&sight.name).is_none_or(|(version, _)| *version < sight.version);
                if newer {
                    known.pods.insert(sight.name, (sight.version, *pod));
                }
                newer
            }
        };
        news.then_some(sight.deployment)
    }

    fn drop_one(&self, sight: &Sight) -> Option<String> {
        let mut all = self.lock();
        let known = all.get_mut(&sight.deployment)?;
        match &sight.body {
            Body::Object(kind, _) => drop(known.objects.remove(&(*kind, sight.name.clone()))),
            Body::Pod(_) => drop(known.pods.remove(&sight.name)),
        }
        if known.objects.is_empty() && known.pods.is_empty() {
            all.remove(&sight.deployment);
        }
        Some(sight.deployment.clone())
    }

    /// After a list: what was not in it is gone. `kind` is none for pods.
    fn keep(&self, kind: Option<Kind>, listed: &HashSet<String>) -> Vec<String> {
        let mut changed = Vec::new();
        self.lock().retain(|deployment, known| {
            let before = known.objects.len() + known.pods.len();
            match kind {
                Some(kind) => known.objects.retain(|(own, name), _| *own != kind || listed.contains(name)),
                None => known.pods.retain(|name, _| listed.contains(name)),
            }
            let after = known.objects.len() + known.pods.len();
            if after != before {
                changed.push(deployment.clone());
            }
            after > 0
        });
        changed
    }

    pub(super) fn object(&self, deployment: &str, kind: Kind, name: &str) -> Option<Value> {
        let all = self.lock();
        let object = all.get(deployment)?.objects.get(&(kind, name.to_owned()))?;
        serde_json::from_slice(&object.text).ok()
    }

    pub(super) fn names(&self, deployment: &str) -> Vec<(Kind, String)> {
        let all = self.lock();
        all.get(deployment).map(|known| known.objects.keys().cloned().collect()).unwrap_or_default()
    }

    /// The oldest first.
    pub(super) fn pods(&self, deployment: &str) -> Vec<SeenPod> {
        let all = self.lock();
        let pods = all.get(deployment).map(|known| known.pods.values().map(|(_, pod)| pod.clone()));
        let mut pods: Vec<SeenPod> = pods.map(Iterator::collect).unwrap_or_default();
        pods.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
        pods
    }

    /// Every deployment of which there is anything.
    pub(super) fn deployments(&self) -> Vec<DeploymentId> {
        self.lock().values().filter_map(|known| known.id.clone()).collect()
    }

    /// The names of what belongs to no deployment, as a gateway's does.
    pub(super) fn groups(&self) -> Vec<String> {
        let all = self.lock();
        all.iter().filter(|(_, known)| known.id.is_none()).map(|(name, _)| name.clone()).collect()
    }

    /// What was removed by ourselves, before its watch says so.
    pub(super) fn forget(&self, deployment: &str, kind: Kind, name: &str) {
        if let Some(known) = self.lock().get_mut(deployment) {
            known.objects.remove(&(kind, name.to_owned()));
        }
    }
}

/// What is watched of an owner.
fn of_owner(label: &str) -> watcher::Config {
    watcher::Config::default().labels(&format!("{OWNER}={label}")).page_size(PAGE)
}

/// Watches the pods of an owner, by the value of its label, and returns once they were listed. The task goes on until it is
/// aborted.
pub(super) async fn watch_pods(
    cluster: &Cluster,
    label: &str,
    cache: &Arc<Cache>,
    on_event: &OnEvent,
) -> Result<JoinHandle<()>, ClusterError> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    // Whose deployment it is, nobody asks here.
    let (task, listed) = follow_pods(watcher(pods, of_owner(label)), "", cache, on_event);
    listed.await.unwrap_or(Ok(())).inspect_err(|_| task.abort())?;
    Ok(task)
}

/// Watches these kinds and pods, and returns once each was listed. The tasks go on until they are aborted.
pub(super) async fn watch(
    cluster: &Cluster,
    owner: &str,
    kinds: impl IntoIterator<Item = Kind>,
    cache: &Arc<Cache>,
    on_event: &OnEvent,
) -> Result<Vec<JoinHandle<()>>, ClusterError> {
    let config = || of_owner(&names::owner_label(owner));
    let (client, namespace) = (&cluster.client, &cluster.namespace);
    let mut tasks = Vec::new();
    let mut listed = Vec::new();
    for kind in kinds {
        let Some(resource) = kind.resource(&cluster.served) else { continue };
        let (task, done) = if kind == Kind::Secret {
            // Of a secret nothing has to be known but that it is there.
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::namespaced_with(client.clone(), namespace, &resource);
            follow(watcher(api, config()), Some(kind), owner, cache, on_event)
        } else {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            follow(watcher(api, config()), Some(kind), owner, cache, on_event)
        };
        tasks.push(task);
        listed.push(done);
    }
    let pods = follow_pods(
        watcher(Api::<Pod>::namespaced(client.clone(), namespace), config()),
        owner,
        cache,
        on_event,
    );
    tasks.push(pods.0);
    listed.push(pods.1);
    let all = try_join_all(listed.into_iter().map(|done| async move {
        // A task that is gone says nothing more.
        done.await.unwrap_or(Ok(()))
    }));
    match all.await {
        Ok(_) => Ok(tasks),
        Err(error) => {
            tasks.iter().for_each(JoinHandle::abort);
            Err(error)
        }
    }
}

type Listed = oneshot::Receiver<Result<(), ClusterError>>;

fn follow<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    kind: Option<Kind>,
    owner: &str,
    cache: &Arc<Cache>,
    on_event: &OnEvent,
) -> (JoinHandle<()>, Listed)
where
    K: serde::Serialize + Send + 'static,
{
    let owner = owner.to_owned();
    let sight = move |object: K| Sight::of(kind?, &owner, serde_json::to_value(object).ok()?);
    run(events, kind, sight, cache, on_event)
}

fn follow_pods(
    events: impl Stream<Item = watcher::Result<Event<Pod>>> + Send + 'static,
    owner: &str,
    cache: &Arc<Cache>,
    on_event: &OnEvent,
) -> (JoinHandle<()>, Listed) {
    let owner = owner.to_owned();
    let sight = move |pod: Pod| {
        let seen = Box::new(SeenPod::of(&pod));
        Sight::new(&owner, pod.meta(), Body::Pod(seen))
    };
    run(events, None, sight, cache, on_event)
}

/// Takes a watch's events into the cache, until it is aborted.
fn run<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    kind: Option<Kind>,
    sight: impl Fn(K) -> Option<Sight> + Send + Sync + 'static,
    cache: &Arc<Cache>,
    on_event: &OnEvent,
) -> (JoinHandle<()>, Listed) {
    let (cache, on_event) = (Arc::clone(cache), Arc::clone(on_event));
    let (done, listed) = oneshot::channel();
    let what = kind.map_or("Pod", Kind::as_str);
    let task = tokio::spawn(async move {
        let mut done = Some(done);
        let mut names = HashSet::new();
        let mut events = std::pin::pin!(events.default_backoff());
        while let Some(event) = events.next().await {
            let news = match event {
                Ok(Event::Init) => {
                    names.clear();
                    Vec::new()
                }
                Ok(Event::InitApply(object)) => sight(object)
                    .and_then(|sight| {
                        names.insert(sight.name.clone());
                        cache.take(sight)
                    })
                    .into_iter()
                    .collect(),
                Ok(Event::InitDone) => {
                    if let Some(done) = done.take() {
                        // Nobody waits any more where another kind could not be listed.
                        let _ = done.send(Ok(()));
                    }
                    cache.keep(kind, &names)
                }
                Ok(Event::Apply(object)) => {
                    sight(object).and_then(|sight| cache.take(sight)).into_iter().collect()
                }
                Ok(Event::Delete(object)) => {
                    sight(object).and_then(|sight| cache.drop_one(&sight)).into_iter().collect()
                }
                Err(error) => {
                    let error = unwatched(what, error);
                    if let Some(done) = done.take() {
                        // The one that waits has gone only where another kind failed too.
                        let _ = done.send(Err(error));
                    } else {
                        tracing::warn!(%error, "a watch broke; it is taken up again");
                    }
                    Vec::new()
                }
            };
            for deployment in news {
                on_event(&deployment);
            }
        }
    });
    (task, listed)
}

fn unwatched(kind: &str, error: watcher::Error) -> ClusterError {
    let what = format!("could not watch the objects of kind {kind}");
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => ClusterError::of(what, error),
        watcher::Error::WatchError(status) => ClusterError::of(what, kube::Error::Api(status)),
        watcher::Error::NoResourceVersion => {
            ClusterError::new(moorline_core::ErrorClass::Unavailable, what, "an answer has no version")
        }
    }
}
