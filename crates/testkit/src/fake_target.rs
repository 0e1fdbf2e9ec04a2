//! A target in memory: replicas are ready as soon as they are asked for, or when the test says so.

use std::{
    collections::HashMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use moorline_core::{
    DeploymentId, Desired, ErrorClass, Failure, LogOptions, LogStream, Manifest, Observation, Phase,
    Placement, Probe, Release, Replica, ReplicaAddress, ReplicaState, Resources, Source, Target, TargetError,
    Variable,
};
use serde_json::json;

/// Runs nothing, and says that it does.
pub struct FakeTarget {
    state: Mutex<State>,
    on_change: Box<dyn Fn(DeploymentId) + Send + Sync>,
}

#[derive(Default)]
struct State {
    deployments: HashMap<DeploymentId, Deployment>,
    held: bool,
    started: u64,
    address: Option<ReplicaAddress>,
}

struct Deployment {
    placement: Placement,
    replicas: Vec<Replica>,
    failure: Option<Failure>,
    log: Vec<String>,
    applied: usize,
}

impl fmt::Debug for FakeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeTarget")
    }
}

impl Default for FakeTarget {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl FakeTarget {
    /// Tells of every change.
    pub fn new(on_change: impl Fn(DeploymentId) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), on_change: Box::new(on_change) }
    }

    /// Replicas that start from now on say that they listen here.
    pub fn listen_at(&self, address: ReplicaAddress) {
        self.state().address = Some(address);
    }

    /// From now on nothing becomes ready.
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Lets what was held go on.
    pub fn release(&self) {
        let ids: Vec<DeploymentId> = {
            let mut state = self.state();
            state.held = false;
            state.deployments.keys().cloned().collect()
        };
        for id in &ids {
            self.go_on(id);
        }
    }

    /// How often a deployment was applied since it was made.
    pub fn applied(&self, id: &DeploymentId) -> usize {
        self.state().deployments.get(id).map_or(0, |deployment| deployment.applied)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_on(&self, id: &DeploymentId) {
        self.state().go_on(id);
        (self.on_change)(id.clone());
    }
}

impl State {
    fn go_on(&mut self, id: &DeploymentId) {
        let Self { deployments, held, started, address } = self;
        let Some(deployment) = deployments.get_mut(id).filter(|_| !*held) else { return };
        let placement = &deployment.placement;
        let revision = placement.revision();
        if placement.replicas > 0
            && let Some(reason) = obstacle(placement)
        {
            deployment.log.push(format!("error: {reason}"));
            deployment.failure = Some(Failure { reason, log: deployment.log.clone() });
            return;
        }
        deployment.replicas.retain(|replica| replica.revision == revision);
        deployment.replicas.truncate(placement.replicas as usize);
        while deployment.replicas.len() < placement.replicas as usize {
            *started += 1;
            let id = format!("{:08x}", *started);
            deployment.log.push(format!("[{id}] ready"));
            let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            deployment.replicas.push(Replica {
                id,
                revision,
                state: ReplicaState::Ready,
                address: Some(address.unwrap_or(ReplicaAddress { data: nowhere, admin: nowhere })),
                restarts: 0,
            });
        }
    }
}

impl Deployment {
    fn observation(&self) -> Observation {
        let revision = self.placement.revision();
        let current = self.replicas.iter().filter(|replica| replica.revision == revision).count();
        let phase = match &self.failure {
            Some(_) => Phase::Failed,
            None if current == self.placement.replicas as usize && current == self.replicas.len() => {
                Phase::Ready
            }
            None => Phase::Progressing,
        };
        Observation {
            phase,
            revision: Some(revision),
            replicas: self.replicas.clone(),
            failure: self.failure.clone(),
        }
    }
}

/// What would keep a scorer from starting.
fn obstacle(placement: &Placement) -> Option<String> {
    let Source::Folder { path, .. } = &placement.source else { return None };
    let model = placement.release.model.as_ref()?;
    let files = model.files.iter().map(|file| path.join(Release::MODEL_DIR).join(&file.path));
    let missing = files.into_iter().find(|file| !file.is_file())?;
    Some(format!("`{}` is missing; release.json lists it", missing.display()))
}

fn check(resources: Resources, probes: [Probe; 2], replicas: u32) -> Result<(), TargetError> {
    let refusal = if resources.memory_bytes.is_some_and(|bytes| bytes < 1024) {
        "the limit of memory is too low"
    } else if probes.iter().any(|probe| probe.failure_threshold == 0) {
        "a probe's failure_threshold must be 1 at least"
    } else if replicas > 1000 {
        "there are too many replicas"
    } else {
        return Ok(());
    };
    Err(TargetError::new(ErrorClass::InvalidInput, refusal))
}

#[async_trait]
impl Target for FakeTarget {
    async fn admit(&self, desired: &Desired) -> Result<(), TargetError> {
        check(desired.resources, [desired.liveness, desired.readiness], desired.scale.bounds().1)
    }

    fn render(&self, placement: &Placement) -> Result<Manifest, TargetError> {
        check(placement.resources, [placement.liveness, placement.readiness], placement.replicas)?;
        let variables: serde_json::Map<_, _> = placement
            .variables
            .iter()
            .map(|(name, variable)| {
                let shown = match variable {
                    Variable::Plain(value) => value.clone(),
                    Variable::Secret { reference, .. } => format!("secret:{reference}"),
                };
                (name.clone(), shown.into())
            })
            .collect();
        let document = json!({
            "kind": "fake",
            "deployment": placement.id.to_string(),
            "revision": placement.revision(),
            "replicas": placement.replicas,
            "environment": variables,
        });
        Ok(Manifest { documents: vec![document] })
    }

    async fn apply(&self, placement: &Placement) -> Result<(), TargetError> {
        self.render(placement)?;
        {
            let mut state = self.state();
            let deployment = state.deployments.entry(placement.id.clone()).or_insert_with(|| Deployment {
                placement: placement.clone(),
                replicas: Vec::new(),
                failure: None,
                log: Vec::new(),
                applied: 0,
            });
            if deployment.placement.revision() != placement.revision() {
                deployment.failure = None;
            }
            deployment.placement = placement.clone();
            deployment.applied += 1;
        }
        self.go_on(&placement.id);
        Ok(())
    }

    async fn observe(&self, id: &DeploymentId) -> Result<Observation, TargetError> {
        Ok(self.state().deployments.get(id).map_or_else(Observation::absent, Deployment::observation))
    }

    async fn logs(&self, id: &DeploymentId, options: LogOptions) -> Result<LogStream, TargetError> {
        let mut lines = self.state().deployments.get(id).map(|own| own.log.clone()).unwrap_or_default();
        if let Some(replica) = &options.replica {
            lines.retain(|line| line.contains(replica));
        }
        let surplus = options.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
        let chunks = lines.split_off(surplus).into_iter().map(|line| Ok(Bytes::from(line + "\n")));
        Ok(Box::pin(stream::iter(chunks)))
    }

    async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        if self.state().deployments.remove(id).is_some() {
            (self.on_change)(id.clone());
        }
        Ok(())
    }
}

/// A target as a trait object, for suites.
impl From<FakeTarget> for Arc<dyn Target> {
    fn from(target: FakeTarget) -> Self {
        Arc::new(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TestRelease, deployment, target_conformance};

    #[tokio::test]
    async fn the_fake_target_obeys_the_laws() {
        target_conformance(async || FakeTarget::default().into()).await;
    }

    #[tokio::test]
    async fn what_is_held_progresses_until_it_is_released() {
        let target = FakeTarget::default();
        let release = TestRelease::double(1);
        let id = deployment("held", "blue");
        target.hold();
        target.apply(&release.placement(&id, 1)).await.unwrap();
        assert_eq!(target.observe(&id).await.unwrap().phase, Phase::Progressing);
        target.release();
        assert_eq!(target.observe(&id).await.unwrap().phase, Phase::Ready);
        assert_eq!(target.applied(&id), 1);
    }
}
