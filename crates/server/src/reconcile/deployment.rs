//! One deployment: resolve, environment, start, ready; or its removal.

use std::collections::BTreeMap;

use moorline_core::{
    DeploymentId, Desired, ErrorClass, Failure, Name, Observation, Phase, Placement, Source, TargetError,
    TargetKind, Variable,
};
use moorline_deploy::Progress;
use moorline_store::{RecordKind, StoreError};

use super::{Next, Reconciler, queue::Signal};
use crate::{
    problem::chain,
    rollout::Outcome,
    secrets,
    status::{DeploymentState, DeploymentStatus, EndpointBody, deployment_record_name},
    targets::{Targets, own_server},
};

/// Why a round ended before its end.
enum Interrupted {
    /// Another generation is desired now.
    Superseded,
    /// This generation cannot be had.
    Failed(Failure),
    /// Something of ours did not work; the same round may work later.
    Ours(String),
}

impl Reconciler {
    pub(super) async fn reconcile_deployment(&self, id: &DeploymentId, signal: &Signal) -> Next {
        let state = match self.state(id).await {
            Ok(state) => state,
            Err(error) => return ours(id, &error),
        };
        let Some(state) = state else {
            self.0.scalers.forget(id);
            return match self.0.targets.remove_everywhere(id).await {
                Ok(()) => Next::Rest,
                Err(error) => ours(id, &error),
            };
        };
        if state.body.deleting {
            return self.delete(id, &state).await;
        }
        if state.settled() {
            return match &state.status.active {
                Some(active) => self.hold(id, active, state.status.image()).await,
                None => Next::Rest,
            };
        }
        match Box::pin(self.roll_out(id, &state, signal)).await {
            Ok(source) => Box::pin(self.succeed(id, &state, source)).await,
            Err(Interrupted::Superseded) => Next::Again,
            Err(Interrupted::Failed(failure)) => self.fail(id, &state, failure).await,
            Err(Interrupted::Ours(reason)) => {
                tracing::warn!(deployment = %id, reason, "a rollout could not continue; it is tried again");
                self.log(&state, &format!("{reason}; trying again")).await;
                Next::Retry
            }
        }
    }

    /// A secret has another value. Modules of devices are given it now: they run for months, and nothing else starts them
    /// anew.
    pub(crate) async fn secret_changed(&self, workspace: &Name, secret: &str) -> Result<(), StoreError> {
        for record in self.0.store.records(RecordKind::Deployment, Some(workspace)).await? {
            let Ok(state) = DeploymentState::read(&record) else { continue };
            let desired = &state.body.desired;
            let values = desired.release.environment_variables.values();
            let used = values.filter_map(|value| secrets::reference(value)).any(|own| own == secret);
            if used && desired.runs_on().1 == TargetKind::Edge {
                self.nudge(desired.id.clone());
            }
        }
        Ok(())
    }

    /// Keeps what succeeded as it is: after a restart of the server, another number of replicas, or a failed update.
    async fn hold(&self, id: &DeploymentId, active: &Desired, image: Option<Source>) -> Next {
        self.0.scalers.take_up(id, active);
        let placed = self.place(active, image, &Progress::none()).await;
        let applied = match placed {
            Ok(placement) => self.0.targets.apply(active, &placement).await,
            Err(error) => Err(error),
        };
        match applied {
            Ok(()) => {
                self.nudge_endpoint(id.workspace.clone(), id.endpoint.clone());
                Next::Rest
            }
            Err(error) => ours(id, &error),
        }
    }

    async fn roll_out(
        &self,
        id: &DeploymentId,
        state: &DeploymentState,
        signal: &Signal,
    ) -> Result<Source, Interrupted> {
        let desired = &state.body.desired;
        self.phase(state, "resolve").await;
        self.0.targets.admit(desired).await.map_err(|error| refused(&error))?;
        self.phase(state, Targets::making(desired)).await;
        let placement = tokio::select! {
            placement = self.place_and_tell(state) => placement.map_err(|error| refused(&error))?,
            () = self.superseded(id, state, signal) => return Err(Interrupted::Superseded),
        };
        self.phase(state, "start").await;
        self.0.scalers.take_up(id, desired);
        let placement = Placement { replicas: self.replicas(desired).max(1), ..placement };
        self.0.targets.apply(desired, &placement).await.map_err(|error| refused(&error))?;
        let mut said = Vec::new();
        loop {
            let observation =
                self.0.targets.observe(desired).await.map_err(|error| Interrupted::Ours(chain(&error)))?;
            for note in observation.notes.iter().filter(|note| !said.contains(*note)) {
                self.log(state, note).await;
            }
            said.clone_from(&observation.notes);
            match settled(&observation, &placement) {
                Some(Ok(())) => break,
                Some(Err(failure)) => return Err(Interrupted::Failed(failure)),
                None => {}
            }
            // The target says when something changed; the pause is for a word of it that was lost.
            tokio::select! {
                () = signal.woken() => {}
                () = tokio::time::sleep(super::RETRY) => {}
            }
            if self.generation(id).await != Some(state.generation) {
                return Err(Interrupted::Superseded);
            }
        }
        self.phase(state, "ready").await;
        Ok(placement.source)
    }

    /// [`Reconciler::place`], with the lines of the environment's or the image's making in the operation's log.
    async fn place_and_tell(&self, state: &DeploymentState) -> Result<Placement, TargetError> {
        let desired = &state.body.desired;
        let work = |progress: Progress| async move { self.place(desired, None, &progress).await };
        match &state.body.operation {
            Some(operation) => self.0.operations.tell(operation, work).await,
            None => work(Progress::none()).await,
        }
    }

    /// Returns when another generation is desired.
    async fn superseded(&self, id: &DeploymentId, state: &DeploymentState, signal: &Signal) {
        while self.generation(id).await == Some(state.generation) {
            signal.woken().await;
        }
    }

    /// What is desired now; `None` where it cannot be told.
    async fn generation(&self, id: &DeploymentId) -> Option<u64> {
        self.state(id).await.ok().flatten().map(|state| state.generation)
    }

    /// Makes everything ready that a target needs before it can run `desired`.
    ///
    /// `image` is the image that was made of it before, where one was.
    async fn place(
        &self,
        desired: &Desired,
        image: Option<Source>,
        progress: &Progress,
    ) -> Result<Placement, TargetError> {
        let source = match image {
            Some(image) => image,
            None => self.0.targets.source(&self.0.releases, desired, progress).await?,
        };
        let mut variables = BTreeMap::new();
        for (name, value) in self.0.targets.variables(desired) {
            let variable = match secrets::reference(value) {
                None => Variable::Plain(value.clone()),
                Some(reference) => {
                    secrets::variable(&self.0.store, &desired.id.workspace, &reference).await?
                }
            };
            variables.insert(name.clone(), variable);
        }
        Ok(Placement {
            id: desired.id.clone(),
            release: desired.release.clone(),
            source,
            replicas: self.replicas(desired),
            scale: desired.scale,
            resources: desired.resources,
            scheduling: desired.scheduling.clone(),
            liveness: desired.liveness,
            readiness: desired.readiness,
            variables,
            own_server: own_server(desired),
            machine_devices: None,
            golden: desired.golden.clone(),
        })
    }

    fn replicas(&self, desired: &Desired) -> u32 {
        self.0.scalers.replicas(&desired.id, desired.scale)
    }

    async fn succeed(&self, id: &DeploymentId, state: &DeploymentState, source: Source) -> Next {
        // The route first: who is told that it succeeded may send a request at once.
        if state.body.all_traffic
            && let Err(error) = self.take_all_traffic(id).await
        {
            return ours(id, &error);
        }
        let status = DeploymentStatus::succeeded(state.generation, state.body.desired.clone(), source);
        if let Err(error) = self.settle(id, &status).await {
            return ours(id, &error);
        }
        self.sync_endpoint(&id.workspace, &id.endpoint).await;
        // It moved: the gateway sends the old place nothing any more.
        if let Some(before) = &state.status.active
            && before.runs_on() != state.body.desired.runs_on()
            && let Err(error) = self.0.targets.remove(before).await
        {
            tracing::warn!(deployment = %id, error = chain(&error), "what ran on the former compute could not be removed; the next start of the server does it");
        }
        if let Some(operation) = &state.body.operation {
            self.0.operations.succeed(operation).await;
        }
        tracing::info!(deployment = %id, generation = state.generation, "deployment succeeded");
        // Scaling decides from here on; it was at least one replica that had to show that it starts.
        if self.replicas(&state.body.desired) == 0 { Next::Again } else { Next::Rest }
    }

    async fn fail(&self, id: &DeploymentId, state: &DeploymentState, failure: Failure) -> Next {
        let status = DeploymentStatus {
            settled_generation: state.generation,
            failure: Some(failure.clone()),
            ..state.status.clone()
        };
        if let Err(error) = self.settle(id, &status).await {
            return ours(id, &error);
        }
        tracing::warn!(deployment = %id, reason = failure.reason, "deployment failed");
        if let Some(operation) = &state.body.operation {
            self.0.operations.fail(operation, ErrorClass::Script, &failure.reason, &failure.log).await;
        }
        // What served before goes on: it is applied again, which takes away what of the new one is left.
        if status.active.is_some() { Next::Again } else { Next::Rest }
    }

    async fn settle(&self, id: &DeploymentId, status: &DeploymentStatus) -> Result<(), StoreError> {
        let name = deployment_record_name(&id.endpoint, &id.deployment);
        let status = serde_json::to_value(status).expect("a status has only string keys");
        self.0.store.set_status(&id.workspace, RecordKind::Deployment, &name, status).await
    }

    async fn take_all_traffic(&self, id: &DeploymentId) -> Result<(), StoreError> {
        loop {
            let record =
                self.0.store.record(&id.workspace, RecordKind::Endpoint, id.endpoint.as_str()).await?;
            let Ok(mut body) = serde_json::from_value::<EndpointBody>(record.body) else { return Ok(()) };
            let traffic = serde_json::json!({ id.deployment.as_str(): 100 });
            if body.document["traffic"] == traffic {
                return Ok(());
            }
            body.document["traffic"] = traffic;
            // It was asked for before the rollout was, and comes to be only now.
            if let Some(rollout) = body.rollout.as_mut().filter(|rollout| rollout.under_way()) {
                let reason = format!("deployment `{}` took all traffic", id.deployment);
                rollout.outcome = Some(Outcome::Aborted { reason });
            }
            let body = serde_json::to_value(body).expect("a body has only string keys");
            let updated = self
                .0
                .store
                .update_record(
                    &id.workspace,
                    RecordKind::Endpoint,
                    id.endpoint.as_str(),
                    Some(record.generation),
                    body,
                )
                .await;
            match updated {
                Ok(_) => return Ok(()),
                // Somebody changed the endpoint meanwhile; theirs is kept but for the traffic.
                Err(error) if error.class() == ErrorClass::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn delete(&self, id: &DeploymentId, state: &DeploymentState) -> Next {
        self.phase(state, "drain").await;
        self.0.scalers.forget(id);
        // The gateway stops choosing it before it is drained.
        self.sync_endpoint(&id.workspace, &id.endpoint).await;
        let places = std::iter::once(&state.body.desired).chain(&state.status.active);
        for desired in places {
            if let Err(error) = self.0.targets.remove(desired).await {
                return ours(id, &error);
            }
        }
        let name = deployment_record_name(&id.endpoint, &id.deployment);
        match self.0.store.delete_record(&id.workspace, RecordKind::Deployment, &name).await {
            Ok(()) => {}
            Err(error) if error.class() == ErrorClass::NotFound => {}
            Err(error) => return ours(id, &error),
        }
        if let Some(operation) = &state.body.operation {
            self.0.operations.succeed(operation).await;
        }
        tracing::info!(deployment = %id, "deployment deleted");
        self.nudge_endpoint(id.workspace.clone(), id.endpoint.clone());
        Next::Rest
    }

    async fn phase(&self, state: &DeploymentState, phase: &str) {
        if let Some(operation) = &state.body.operation {
            self.0.operations.phase(operation, phase).await;
        }
    }

    async fn log(&self, state: &DeploymentState, line: &str) {
        if let Some(operation) = &state.body.operation {
            self.0.operations.log(operation, line).await;
        }
    }
}

/// Whether the rollout of this placement has ended, and how; `None` while it has not.
fn settled(observation: &Observation, placement: &Placement) -> Option<Result<(), Failure>> {
    if observation.revision != Some(placement.revision()) {
        return None;
    }
    match observation.phase {
        Phase::Ready => Some(Ok(())),
        Phase::Failed => {
            let unknown = || Failure { reason: "it did not start".to_owned(), log: Vec::new() };
            Some(Err(observation.failure.clone().unwrap_or_else(unknown)))
        }
        Phase::Absent | Phase::Progressing => None,
    }
}

/// A refusal for good is the generation's failure; anything else may work later.
fn refused(error: &TargetError) -> Interrupted {
    match error.class {
        ErrorClass::Unavailable | ErrorClass::Internal | ErrorClass::Timeout => {
            Interrupted::Ours(chain(error))
        }
        _ => Interrupted::Failed(Failure { reason: chain(error), log: error.log.clone() }),
    }
}

fn ours(id: &DeploymentId, error: &(dyn std::error::Error + 'static)) -> Next {
    tracing::warn!(deployment = %id, error = chain(error), "could not reconcile a deployment; it is tried again");
    Next::Retry
}
