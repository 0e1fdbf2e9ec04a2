//! One endpoint: its route in the gateway, made from the store and from what the targets observe; or its removal.

use std::{collections::BTreeMap, sync::Arc};

use moorline_core::{Desired, Digest, ErrorClass, Name, ReplicaState};
use moorline_gateway::{Auth, DeploymentRoute, EndpointRoute, ReplicaRoute};
use moorline_store::{RecordKind, StoreError};

use super::{Next, Reconciler};
use crate::{
    route_settings,
    status::{DeploymentState, EndpointBody, key_names, split_record_name},
    targets::own_server,
};

impl Reconciler {
    pub(super) async fn reconcile_endpoint(&self, workspace: &Name, endpoint: &Name) -> Next {
        match self.sync(workspace, endpoint).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%workspace, %endpoint, %error, "could not make an endpoint's route; it is tried again");
                Next::Retry
            }
        }
    }

    /// Makes the gateway's route of this endpoint what the store says, before it returns.
    pub(crate) async fn sync_endpoint(&self, workspace: &Name, endpoint: &Name) {
        if self.reconcile_endpoint(workspace, endpoint).await != Next::Rest {
            self.nudge_endpoint(workspace.clone(), endpoint.clone());
        }
    }

    async fn sync(&self, workspace: &Name, endpoint: &Name) -> Result<Next, StoreError> {
        let inner = &self.0;
        // Two makers of one route at a time could set the older one last.
        let turn = inner.route_turn(workspace, endpoint);
        let _turn = turn.lock().await;
        let record = match inner.store.record(workspace, RecordKind::Endpoint, endpoint.as_str()).await {
            Ok(record) => record,
            Err(error) if error.class() == ErrorClass::NotFound => {
                inner.gateway.remove(workspace, endpoint);
                inner.targets.withdraw(workspace, endpoint);
                return Ok(Next::Rest);
            }
            Err(error) => return Err(error),
        };
        let body: EndpointBody = match serde_json::from_value(record.body) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%workspace, %endpoint, %error, "the record of an endpoint cannot be read");
                return Ok(Next::Rest);
            }
        };
        let deployments = self.deployments_of(workspace, endpoint).await?;
        if body.deleting && deployments.is_empty() {
            return self.remove_endpoint(workspace, endpoint, &body).await;
        }
        let mut routes = BTreeMap::new();
        let mut active = BTreeMap::new();
        for (name, state) in deployments {
            if let Some(serving) = state.status.active.as_ref().filter(|_| !state.body.deleting) {
                routes.insert(name.clone(), self.deployment_route(serving, &state).await);
                active.insert(name, serving.clone());
            }
        }
        let auth = self.auth(workspace, endpoint, &body).await?;
        let route = EndpointRoute {
            workspace: workspace.clone(),
            name: endpoint.clone(),
            auth,
            traffic: route_settings::shares(&body.document["traffic"], &routes),
            mirror: route_settings::shares(&body.document["mirror_traffic"], &routes).pop(),
            deployments: routes,
        };
        inner.targets.publish(&route, &active);
        inner.gateway.set(route);
        Ok(Next::Rest)
    }

    async fn deployments_of(
        &self,
        workspace: &Name,
        endpoint: &Name,
    ) -> Result<Vec<(Name, DeploymentState)>, StoreError> {
        let records = self.0.store.deployments_of(workspace, endpoint).await?;
        let read = |record: moorline_store::Record| {
            let (_, name) = split_record_name(&record.name)?;
            match DeploymentState::read(&record) {
                Ok(state) => Some((name, state)),
                Err(error) => {
                    tracing::error!(deployment = record.name, %error, "the record of a deployment cannot be read");
                    None
                }
            }
        };
        Ok(records.into_iter().filter_map(read).collect())
    }

    async fn deployment_route(&self, serving: &Desired, state: &DeploymentState) -> DeploymentRoute {
        let replicas = match self.0.targets.observe(serving).await {
            Ok(observation) => observation.replicas,
            Err(error) => {
                tracing::warn!(deployment = %serving.id, %error, "could not observe a deployment");
                Vec::new()
            }
        };
        let ready = replicas.into_iter().filter(|replica| replica.state == ReplicaState::Ready);
        let replicas = ready
            .filter_map(|replica| Some(ReplicaRoute { id: replica.id, address: replica.address?.data }))
            .collect();
        // While an update is rolled out, the settings that are asked for hold already: they bound requests, and the
        // replicas of both revisions take them.
        let settings = route_settings::of(&state.body.desired.release.request_settings);
        DeploymentRoute {
            id: serving.id.clone(),
            replicas,
            request_timeout: settings.request_timeout,
            max_concurrent_per_replica: settings.max_concurrent_per_replica,
            max_queue_wait: settings.max_queue_wait,
            can_scale_from_zero: serving.scale.bounds().0 == 0,
            scoring_path: own_server(serving).map(|routes| routes.scoring_route.path),
        }
    }

    async fn auth(&self, workspace: &Name, endpoint: &Name, body: &EndpointBody) -> Result<Auth, StoreError> {
        if body.document["auth_mode"].as_str().is_some_and(|mode| mode != "key") {
            return Ok(Auth::Token);
        }
        let mut hashes = Vec::new();
        for key in key_names(endpoint) {
            if let Some((_, secret)) = self.0.store.secret(workspace, &key).await? {
                hashes.push(Digest::of(secret.expose().as_bytes()));
            }
        }
        Ok(<[Digest; 2]>::try_from(hashes).map_or(Auth::Token, |hashes| Auth::Key { hashes }))
    }

    async fn remove_endpoint(
        &self,
        workspace: &Name,
        endpoint: &Name,
        body: &EndpointBody,
    ) -> Result<Next, StoreError> {
        let store = &self.0.store;
        self.0.gateway.remove(workspace, endpoint);
        self.0.targets.withdraw(workspace, endpoint);
        for key in key_names(endpoint) {
            match store.delete_secret(workspace, &key).await {
                Err(error) if error.class() != ErrorClass::NotFound => return Err(error),
                _ => {}
            }
        }
        match store.delete_record(workspace, RecordKind::Endpoint, endpoint.as_str()).await {
            Err(error) if error.class() != ErrorClass::NotFound => return Err(error),
            _ => {}
        }
        if let Some(operation) = &body.operation {
            self.0.operations.succeed(operation).await;
        }
        tracing::info!(%workspace, %endpoint, "endpoint deleted");
        Ok(Next::Rest)
    }
}

impl super::Inner {
    /// The turn of those who make this endpoint's route.
    fn route_turn(&self, workspace: &Name, endpoint: &Name) -> super::Turn {
        let mut turns = self.turns.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Those that nobody holds are of no use any more.
        if turns.len() > 1024 {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(turns.entry((workspace.clone(), endpoint.clone())).or_default())
    }
}
