//! Which target a deployment means: one exhaustive match, and what each kind of target needs before it can run a
//! release.

use std::{borrow::Cow, fmt, path::Path, sync::Arc};

use moorline_core::{
    DeploymentId, Desired, Environment, ErrorClass, InferenceConfig, LogOptions, LogStream, Manifest,
    ModelType, Observation, Placement, ReleaseModel, Source, Target, TargetError, TargetKind, Variable,
};
use moorline_deploy::{environment::Environments, local::LocalTarget};

use crate::{release::Releases, secrets};

/// The targets of this server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    local: Arc<LocalTarget>,
    environments: Environments,
}

/// Told of every line that the making of an environment prints.
#[derive(Clone)]
pub(crate) struct Progress(Arc<dyn Fn(&str) + Send + Sync>);

impl Progress {
    pub(crate) fn new(line: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(line))
    }

    /// For whom nobody waits.
    pub(crate) fn none() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl Targets {
    pub(crate) fn new(local: Arc<LocalTarget>, environments: Environments) -> Self {
        Self { local, environments }
    }

    fn of(&self, kind: TargetKind) -> Result<&dyn Target, TargetError> {
        match kind {
            TargetKind::Local => Ok(&*self.local),
            TargetKind::Container | TargetKind::Kubernetes | TargetKind::Fpga | TargetKind::Edge => {
                Err(TargetError::new(
                    ErrorClass::Unsupported,
                    format!(
                        "this build runs deployments on computes of type local, and not of type {}",
                        kind.as_str()
                    ),
                ))
            }
        }
    }

    pub(crate) async fn admit(&self, desired: &Desired) -> Result<(), TargetError> {
        self.of(desired.target)?.admit(desired).await
    }

    /// What would be applied, with secrets by reference and the paths that its files would have.
    pub(crate) fn render(&self, releases: &Releases, desired: &Desired) -> Result<Manifest, TargetError> {
        let python = environment_of(desired).map(|environment| self.environments.python(&environment));
        let source = Source::Folder { path: releases.path(&desired.release), python };
        let variables = desired.release.environment_variables.iter().map(|(name, value)| {
            let variable = match secrets::reference(value) {
                None => Variable::Plain(value.clone()),
                Some(reference) => Variable::Secret {
                    reference,
                    version: 0,
                    value: moorline_core::Secret::new(String::new()),
                },
            };
            (name.clone(), variable)
        });
        let placement = Placement {
            id: desired.id.clone(),
            release: desired.release.clone(),
            source,
            replicas: desired.scale.bounds().0.max(1),
            resources: desired.resources,
            liveness: desired.liveness,
            readiness: desired.readiness,
            variables: variables.collect(),
            own_server: own_server(desired),
        };
        self.of(desired.target)?.render(&placement)
    }

    /// Makes what the target reads the release from: its folder and its environment.
    pub(crate) async fn source(
        &self,
        releases: &Releases,
        desired: &Desired,
        progress: Progress,
    ) -> Result<Source, TargetError> {
        match desired.target {
            TargetKind::Local => {
                let python = match environment_of(desired) {
                    Some(environment) => Some(self.python(&environment, progress).await?),
                    None => None,
                };
                let path = releases.ensure(&desired.release).await.map_err(|error| {
                    TargetError::caused(ErrorClass::Internal, "could not lay the release out", error)
                })?;
                Ok(Source::Folder { path, python })
            }
            kind => self.of(kind).map(|_| Source::Folder { path: Path::new("").to_owned(), python: None }),
        }
    }

    async fn python(
        &self,
        environment: &Environment,
        progress: Progress,
    ) -> Result<std::path::PathBuf, TargetError> {
        let built = self.environments.ensure(environment, move |line: &str| (progress.0)(line)).await;
        built.map(|place| place.python).map_err(|error| {
            let log = error.log().to_vec();
            TargetError::caused(error.class(), "could not make the environment", error).with_log(log)
        })
    }

    pub(crate) async fn apply(&self, desired: &Desired, placement: &Placement) -> Result<(), TargetError> {
        self.of(desired.target)?.apply(placement).await
    }

    pub(crate) async fn observe(&self, desired: &Desired) -> Result<Observation, TargetError> {
        self.of(desired.target)?.observe(&desired.id).await
    }

    pub(crate) async fn logs(
        &self,
        desired: &Desired,
        options: LogOptions,
    ) -> Result<LogStream, TargetError> {
        self.of(desired.target)?.logs(&desired.id, options).await
    }

    /// Removes the deployment wherever it runs.
    pub(crate) async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        self.local.remove(id).await
    }

    /// Tells the targets which deployments there are: what runs for any other is stopped.
    pub(crate) async fn settle(&self, known: &[DeploymentId]) {
        self.local.settle(known).await;
    }

    /// Ends what runs on this machine; with `keep` it runs on, and is adopted by the next server.
    pub(crate) async fn shutdown(&self, keep: bool) {
        self.local.shutdown(keep).await;
    }
}

/// The routes of an image that brings its own server.
pub(crate) fn own_server(desired: &Desired) -> Option<InferenceConfig> {
    desired.environment.as_ref().and_then(|environment| environment.inference_config.clone())
}

/// The environment that a release's Python runs in; `None` where it has none.
fn environment_of(desired: &Desired) -> Option<Cow<'_, Environment>> {
    let mlflow = |model: &ReleaseModel| model.model_type == ModelType::MlflowModel;
    let needed = desired.release.code.is_some() || desired.release.model.as_ref().is_some_and(mlflow);
    needed.then(|| match &desired.environment {
        Some(environment) => Cow::Borrowed(environment),
        None => Cow::Owned(Environment::default()),
    })
}
