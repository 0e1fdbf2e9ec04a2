//! The routes: one immutable map that requests read without a lock, replaced whole when something changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use http::HeaderMap;
use moorline_core::{DeploymentId, Name};

use crate::{
    deployment::Deployment,
    headers,
    metrics::Metrics,
    problem::Problem,
    route::{Auth, EndpointRoute},
    split::{Share, Split},
};

/// The longest name that there is; of what is longer, an answer repeats no more.
const MAX_NAME: usize = 255;

type Endpoints = HashMap<String, Arc<Endpoint>>;

/// All endpoints by name.
#[derive(Debug, Default)]
pub(crate) struct Table {
    endpoints: ArcSwap<Endpoints>,
    /// Held by who replaces the map, never by a request.
    writer: Mutex<()>,
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    workspace: Name,
    pub(crate) name: Name,
    pub(crate) auth: Auth,
    split: Split,
    /// Who has the split's turns.
    shares: Vec<Arc<Deployment>>,
    mirror: Option<(Arc<Deployment>, Share)>,
    deployments: HashMap<String, Arc<Deployment>>,
}

impl Table {
    pub(crate) fn get(&self, endpoint: &str) -> Option<Arc<Endpoint>> {
        self.endpoints.load().get(endpoint).cloned()
    }

    pub(crate) fn deployment(&self, id: &DeploymentId) -> Option<Arc<Deployment>> {
        let endpoint = self.get(id.endpoint.as_str())?;
        endpoint.deployments.get(id.deployment.as_str()).filter(|found| found.id == *id).cloned()
    }

    pub(crate) fn set(&self, route: EndpointRoute, metrics: &Metrics) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.get(route.name.as_str());
        // Those that go are gone before those that come are made: they may have the same labels.
        if let Some(before) = &before {
            let stays =
                |id: &DeploymentId| route.deployments.get(&id.deployment).is_some_and(|new| new.id == *id);
            before.deployments.values().filter(|old| !stays(&old.id)).for_each(|old| old.remove());
        }
        let endpoint = Arc::new(Endpoint::new(route, before.as_deref(), metrics));
        self.replace(|endpoints| {
            endpoints.insert(endpoint.name.as_str().to_owned(), endpoint);
        });
    }

    pub(crate) fn remove(&self, workspace: &Name, endpoint: &Name, metrics: &Metrics) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gone) = self.get(endpoint.as_str()).filter(|found| found.workspace == *workspace) else {
            return;
        };
        self.replace(|endpoints| {
            endpoints.remove(endpoint.as_str());
        });
        gone.deployments.values().for_each(|deployment| deployment.remove());
        metrics.forget_endpoint(endpoint.as_str());
    }

    fn replace(&self, change: impl FnOnce(&mut Endpoints)) {
        let mut endpoints = Endpoints::clone(&self.endpoints.load());
        change(&mut endpoints);
        self.endpoints.store(Arc::new(endpoints));
    }
}

impl Endpoint {
    fn new(route: EndpointRoute, before: Option<&Self>, metrics: &Metrics) -> Self {
        let deployments: HashMap<String, Arc<Deployment>> = route
            .deployments
            .iter()
            .map(|(name, deployment)| {
                let known = before
                    .and_then(|before| before.deployments.get(name.as_str()))
                    .filter(|known| known.id == deployment.id);
                let known = known.map_or_else(
                    || {
                        let metrics = metrics.of_deployment(route.name.as_str(), name.as_str());
                        Arc::new(Deployment::new(deployment.id.clone(), metrics))
                    },
                    Arc::clone,
                );
                known.update(deployment);
                (name.as_str().to_owned(), known)
            })
            .collect();
        let named = |name: &Name| deployments.get(name.as_str()).cloned();
        let (shares, weights): (Vec<_>, Vec<u8>) =
            route.traffic.iter().filter_map(|(name, weight)| Some((named(name)?, *weight))).unzip();
        let split = Split::new(&weights);
        let mirror =
            route.mirror.as_ref().and_then(|(name, percent)| Some((named(name)?, Share::new(*percent))));
        Self {
            workspace: route.workspace,
            name: route.name,
            auth: route.auth,
            split: match before {
                Some(before) => split.resume(&before.split),
                None => split,
            },
            shares,
            mirror: mirror.map(|(deployment, share)| {
                let share = match before.and_then(|before| before.mirror.as_ref()) {
                    Some((_, old)) => share.resume(old),
                    None => share,
                };
                (deployment, share)
            }),
            deployments,
        }
    }

    /// The deployment that a request names, or else whose turn it is; with the mirror that gets a copy.
    pub(crate) fn choose(
        &self,
        headers: &HeaderMap,
    ) -> Result<(Arc<Deployment>, Option<Arc<Deployment>>), Problem> {
        if let Some(named) = headers.get(headers::DEPLOYMENT) {
            let named = String::from_utf8_lossy(named.as_bytes());
            let found = self.deployments.get(named.as_ref()).cloned();
            return found
                .map(|deployment| (deployment, None))
                .ok_or_else(|| Problem::NoDeployment { deployment: named.chars().take(MAX_NAME).collect() });
        }
        let turn = self.split.next().ok_or(Problem::NoTraffic)?;
        let mirror =
            self.mirror.as_ref().filter(|(_, share)| share.takes()).map(|(copy, _)| Arc::clone(copy));
        Ok((Arc::clone(&self.shares[turn]), mirror))
    }
}

/// The name of an endpoint that there is none of, no longer than a name can be.
pub(crate) fn unknown(endpoint: &str) -> Problem {
    Problem::NoEndpoint { endpoint: endpoint.chars().take(MAX_NAME).collect() }
}
